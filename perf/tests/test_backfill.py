"""Commits of the past: which, in what order, while there is time; what one lacks is blank and stops no other."""
from __future__ import annotations

import subprocess
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest

from perf.compare.checkout import JUDGE, judge_by_today, working_tree
from perf.compare.nursery import Nursery
from perf.compare.side import ROOT
from perf.history import backfill, process
from perf.history import rows as history
from perf.history.backfill import Schedule
from perf.measure.evidence import Writer, load
from perf.tests import test_history as rows
from perf.tests.test_history import OK, quick  # noqa: F401 (a fixture)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Gives three commits, the second without attention/."""
    git = ["git", "-C", str(tmp_path / "tree"), "-c", "user.name=someone", "-c", "user.email=some@one"]
    package = tmp_path / "tree" / "attention"
    package.mkdir(parents=True)
    found = []
    for number, held in enumerate((True, False, True)):
        (package / "__init__.py").write_text(f"NUMBER = {number}") if held else (package / "__init__.py").unlink()
        (tmp_path / "tree" / "note").write_text(str(number))
        for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", str(number)]):
            subprocess.run([*git, *words], check=True)
        done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        found.append(done.stdout.strip())
    monkeypatch.setattr(rows.record, "_date", lambda root, commit: found.index(commit) * 1000)
    monkeypatch.setattr("perf.measure.machine.identity", lambda: "m")
    monkeypatch.setattr("perf.measure.machine.fingerprint", lambda: rows.MACHINE)
    return tmp_path / "tree", found


def measure(side, evidence):
    """Writes evidence as if pytest had measured: the commit's own number is its peak."""
    number = int((side.folder / "attention" / "__init__.py").read_text().rpartition("=")[2])
    Writer(evidence).append(replace(OK, revision=None, peak_bytes=100 + number))
    return


def test_each_commit_is_measured_by_its_own_code(repository, tmp_path):
    root, commits = repository
    said = list(backfill.backfill(Schedule(commits), root, tmp_path / "results", measure))
    found = history.load(tmp_path / "results")
    assert {row.commit: row.value for row in found.rows if row.figure == "track_peak_bytes"} == {
        commits[0]: 100, commits[2]: 102}
    assert f"{commits[1][:8]} round 1: nothing: " in said[2]
    assert "has no attention/" in said[2]


def test_a_further_round_adds_its_samples(repository, tmp_path):
    root, commits = repository
    list(backfill.backfill(Schedule(commits[2:], rounds=3), root, tmp_path / "results", measure))
    (time,) = [row for row in history.load(tmp_path / "results").rows if row.figure == "time_call"]
    assert time.samples == OK.samples * 3


def test_a_commit_that_leaves_no_evidence_is_blank(repository, tmp_path):
    root, commits = repository
    (said,) = backfill.backfill(Schedule(commits[:1]), root, tmp_path / "results", lambda *_: "E   ImportError")
    assert "nothing: E   ImportError" in said
    assert not (tmp_path / "results").exists()


def test_no_visit_is_begun_that_would_end_too_late(repository, tmp_path):
    root, commits = repository
    now = iter(range(0, 1000, 10))  # every look at the clock is 10 s later
    said = list(backfill.backfill(Schedule(commits[:1], rounds=9, seconds=100), root, tmp_path / "results", measure,
                                  clock=lambda: next(now)))
    assert said[-1] == "100 s are spent: the rest is not measured"
    assert len(said) == 1 + 5  # 20 s each


def test_rounds_go_to_and_fro():
    assert list(Schedule(["a", "b"], rounds=3).visits()) == [(0, "b"), (0, "a"), (1, "a"), (1, "b"), (2, "b"), (2, "a")]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9, 30])
def test_a_round_that_is_cut_spans_the_commits(count):
    items = list(map(str, range(count)))
    order = backfill.halved(items)
    assert sorted(order, key=int) == items
    assert order[:2] == [*items[-1:], *items[:1]][:count]
    for cut in range(2, count):
        places = sorted(map(int, order[:cut]))
        gaps = [b - a for a, b in pairwise(places)]
        assert max(gaps) <= 2 * min(gaps) + 2


@pytest.mark.parametrize("slow", [12, 20, 29])
def test_a_step_is_narrowed_to_its_commit(tmp_path, monkeypatch, slow):
    """A time is twice as long from one of 40 commits on; every fifth is measured, then the gap by halves."""
    commits = [f"{number:040}" for number in range(40)]
    lines: dict[tuple[str, ...], list[SimpleNamespace]] = {
        ("machine", "", "w", figure): [] for figure in ("time_call", "track_error")}
    monkeypatch.setattr(backfill.history, "load", lambda folder: SimpleNamespace(lines=lines))

    def measure(number):
        for (*_, figure), line in lines.items():
            value = 2.0 if number >= slow and figure == "time_call" else 1.0
            line.append(SimpleNamespace(commit=commits[number], value=value))
            line.sort(key=lambda row: row.commit)

    for number in range(0, 40, 5):
        measure(number)
    measure(39)
    asked = []
    for _, commit in backfill.Narrowing(commits, folder=tmp_path).visits():
        asked.append(int(commit))
        if asked[-1] != 27:  # one that gives no number is asked once
            measure(asked[-1])
    assert len(asked) == len(set(asked)) <= 4
    assert all(abs(number - slow) < 5 for number in asked)
    assert list(backfill.steps(tmp_path)) == [(commits[slow - 1], commits[slow])]


def test_without_a_history_there_is_no_step_to_narrow(tmp_path):
    with pytest.raises(ValueError, match=r"no history yet, so no step to narrow; measure some commits without"):
        list(backfill.Narrowing(["a"], folder=tmp_path / "none").visits())


def test_the_commits_of_a_range(repository):
    root, commits = repository
    assert backfill.commits(root, "HEAD", 9) == commits
    assert backfill.commits(root, f"{commits[0]}..HEAD", 9) == commits[1:]
    with pytest.raises(ValueError, match=r"no commits in 'x\.\.y' .* that change what is measured; give a range"):
        backfill.commits(root, "x..y", 9)


@pytest.mark.parametrize("most", [1, 2, 3, 7, 10, 20])
def test_commits_are_evenly_spread_and_end_with_the_last(most):
    items = list(map(str, range(10)))
    found = backfill.spread(items, most)
    assert len(found) == min(most, 10) == len(set(found))
    assert found[-1] == "9"
    assert found == sorted(found, key=int)
    if most > 1:
        assert found[0] == "0"


def test_the_judge_of_an_old_commit_is_todays(tmp_path):
    package = tmp_path / "attention"
    package.mkdir()
    (package / "testing.py").write_text("OLD = 1")  # it was a module once
    (package / "function.py").write_text("OLD = 1")
    (package / "module.py").write_text("OLD = 1")
    for _ in range(2):  # the second time there is a link
        judge_by_today(package)
    assert not (package / "testing.py").exists()
    for name in JUDGE:
        assert (package / name).samefile(ROOT / "attention" / name)
    assert (package / "module.py").read_text() == "OLD = 1"


@pytest.mark.slow  # processes that import torch
@pytest.mark.parametrize("forked", [False, True])
def test_a_process_of_a_commit_measures_what_today_chooses(tmp_path, forked):
    run = process.choose(ROOT, ["--perf-grid=quick", "-k=[softmax:tiled-forward-causal-b1-h8-kv8-n512",
                                 "--perf-unfit=keep", "--perf-precision=20%"])
    assert [w.variant for w in run.workloads] == ["softmax:tiled"]
    run = replace(run, workloads=(replace(run.workloads[0], backend="of-tomorrow"), *run.workloads))
    with working_tree(ROOT) as side, ExitStack() as until:
        nursery = until.enter_context(Nursery(ROOT, side.variables(), probe=False)) if forked else None
        measured = process.measuring(run, nursery)
        for number in (1, 2):
            assert measured(side, tmp_path / f"{number}.jsonl") is None
            lacking, row = load(tmp_path / f"{number}.jsonl")
            assert (lacking.outcome, lacking.reason) == ("skipped", "softmax:of-tomorrow is not registered")
            assert row.outcome == "ok"
            assert row.median
        broken = tmp_path / "broken"
        (broken / "attention").mkdir(parents=True)
        (broken / "attention" / "__init__.py").write_text("raise ImportError('a commit that is broken')")
        (broken / "perf").symlink_to(ROOT / "perf")
        assert "a commit that is broken" in str(measured(replace(side, folder=broken), tmp_path / "3.jsonl"))
        assert not (tmp_path / "3.jsonl").exists()


def test_options_that_choose_nothing_are_said_in_a_line():
    with pytest.raises(ValueError, match=r"nothing to measure: .*unknown grid 'huge'"):
        process.choose(ROOT, ["--perf-grid=huge"])
    with pytest.raises(ValueError, match=r"nothing to measure: .*error: unrecognized arguments: --nonsense"):
        process.choose(ROOT, ["--nonsense"])
