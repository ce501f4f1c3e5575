"""Compile seconds: counted apart, cold and warm told from one another, kept from run to run."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from perf.bench import precompile
from perf.measure import compiling as measured
from perf.measure import machine
from perf.measure.compiling import Ledger, compiling
from perf.workloads.workload import Workload

ROOT = Path(__file__).parents[2]
FLEX = Workload("attention", "softmax", "flex", "forward", True, 1, 2, 2, 64, 64, 16, "fp32")

COMPILE = """
import torch
from perf.measure.compiling import compiling

with compiling() as found:
    torch.compile(lambda x: (x.sin() + 1).cos())(torch.randn(8))
with compiling() as nothing:
    torch.randn(8).sin()
print(found.seconds > 0.05, found.graphs, found.cold, nothing.figures())
"""


@pytest.mark.slow  # compiles C++
def test_cold_the_first_time_and_warm_the_next(tmp_path):
    """Two processes that share a cache."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def run() -> str:
        done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True,
                              timeout=300, check=True)
        return done.stdout.strip()

    assert run() == "True 1 True {}"
    assert run() == "True 1 False {}"


def test_nothing_compiled_is_no_figure():
    with compiling() as result:
        torch.randn(3).sin()
    assert result.figures() == {}


def test_a_reset_meanwhile_takes_nothing_off(monkeypatch):
    """The shape before is forgotten while the next is prepared, and its seconds with it: they were subtracted once."""
    torch.compile(lambda x: (x.sin() + 1).cos(), backend="eager")(torch.randn(8))
    assert measured._so_far()[0] > 0
    with compiling() as result:
        measured.forget()
        torch.compile(lambda x: x.cos() + 2, backend="eager")(torch.randn(8))
    assert result.seconds == measured._so_far()[0] > 0
    assert result.graphs == 1


def test_the_ledger_keeps_both(tmp_path):
    ledger = Ledger(tmp_path / "deep")
    assert ledger.add("one", {}) == {}
    ledger.add("one", {"cold": 20.0, "graphs": 1})
    again = Ledger(tmp_path / "deep")
    assert again.add("one", {"warm": 0.4, "graphs": 1}) == {"cold": 20.0, "warm": 0.4, "graphs": 1}
    assert Ledger(tmp_path / "deep").add("one", {}) == {"cold": 20.0, "warm": 0.4, "graphs": 1}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99, "compiled": {}}'])
def test_a_broken_ledger_starts_anew(tmp_path, text):
    Ledger(tmp_path).path.write_text(text)
    assert Ledger(tmp_path).known == {}
    assert machine.identity() in Ledger(tmp_path).path.name


def test_nothing_is_compiled_ahead_on_a_cpu(monkeypatch):
    monkeypatch.setattr(precompile, "_start", lambda workloads, device: pytest.fail("a worker was started"))
    assert precompile.precompile([FLEX] * 3, torch.device("cpu")) == ({}, [])


class Worker:
    def __init__(self, out: str, errors: str, returncode: int) -> None:
        self.told, self.returncode = (out, errors), returncode

    def communicate(self) -> tuple[str, str]:
        return self.told


def test_workers_share_the_shapes_and_a_failed_one_is_told(monkeypatch):
    shares: list[list[Workload]] = []
    workers = [Worker(f'a warning\n{{"{FLEX.id}": {{"cold": 3.0, "graphs": 1}}}}\n', "", 0),
               Worker("", "Traceback\nRuntimeError: no compiler\n", 1)]

    def start(workloads: list[Workload], device: torch.device) -> Worker:
        shares.append(workloads)
        return workers[len(shares) - 1]

    monkeypatch.setattr(precompile, "_start", start)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    lengths = (64, 128, 256)
    workloads = [Workload(**{**FLEX.__dict__, "n": n, "m": n, "phase": phase})
                 for n in lengths for phase in ("forward", "backward")]
    result, failed = precompile.precompile(workloads, torch.device("cuda"))
    assert result == {FLEX.id: {"cold": 3.0, "graphs": 1}}
    assert len(failed) == 1
    assert "RuntimeError: no compiler" in failed[0]
    assert sorted(w.id for share in shares for w in share) == sorted(w.id for w in workloads)
    assert all(len({w.n for w in share} & {w.n for w in other}) == 0 for share, other in [shares])  # by shape
