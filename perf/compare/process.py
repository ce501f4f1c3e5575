"""A worker as its parent sees it: a process that answers requests, dies or hangs."""
from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perf.compare import worker
from perf.compare.nursery import Forked, Nursery
from perf.compare.side import INJECT, Side
from perf.measure.nvml import FAMILY
from perf.system.tools import ending, last_line

WORKER = worker.__name__
ITS_WORKER = "its worker"  # how the reason of one that died begins
QUIT = 2.0  # seconds to go by itself
LAST = 2 ** 14  # bytes of what it wrote to stderr
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

# glibc gives freed memory back to the kernel or keeps it, as the heap happens to lie: the same eager attention took 17
# or 32 ms a call, by process (page faults). Like a GPU's allocator it keeps all here: no mmap, no trimming.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2 ** 62), "MALLOC_TOP_PAD_": str(2 ** 26)}


class Died(ValueError):
    """Is raised for a worker that ended or did not answer; `side` is "base", "head" or "both"."""

    def __init__(self, side: str, reason: str) -> None:
        super().__init__(f"{side}: {reason}")
        self.side, self.reason = side, reason


class Process:
    """Is the worker of one side, "base" or "head", started afresh or forked by `nursery`. It and what it starts are a
    session of their own, and go together."""

    def __init__(self, role: str, side: Side, device: str, nursery: Nursery | None = None) -> None:
        self.side = role
        self._errors, name = tempfile.mkstemp(prefix="perf-worker-")
        os.unlink(name)
        environment = variables(role, side, device)
        self._process: subprocess.Popen[bytes] | Forked = nursery.worker(
            [device], side.folder, environment, self._errors) if nursery else subprocess.Popen(
            [side.python, "-m", WORKER, device], cwd=side.folder, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True)
        self._waiting = selectors.DefaultSelector()
        self._waiting.register(self._out, selectors.EVENT_READ)
        self._read = b""
        self.pid = self._process.pid

    @property
    def _out(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def send(self, **request: Any) -> None:
        """Raises Died."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise Died(self.side, self._last_words()) from None

    def receive(self, limit: float) -> dict[str, Any]:
        """Waits for the answer to what was sent, and returns it. Raises Died after `limit` seconds without one."""
        end = time.monotonic() + limit
        while b"\n" not in self._read:
            if not self._waiting.select(max(0.0, end - time.monotonic())):
                raise Died(self.side, f"{ITS_WORKER} gave no answer in {limit:.0f} s")
            read = os.read(self._out, 2 ** 16)
            if not read:
                raise Died(self.side, self._last_words())
            self._read += read
        answer, _, self._read = self._read.partition(b"\n")
        return json.loads(answer)

    def ask(self, limit: float, **request: Any) -> dict[str, Any]:
        self.send(**request)
        return self.receive(limit)

    def _last_words(self) -> str:
        """Says how it ended, with the last line that it wrote to stderr."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(QUIT)
        status = self._process.returncode
        size = os.fstat(self._errors).st_size
        words = last_line(os.pread(self._errors, LAST, max(0, size - LAST)).decode(errors="replace"), "")
        how = "it is still alive" if status is None else ending(status)
        return f"{ITS_WORKER} died ({how}){f': {words}' if words else ''}"

    def close(self) -> None:
        """Ends it, and waits until it is gone."""
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(OSError):
                self._process.stdin.write(b'{"quit": true}\n')
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(QUIT)
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends it at once, if it has not ended, and waits until it is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._waiting.close()
        os.close(self._errors)


def variables(role: str, side: Side, device: str) -> dict[str, str]:
    """Gives the environment variables of a side's worker. A fault is put into the head only."""
    settings = {worker.STATE: str(Path(".perf").absolute()), **side.variables(), "TORCHINDUCTOR_COMPILE_THREADS": "1",
             FAMILY: str(os.getpid())}
    if device == "cpu":
        settings |= ONE_THREAD | KEEP_MEMORY
    if role == "base":
        settings.pop(INJECT, None)
    return settings


def both(base: Process, head: Process, limit: float, **request: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Returns both answers to a request that the two work on at the same time. Raises Died, of side "both" if both
    did."""
    answers: list[Mapping[str, Any]] = []
    dead: list[Died] = []
    for step in (lambda process: process.send(**request), lambda process: answers.append(process.receive(limit))):
        for process in (base, head):
            if process.side in [error.side for error in dead]:
                continue
            try:
                step(process)
            except Died as error:
                dead.append(error)
    if dead:
        raise dead[0] if len(dead) == 1 else Died("both", dead[1].reason)
    return answers[0], answers[1]
