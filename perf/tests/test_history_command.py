"""`python -m perf history`: evidence goes in, changes are told, the old is forgotten; what can't be is one line."""
from __future__ import annotations

import time
from dataclasses import replace

import pytest

from perf.__main__ import main
from perf.history import branch, merge
from perf.history import rows as history
from perf.measure.evidence import Writer
from perf.tests import test_history as rows
from perf.tests.test_history import COMMIT, OK, OTHER, W, quick, write  # noqa: F401 (a fixture)


@pytest.fixture
def evidence(tmp_path, monkeypatch):
    """Writes a file of evidence, of machine "m", which measured outside git."""
    monkeypatch.setattr("perf.measure.machine.identity", lambda: "m")
    monkeypatch.setattr("perf.measure.machine.fingerprint", lambda: rows.MACHINE)

    def made(**change):
        path = tmp_path / "evidence.jsonl"
        path.unlink(missing_ok=True)
        Writer(path).append(replace(OK, **change))
        return str(path)

    return made


def test_evidence_of_a_commit_that_is_named(evidence, tmp_path, capsys):
    path, folder = evidence(revision=None), tmp_path / "results"
    assert main(["history", "add", path, "--folder", str(folder)]) == 1
    assert "1 row measured outside git" in capsys.readouterr().err
    assert main(["history", "add", path, "--folder", str(folder), "--commit", OTHER]) == 0
    assert {row.commit for row in history.load(folder).rows} == {OTHER}


def test_naming_a_commit_does_not_make_a_dirty_tree_clean(evidence, tmp_path):
    path, folder = evidence(revision=f"{COMMIT}+dirty"), tmp_path / "results"
    assert main(["history", "add", path, "--folder", str(folder), "--commit", OTHER]) == 1
    assert main(["history", "add", path, "--folder", str(folder), "--commit", OTHER, "--dirty"]) == 0
    assert {(row.commit, row.dirty) for row in history.load(folder).rows} == {(OTHER, True)}


def test_changes_are_told_and_problems_named(tmp_path, capsys, monkeypatch):
    commits = [f"{number:08x}" * 5 for number in range(12)]
    monkeypatch.setattr(rows.record, "_date", lambda root, commit: int(commit[:8], 16) * 1000)
    for number, commit in enumerate(commits):
        write(tmp_path, replace(OK, revision=commit, peak_bytes=100 if number < 7 else 130))
    (tmp_path / "machine").mkdir()
    (tmp_path / "machine" / "00000000-x.json").write_text("{")
    assert main(["history", "show", "--folder", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "72 numbers in 6 lines; 12 commits on 1 machines" in out
    assert f"{W.id} track_peak_bytes: 100 -> 130 bytes at {commits[7][:8]}" in out
    assert out.count("->") == 1
    assert "00000000-x.json" in err


def test_pruning_is_of_the_folder_and_the_branch(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(branch, "prune", lambda root, remote, **ages: (5, 6, []))
    monkeypatch.setattr(rows.record, "_date", lambda root, commit: int((time.time() - 40 * merge.DAY) * 1000))
    write(tmp_path, OK)
    assert main(["history", "prune", "--folder", str(tmp_path), "--days", "50"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path}: 0 files forgotten, the samples of 1",
                                                    "perf-history: 5 files forgotten, the samples of 6"]
    assert main(["history", "prune", "--folder", str(tmp_path), "--days", "35", "--no-branch"]) == 0
    assert not history.load(tmp_path).rows


@pytest.mark.parametrize(("arguments", "message"), [
    (["dance"], "invalid choice: 'dance'"),
    (["prune", "--days", "7"], "--sample-days 30 is more than --days 7; give less"),
    (["backfill", "HEAD~1..HEAD", "--narrow", "--rounds", "2"], "--narrow measures each commit that it needs once"),
    (["add", "nothing.jsonl"], "nothing.jsonl: No such file or directory; give an evidence file"),
])
def test_what_can_not_be_done_is_one_line(arguments, message, capsys, tmp_path):
    assert main(["history", *arguments, *(["--folder", str(tmp_path)] if len(arguments) > 1 else [])]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
