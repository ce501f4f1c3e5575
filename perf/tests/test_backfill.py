"""Commits of the past: which, in what order, while there is time; what one lacks is blank and stops no other."""
from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from perf.history import backfill
from perf.history import rows as history
from perf.history.backfill import Schedule
from perf.measure.evidence import Writer
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
    monkeypatch.setattr("perf.measure.evidence.machine.identity", lambda: "m")
    monkeypatch.setattr("perf.measure.evidence.machine.fingerprint", lambda: rows.MACHINE)
    return tmp_path / "tree", found


def measure(side, evidence, options):
    """Writes evidence as if pytest had measured: the commit's own number is its peak."""
    number = int((side.folder / "attention" / "__init__.py").read_text().rpartition("=")[2])
    Writer(evidence).append(replace(OK, revision=None, peak_bytes=100 + number))
    return


def test_each_commit_is_measured_by_its_own_code(repository, tmp_path):
    root, commits = repository
    said = list(backfill.backfill(Schedule(commits), root, tmp_path / "results", measure=measure))
    found = history.load(tmp_path / "results")
    assert {row.commit: row.value for row in found.rows if row.figure == "track_peak_bytes"} == {
        commits[0]: 100, commits[2]: 102}
    assert f"{commits[1][:8]} round 1: nothing: " in said[1]
    assert "has no attention/" in said[1]


def test_a_further_round_adds_its_samples(repository, tmp_path):
    root, commits = repository
    list(backfill.backfill(Schedule(commits[2:], rounds=3), root, tmp_path / "results", measure=measure))
    (time,) = [row for row in history.load(tmp_path / "results").rows if row.figure == "time_call"]
    assert time.samples == OK.samples * 3


def test_a_commit_that_leaves_no_evidence_is_blank(repository, tmp_path):
    root, commits = repository
    (said,) = backfill.backfill(Schedule(commits[:1]), root, tmp_path / "results", measure=lambda *_: "E   ImportError")
    assert "nothing: E   ImportError" in said
    assert not (tmp_path / "results").exists()


def test_no_visit_is_begun_that_would_end_too_late(repository, tmp_path):
    root, commits = repository
    now = iter(range(0, 1000, 10))  # every look at the clock is 10 s later
    said = list(backfill.backfill(Schedule(commits[:1], rounds=9, seconds=100), root, tmp_path / "results",
                                  measure=measure, clock=lambda: next(now)))
    assert said[-1] == "100 s are spent: the rest is not measured"
    assert 2 <= len(said) <= 4


def test_rounds_go_to_and_fro():
    assert list(Schedule(["a", "b"], rounds=3).visits()) == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]


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
