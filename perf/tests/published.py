"""A small repository and its history, written by asv's own code: two GPUs, two versions of torch, one step up."""
from __future__ import annotations

import itertools
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asv.benchmarks import Benchmarks
from asv.machine import Machine
from asv.results import Results
from asv.runner import BenchmarkResult
from asv.util import write_json

from perf.compare.record import Comparison, Failed, Finding, Step
from perf.history.series import FIGURES, VERSION, Series, common, series
from perf.tests.repositories import START, git
from perf.workloads.workload import Workload

COMMITS = 16
SLOW_FROM = 9  # this commit makes softmax:fa2 at n = 2048 slower
DAY = 86_400
UPGRADE = 4  # the first commit measured with the newer torch
NOTHING = 12  # nothing could be measured at this commit
STEP = 1.4
H200, CPU = "nvidia-h200-1a2b3c", "amd-epyc-4d5e6f"
MACHINES = {
    H200: {"arch": "x86_64", "os": "Linux", "cpu": "AMD EPYC", "num_cpu": "16", "gpu": "NVIDIA H200"},
    CPU: {"arch": "x86_64", "os": "Linux", "cpu": "AMD EPYC", "num_cpu": "2"},
}
CONFIG = {"version": 1, "project": "attention-perf", "project_url": "#", "show_commit_url": "#", "repo": ".",
          "branches": ["HEAD"], "results_dir": "results", "html_dir": "html"}
SOFTMAX = [Workload("attention", "softmax", backend, "forward", True, 16384 // n, 16, 16, n, n, 128, "bf16")
           for backend in ("eager", "sdpa", "fa2", "flex") for n in (1024, 2048, 4096, 8192)]
OTHERS = [Workload("attention", "alibi", "fa2", "forward", True, 8, 16, 16, 2048, 2048, 128, "bf16"),
          Workload("distilgpt2", "softmax", "sdpa", "decode", True, 8, 12, 12, 1, 256, 64, "bf16"),
          Workload("vit-b16", "softmax", "sdpa", "forward", False, 32, 12, 12, 197, 197, 64, "bf16")]
ON_CPU = [Workload("attention", "softmax", backend, "forward", True, 1, 8, 8, n, n, 64, "fp32")
          for backend in ("eager", "sdpa") for n in (512, 1024)]


def seconds(w: Workload, commit: int) -> float:
    """Returns a made-up time, a little different at every commit."""
    rate = {"eager": 2e13, "sdpa": 4e14, "fa2": 3e14, "flex": 3.5e14}[w.backend] * (w.n / 8192) ** 0.2
    slow = STEP if (w.backend, w.function, w.n) == ("fa2", "softmax", 2048) and commit >= SLOW_FROM else 1
    wobble = 1 + 0.004 * math.sin(7.3 * commit + w.n)
    return (w.flops or 1e9) / rate * slow * wobble * (100 if w.dtype == "fp32" else 1)


def repository(folder: Path) -> list[str]:
    """Returns a repository of `COMMITS` commits in `folder`, a day apart; their hashes, the oldest first."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    hashes = []
    for number in range(COMMITS):
        (folder / "file").write_text(f"{number}\n")
        git(folder, "add", "file")
        git(folder, "commit", "--quiet", "--message", f"change {number} <b>&amp;", when=START + number * DAY)
        hashes.append(git(folder, "rev-parse", "HEAD"))
    return hashes


def history(folder: Path, hashes: list[str]) -> Path:
    """Returns asv's results of the commits in `folder`/results."""
    results = folder / "results"
    benchmarks: dict[str, Any] = {}
    for machine, workloads in ((H200, [*SOFTMAX, *OTHERS]), (CPU, ON_CPU)):
        write_json(str(results / machine / "machine.json"), {"machine": machine, **MACHINES[machine]},
                   Machine.api_version)
        result = series(workloads)
        listed = {(one.benchmark, figure): _benchmark(one, figure) for one in result.values()
                  for figure in ("time_call", "track_peak_bytes", "track_error")}
        benchmarks |= {entry["name"]: entry for entry in listed.values()}
        for number, commit in enumerate(hashes):
            if machine == CPU and number % 2:
                continue
            torch = "2.11.0" if number >= UPGRADE else "2.10.0"
            record = Results({"machine": machine, **MACHINES[machine], "python": "3.12", "torch": torch},
                             {"torch": torch}, commit, 1000 * (START + number * DAY), "3.12",
                             f"links-py3.12-torch{torch}", {})
            for one in result.values():
                cells = {one.index(w): w for w in workloads if common(w) in result and result[common(w)] is one}
                for figure in ("time_call", "track_peak_bytes", "track_error"):
                    record.add_result(listed[one.benchmark, figure], _result(one, cells, figure, number),
                                      datetime.fromtimestamp(START + number * DAY + 3600, UTC), 1.0,
                                      selected_idx=list(cells))
            record.save(str(results))
    write_json(str(results / "benchmarks.json"), benchmarks, Benchmarks.api_version)
    return results


def _benchmark(one: Series, figure: str) -> dict[str, Any]:
    return {"name": f"{one.benchmark}.{figure}", "code": "", "version": VERSION, "unit": FIGURES[figure],
            "type": "time" if figure == "time_call" else "track", "param_names": list(one.axes),
            "params": [[repr(value) for value in values] for values in one.axes.values()]}


def _result(one: Series, cells: dict[int, Workload], figure: str, commit: int) -> BenchmarkResult:
    size = len(list(itertools.product(*one.axes.values())))
    values: list[Any] = [math.nan] * size
    samples: list[Any] = [None] * size
    for index, w in cells.items():
        if commit == NOTHING:
            values[index] = None
            continue
        if figure == "time_call":
            middle = seconds(w, commit)
            samples[index] = [middle * (1 + 0.002 * k) for k in range(-3, 4)]
        values[index] = {"time_call": seconds(w, commit), "track_peak_bytes": 10 ** 6 * w.n,
                         "track_error": 0.25}[figure]
    return BenchmarkResult(values, samples, [1 if s else None for s in samples], 0, "", None)


WORDS: dict[str, dict[str, Any]] = {
    "wrong": {}, "invalid": {}, "missing": {},
    "inconclusive": {"base": 1e-3, "head": 1.01e-3, "ratio": 1.01, "low": 0.97, "high": 1.05, "pairs": 8},
    "improved": {"base": 2e-3, "head": 1e-3, "ratio": 0.5, "low": 0.49, "high": 0.51, "pairs": 4},
    "new": {}, "ok": {"base": 1e-3, "head": 1e-3, "ratio": 1.001, "low": 0.998, "high": 1.003, "pairs": 6},
    "unchanged": {}, "skipped": {},
}


def night(hashes: list[str], **fields: Any) -> Comparison:
    """Returns the last commit against the one before the step, on the H200: every verdict once, and a commit that
    failed."""
    slow = next(w for w in SOFTMAX if (w.backend, w.n) == ("fa2", 2048))
    samples = tuple((commit, seconds(slow, number)) for number, commit in enumerate(hashes))
    base, head = seconds(slow, SLOW_FROM - 1), seconds(slow, COMMITS - 1)
    findings = [Finding(slow.id, "time", "seconds", "regressed", base, head, STEP, 1.391, 1.412, 12,
                        "regressed: 40.2 % slower [39.1, 41.2], 12 pairs", 0.012, hashes[SLOW_FROM], "Ada Example",
                        f"change {SLOW_FROM} <b>&amp;", samples)]
    others = (w for w in [*SOFTMAX, *OTHERS] if w != slow)
    findings += [Finding(w.id, "time", "seconds", word, why=f"said of {word} <i>", **numbers)
                 for w, (word, numbers) in zip(others, WORDS.items(), strict=False)]
    result: dict[str, Any] = {
            "time": START + COMMITS * DAY, "machine": "1a2b3c4d5e6f", "environment": "links-py3.12-torch2.11.0",
            "fingerprint": {"gpus": ["NVIDIA H200"], "torch": "2.11.0", "cuda": "13.0", "driver": "580.1"},
            "base": hashes[SLOW_FROM - 1], "head": hashes[-1], "command": "python -m perf nightly --resume",
            "findings": tuple(findings), "failed": (Failed(hashes[NOTHING], "the GPU fell off the bus <u>"),),
            "vanished": ("softmax:gone-forward",), "notes": ("one finding: look for what they share",),
            "steps": (Step("tests", "ok", None, 60.0), Step("bisect", "failed", "no time was left", 1800.0))}
    return Comparison(**result | fields)


def tree(folder: Path) -> list[str]:
    """Returns a repository with a history and last night's record; its commits."""
    hashes = repository(folder)
    history(folder, hashes)
    night(hashes).save(folder / "nights" / "last.json")
    return hashes
