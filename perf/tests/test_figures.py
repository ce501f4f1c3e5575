"""What the README's sentences say was measured on a GPU stands in the records, and so do the ratios claimed there."""
from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from perf.measure.evidence import open_text
from perf.studies.goals_table import FASTEST, GOALS, Run
from perf.studies.measuring import Study
from perf.studies.quantised_goals import Goals, Models

ROOT = Path(__file__).parents[2]
H200 = ROOT / "perf" / "records" / "h200-2026-11-26"
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def records(path: Path) -> list[dict[str, Any]]:
    with open_text(path) as file:
        return [json.loads(line) for line in file]


def said(sentence: str) -> None:
    assert sentence in README, f"README.md does not say {sentence!r}, as the records do"


@pytest.mark.parametrize(("path", "part", "count"), [(GOALS, "graphs", 5), (FASTEST, "fastest", 3)])
def test_the_claims_are_what_the_study_makes_of_the_times(tmp_path, path, part, count):
    study = Study(torch.device("cpu"), tmp_path / "again.jsonl")
    run = Run(path)
    study.known.update(run.timed)  # so nothing is measured
    getattr(Goals(study, Models()), part)()
    again = Run(study.out)
    assert not study.failures
    assert not again.timed
    assert len(again.claims) == count
    assert again.claims.items() <= run.claims.items()


def test_the_quality_of_float8():
    (found,) = (record for record in records(H200 / "quality.jsonl.gz") if record["kind"] == "quality")
    assert found["low"] < 0 < found["high"]
    said(f"float8 costs nothing that {found['items']} digits show: Top-1 {found['base']:.2f} -> {found['new']:.2f} %, "
         f"change {found['low']:.2f} to {found['high']:+.2f} points")


def test_the_seconds_of_compiling():
    cold = [record["cold"] for record in records(GOALS) if record["kind"] == "compiled"]
    warm = [t.compiled["warm"] for t in Run(GOALS).timed.values() if t.compiled]
    said(f"Compiling takes {min(cold):.0f} to {max(cold):.0f} s, {min(warm):.0f} to {max(warm):.0f} from the disk's")


def test_where_bitsandbytes_time_goes():
    where = {(record["method"], record["batch"]): record for record in records(GOALS) if record["kind"] == "where"}
    plain, int8, nf4 = (where[method, 1] for method in ("none", "bnb-int8", "bnb-nf4"))
    said(f"of eager fp16's {1e3 * plain['wall']:.1f} ms the GPU is busy for {1e3 * plain['busy']:.1f}.")
    said(f"the GPU is busy for {1e3 * nf4['busy']:.1f} of {1e3 * nf4['wall']:.1f} ms")
    said(f"int8 takes {1e3 * int8['wall']:.1f} ms, {int8['wall'] / plain['wall']:.1f}x: {int8['launches']:.0f} kernels "
         f"instead of {plain['launches']:.0f}, and {int8['syncs']:.0f} times the host waits")
    said(f"it is still {where['bnb-int8', 32]['wall'] / where['none', 32]['wall']:.1f}x.")


def test_the_tree_compared_with_itself():
    words = Counter(record["word"] for record in records(H200 / "aa.jsonl.gz"))
    assert not words["regressed"]
    assert not words["improved"]
    ok, undecided = words["ok"], words["inconclusive"]
    said(f"{ok + undecided} benchmarks of the default grid, was called slower or faster nowhere: {ok} ok, {undecided} "
         "undecided for time.")


def test_what_the_selftest_found():
    found = json.loads((H200 / "selftest.json").read_text(encoding="utf-8"))
    seconds = [trial["seconds"] for trial in found["trials"]
               if trial["fault"] and trial["verdict"]["word"] == "regressed"]
    assert found["false_alarms"] == 0
    assert len(seconds) == found["caught"]
    said(f"no false alarm in {found['compared']} benchmarks, each certifies a change of "
         f"{100 * found['certified']['all']:.1f} % or less, and {found['caught']} of {found['due']} faults were "
         f"caught in {min(seconds):.0f} to {max(seconds):.0f} s each")
