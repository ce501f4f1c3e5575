"""A worker that takes what is in behaviour.json for its answers; it stands alone, in the folder of its side.

The machine gets slower with each turn of either side.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Worker:
    """Gives the answers of a script, by kind of request, or by kind and length for one benchmark alone; of a list one
    after the other."""

    def __init__(self, here: Path) -> None:
        self.here, self.shared = here, here.parent
        self.told: dict[str, Any] = json.loads((here / "behaviour.json").read_text())
        self.n = self.turn = 0

    def serve(self) -> None:
        for line in sys.stdin:
            request = json.loads(line)
            kind = next(iter(request))
            if kind == "quit" and not self.told.get("stays"):
                break
            begun = time.monotonic()
            self.n = request["prepare"]["n"] if kind == "prepare" else self.n
            answer = self.does(kind) or self.answer(kind, request)
            with (self.shared / "log").open("a") as file:
                entry = [self.here.name, kind, self.n, begun, time.monotonic(), request.get("check"), answer]
                file.write(json.dumps(entry) + "\n")
            print(json.dumps(answer), flush=True)

    def does(self, kind: str) -> Any:
        """Answers as the script says, unless that says to fail."""
        does = self.told.get(f"{kind} {self.n}", self.told.get(kind))
        if isinstance(does, list):
            does = does.pop(0) if does else None
        if does == "die":
            print("a line before", file=sys.stderr)
            sys.exit("the last line")
        if does == "kill":
            os.kill(os.getpid(), 9)
        if does == "hang":
            child = subprocess.Popen(["sleep", "100"])
            (self.shared / "pids").write_text(f"{os.getpid()} {child.pid}")
            time.sleep(100)
        if does == "slow":
            time.sleep(4)
            return None
        return does

    def answer(self, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        if kind == "rounds":
            return {"seconds": [self.seconds()] * request["rounds"]}
        if kind == "launches":
            return {"seconds": [self.told["host"]] * request["launches"]}
        clock = self.told.get("clock", "graph") if request.get("graph", True) else "events"
        answers: dict[str, dict[str, Any]] = {
            "prepare": {"ready": True, "counters": {"operators": 3}, "error": 1e-6, "peak_bytes": 8},
            "plan": {"seconds": 0.02, "iterations": 1, "clock": clock, "host": self.told.get("host")},
            "state": {"unfit": None, "imports": ["json"]}, "release": {}}
        return answers[kind]

    def seconds(self) -> float:
        """Returns the seconds of a round in this turn."""
        time.sleep(0.002)
        turns = self.shared / "turns"
        done = int(turns.read_text()) if turns.exists() else 0
        turns.write_text(str(done + 1))
        disturbed = self.turn in self.told.get("disturbed", [])
        self.turn += 1
        return self.told.get("seconds", 0.02) * (1 + self.told.get("drift", 0) * done) * (10 if disturbed else 1)


if __name__ == "__main__":
    Worker(Path.cwd()).serve()
