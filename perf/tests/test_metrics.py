"""A GPU's own counters are read through a fake of ncu, for no CPU has them."""
from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from perf.bench import profile
from perf.compare import metrics
from perf.compare.metrics import explain, parse, read
from perf.compare.pairs import Case
from perf.compare.side import ROOT, Side
from perf.policy.thresholds import Thresholds
from perf.tests.sides import SIDE, around, with_counter
from perf.workloads.workload import BARE, Workload

W = Workload(BARE, "softmax", "sdpa", "forward", True, 1, 2, 2, 64, 64, 16, "fp32")
HEADER = ("ID", "Process ID", "Kernel Name", *metrics.METRICS)


def row(number: object, kernel: str, **values: object) -> str:
    known = {"nanoseconds": 0, "instructions": 0, "dram": 0, "l2": 0, "dram_busy": 0, "l2_busy": 0, "occupancy": 0,
             "l2_hits": 0} | values
    return ",".join(f'"{field}"' for field in (number, 9, kernel, *known.values()))


MARK = row(0, "at::cuda::spin_kernel(long)", nanoseconds=9)
OUTPUT = "\n".join([
    "==PROF== Connected to process 9", "a warning of the child's", ",".join(f'"{name}"' for name in HEADER),
    row("", "", nanoseconds="ns"), MARK,
    row(1, "void f<float, 3>(int)", nanoseconds="1,000", instructions=50, dram=10, l2=30, dram_busy=10, occupancy=20),
    row(2, "softmax", nanoseconds=3000, instructions=7, l2=10, dram_busy=50, occupancy=60, l2_hits=40), MARK,
    row(4, "softmax", nanoseconds=5, instructions="n/a", occupancy=60)])


@pytest.fixture
def ncu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Installs an ncu that notes its arguments and its folder, and prints what a file says."""
    tool = tmp_path / "ncu"
    tool.write_text(f"#!{sys.executable}\nimport json, os, pathlib, sys, time\nhere = pathlib.Path(__file__).parent\n"
                    "(here / 'asked').write_text(json.dumps([*sys.argv[1:], os.getcwd()]))\n"
                    "print((here / 'output').read_text(), flush=True)\n"
                    "time.sleep(60 * (here / 'hangs').exists())\n")
    tool.chmod(0o755)
    (tmp_path / "output").write_text(OUTPUT)
    monkeypatch.setattr(profile, "find", lambda tool_name: str(tool))
    return tmp_path


def test_kernels_are_summed_by_call():
    first, second = parse(OUTPUT)
    assert first == {"nanoseconds": 4000, "instructions": 57, "dram": 10, "l2": 40, "dram_busy": 40, "l2_busy": 0,
                     "occupancy": 50, "l2_hits": 10}
    assert "instructions" not in second
    assert second["occupancy"] == 60
    assert parse("==ERROR== no") == []


def test_ncu_starts_a_process_of_the_side(ncu: Path):
    assert read([W, W], Side(ROOT, "the base"), "cuda") == parse(OUTPUT)
    *asked, folder = json.loads((ncu / "asked").read_text())
    assert folder == str(ROOT)
    assert asked == [*metrics.ARGUMENTS, sys.executable, "-m", "perf.bench.profile", "cuda", *2 * [
        json.dumps(asdict(W))]]


@pytest.mark.parametrize(("output", "said"), [
    ("==PROF== on\n==ERROR== ERR_NVGPUCTRPERM - The user\nbye", "==ERROR== ERR_NVGPUCTRPERM - The user"),
    ("error: no CUDA GPU here", "error: no CUDA GPU here")])
def test_why_ncu_tells_nothing_is_said(ncu: Path, output: str, said: str, monkeypatch: pytest.MonkeyPatch):
    (ncu / "output").write_text(output)
    with pytest.raises(ValueError, match=f"^{said}$"):
        read([W], Side(ROOT, "the base"), "cuda")
    monkeypatch.setattr(profile, "find", lambda tool_name: None)
    with pytest.raises(ValueError, match=r"^it is not installed$"):
        read([W], Side(ROOT, "the base"), "cuda")


def test_an_ncu_that_hangs_is_ended(ncu: Path, monkeypatch: pytest.MonkeyPatch):
    (ncu / "hangs").touch()
    monkeypatch.setattr(metrics, "SECONDS", 0.3)
    with pytest.raises(ValueError, match=r"^no answer in 0 s$"):
        read([W], Side(ROOT, "the base"), "cuda")


def case(slower: float, **fields: int) -> Case:
    head = with_counter(SIDE, **fields)
    return Case(Thresholds(), workload=replace(W, n=64 + len(fields)), base=SIDE, head=head,
                ratios=around(slower, 0.01))


def test_only_what_regressed_for_no_clear_reason_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def reading(workloads, side, device):
        asked.append((side.name, workloads, device))
        return [{"nanoseconds": 2.0 if side.name == "head" else 1.0, "instructions": 6.0}] * len(workloads)

    monkeypatch.setattr(metrics, "read", reading)
    slow, more, same = case(0.3), case(0.3, launches=9), case(0.0)
    base, head = Side(ROOT, "base"), Side(ROOT, "head")
    explain([same, more, slow], base, head, "cuda")
    assert asked == [("base", [W], "cuda"), ("head", [W], "cuda")]
    assert (slow.base.metrics["nanoseconds"], slow.head.metrics["nanoseconds"]) == (1.0, 2.0)
    assert slow.verdict().cause == "instructions"
    assert "1x the instructions wait longer" in slow.verdict().why
    assert more.head.metrics == same.head.metrics == {}
    explain([same, more], base, head, "cuda")
    assert len(asked) == 2


def test_the_sentence_says_why_nothing_was_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(profile, "find", lambda tool_name: None)
    slow, model = case(0.3), case(0.3)
    model.base = model.head = with_counter(SIDE, launches=metrics.LAUNCHES + 1)
    explain([slow, model], Side(ROOT, "base"), Side(ROOT, "head"), "cuda")
    assert slow.verdict().why.endswith("nothing that is counted moved; ncu tells nothing: it is not installed")
    assert model.verdict().why.endswith("a call of more than 64 launches is not shown to ncu")
    assert slow.verdict().cause is None
