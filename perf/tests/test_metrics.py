"""A GPU's own counters are read through a fake of ncu, for no CPU has them."""
from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from perf.bench import profile
from perf.compare import metrics, pairs
from perf.compare.metrics import explain, parse, read
from perf.compare.pairs import Case
from perf.compare.side import ROOT, Side
from perf.policy.thresholds import Thresholds
from perf.run.revision import Against
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
    assert parse("==ERROR== no") == parse('"a word","in quotes"\n"1","2"') == []
    assert parse(f"{OUTPUT.splitlines()[2]}\n\"1\"") == [{}]  # a line that was cut


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


def case(slower: float, n: int = 64, **counters: int) -> Case:
    side = with_counter(SIDE, **counters)
    return Case(Thresholds(), workload=replace(W, n=n), base=side, head=side, ratios=around(slower, 0.01))


def test_the_slowest_of_few_launches_are_read_on_both_sides(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def reading(workloads, side, device):
        asked.append((side.name, [w.n for w in workloads], device))
        return [{"nanoseconds": 2.0 if side.name == "head" else 1.0, "instructions": 6.0}] * len(workloads)

    monkeypatch.setattr(metrics, "read", reading)
    monkeypatch.setattr(metrics, "MOST", 2)
    slower = {1: 0.3, 2: 0.1, 3: 0.5, 4: 0.9}
    cases = [case(change, n, launches=metrics.LAUNCHES + (n == 4)) for n, change in slower.items()]
    assert all(one.unclear for one in cases)
    explain(cases, Side(ROOT, "base"), Side(ROOT, "head"), "cuda")
    assert asked == [("base", [3, 1], "cuda"), ("head", [3, 1], "cuda")]
    for one in (cases[0], cases[2]):
        assert one.verdict().cause == "instructions"
        assert "likely from instructions: 1x the instructions wait longer" in one.verdict().why
    for one in (cases[1], cases[3]):
        assert one.verdict().why.endswith("ncu was asked about the 2 slowest calls of at most 64 launches")
    explain([], Side(ROOT, "base"), Side(ROOT, "head"), "cuda")
    assert len(asked) == 2


def test_the_sentence_says_why_nothing_was_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(profile, "find", lambda tool_name: None)
    slow = case(0.3)
    explain([slow], Side(ROOT, "base"), Side(ROOT, "head"), "cuda")
    assert slow.verdict().why.endswith("nothing that is counted moved; ncu tells nothing: it is not installed")
    assert slow.verdict().cause is None


def test_what_did_not_get_slower_for_an_unclear_reason_is_clear():
    assert not case(0.0).unclear
    more = case(0.3)
    more.head = with_counter(more.head, launches=9)
    assert not more.unclear


def test_a_comparison_yields_last_what_had_to_be_explained(monkeypatch: pytest.MonkeyPatch):
    known = {one.workload.id: one for one in (case(0.3, 1), case(0.0, 2))}

    def compare(*args, cases, **settings):
        cases |= known
        yield from ((one.workload, one.verdict()) for one in known.values())

    monkeypatch.setattr(pairs, "compare", compare)
    monkeypatch.setattr(profile, "find", lambda tool_name: None)
    against = Against.__new__(Against)
    vars(against).update(settings=SimpleNamespace(all=True, device=torch.device("cuda")), base=Side(ROOT, "base"),
                         head=Side(ROOT, "head"), spreads=SimpleNamespace(earlier={}, keep=list))
    same, slower = against.compare([one.workload for one in known.values()], print)
    assert (same.word, same.workload.n) == ("ok", 2)
    assert (slower.word, slower.workload.n) == ("regressed", 1)
    assert slower.verdict.why.endswith("ncu tells nothing: it is not installed")
