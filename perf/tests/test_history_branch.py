"""The history's own branch: nothing else in the repository changes, and pushes at the same time lose nothing."""
from __future__ import annotations

import multiprocessing
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from perf.history import branch, merge
from perf.history import rows as history
from perf.tests import test_history as rows
from perf.tests.test_history import OK, OTHER, W, quick, write  # noqa: F401 (a fixture)


def git(root, *words):
    name = ("-c", "user.name=someone", "-c", "user.email=some@one")
    return subprocess.run(["git", "-C", root, *name, *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def clones(tmp_path, monkeypatch):
    """Gives two clones of one repository, with a change in the working tree of the first."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    git(tmp_path, "init", "--quiet", "--bare", "origin.git")
    for name in ("one", "two"):
        git(tmp_path, "clone", "--quiet", "origin.git", name)
    one = tmp_path / "one"
    (one / "file").write_text("committed")
    (one / ".gitignore").write_text("*.json\n")  # must not keep results off the branch
    git(one, "add", ".")
    git(one, "commit", "--quiet", "-m", "first")
    (one / "file").write_text("changed")
    return one, tmp_path / "two"


def values(folder):
    found = history.load(folder)
    assert not found.problems
    return {(row.commit, row.workload, row.figure): row.value for row in found.rows}


def test_what_one_pushes_the_other_pulls(clones, tmp_path):
    write(tmp_path / "a", OK, replace(OK, revision=OTHER))
    before = git(clones[0], "status", "--porcelain"), git(clones[0], "branch")
    assert branch.push(tmp_path / "a", clones[0]) == []
    assert (git(clones[0], "status", "--porcelain"), git(clones[0], "branch")) == before
    assert branch.pull(tmp_path / "b", clones[1]) == []
    assert values(tmp_path / "b") == values(tmp_path / "a")
    branch.push(tmp_path / "a", clones[0])
    assert git(tmp_path / "origin.git", "rev-list", "--count", "perf-history") == "1"  # nothing new, no commit


def test_pushes_are_merged_cell_by_cell(clones, tmp_path):
    write(tmp_path / "a", OK)
    write(tmp_path / "b", replace(OK, peak_bytes=8, time=OK.time + 1, compiled={}),
          replace(OK, workload=replace(W, backend="sdpa"), time=OK.time + 1))
    branch.push(tmp_path / "b", clones[1])
    branch.push(tmp_path / "a", clones[0])  # the older one last
    branch.pull(tmp_path / "c", clones[0])
    found = values(tmp_path / "c")
    assert found[OK.revision, W, "track_peak_bytes"] == 8
    assert found[OK.revision, W, "track_compile_cold"] == 9.0
    assert len({workload for _, workload, _ in found}) == 2


def test_pushes_at_the_same_time_lose_nothing(clones, tmp_path):
    fork = multiprocessing.get_context("fork")
    runs = []
    for number in range(3):
        folder = tmp_path / f"results{number}"
        write(folder, replace(OK, workload=replace(W, n=512 * 2**number, m=512 * 2**number)))
        runs.append(fork.Process(target=branch.push, args=(folder, clones[number % 2])))
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0, 0]
    branch.pull(tmp_path / "all", clones[0])
    assert len({workload for _, workload, _ in values(tmp_path / "all")}) == 3


def test_a_branch_of_the_repository_itself(clones, tmp_path):
    write(tmp_path / "a", OK)
    branch.push(tmp_path / "a", clones[0], None)
    assert git(clones[0], "log", "--format=%an %s", "perf-history") == "perf history History of a"
    branch.pull(tmp_path / "b", clones[0], None)
    assert values(tmp_path / "b") == values(tmp_path / "a")


def test_pruning_leaves_one_commit_of_what_is_young(clones, tmp_path, monkeypatch):
    dates = {OK.revision: (time.time() - 100 * merge.DAY) * 1000, OTHER: (time.time() - 40 * merge.DAY) * 1000}
    monkeypatch.setattr(rows.record, "_date", lambda root, commit: int(dates[commit]))
    write(tmp_path / "a", OK)
    branch.push(tmp_path / "a", clones[0])
    write(tmp_path / "a", replace(OK, revision=OTHER))
    branch.push(tmp_path / "a", clones[0])
    assert git(tmp_path / "origin.git", "rev-list", "--count", "perf-history") == "2"
    assert branch.prune(clones[0], days=60, sample_days=30) == (1, 1, [])
    assert git(tmp_path / "origin.git", "rev-list", "--count", "perf-history") == "1"
    branch.pull(tmp_path / "b", clones[1])
    kept = [row for row in history.load(tmp_path / "b").rows if row.figure == "time_call"]
    assert [(row.commit, row.value, row.samples) for row in kept] == [(OTHER, 2e-3, ())]
    assert kept[0].interval is not None


def test_what_else_is_on_the_branch_stays(clones, tmp_path):
    """The nightly workflow keeps its nights there."""
    one, two = clones
    git(two, "checkout", "--quiet", "--orphan", "perf-history")
    (two / "nights").mkdir()
    (two / "nights" / "first.json").write_text("{}")
    git(two, "add", "--force", "nights")
    git(two, "commit", "--quiet", "-m", "a night")
    git(two, "push", "--quiet", "origin", "perf-history")
    write(tmp_path / "a", OK)
    branch.push(tmp_path / "a", one)
    branch.prune(one, days=1e6, sample_days=1e6)
    names = git(tmp_path / "origin.git", "ls-tree", "-r", "--name-only", "perf-history").split()
    assert "nights/first.json" in names
    assert "results/benchmarks.json" in names


def test_a_broken_file_stays_at_home(clones, tmp_path):
    (path,) = write(tmp_path / "a", OK).files
    (broken,) = write(tmp_path / "a", replace(OK, revision=OTHER)).files
    broken.write_text("{")
    (problem,) = branch.push(tmp_path / "a", clones[0])
    assert str(broken) in problem
    assert git(tmp_path / "origin.git", "ls-tree", "-r", "--name-only", "perf-history").split() == [
        "results/benchmarks.json", f"results/{path.parent.name}/{path.name}",
        f"results/{path.parent.name}/machine.json"]


def test_what_git_refuses_is_one_line(clones, tmp_path):
    write(tmp_path / "a", OK)
    with pytest.raises(ValueError, match="there is no branch perf-history at origin yet; push makes one"):
        branch.pull(tmp_path / "b", clones[0])
    with pytest.raises(ValueError, match="nowhere"):
        branch.push(tmp_path / "a", clones[0], "nowhere")
    hook = Path(tmp_path, "origin.git", "hooks", "pre-receive")
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(ValueError, match="the history can't be pushed: "):
        branch.push(tmp_path / "a", clones[0])


def test_a_null_that_was_measured_later_is_not_filled(tmp_path):
    """A wrong variant has no time, whatever was measured before it turned out so."""
    write(tmp_path / "a", OK)
    write(tmp_path / "b", OK)
    write(tmp_path / "b", replace(OK, outcome="wrong", reason="is wrong", samples=(), time=OK.time + 1))
    merge.merge_folders(tmp_path / "a", tmp_path / "b")
    assert {figure for _, _, figure in values(tmp_path / "b")} == {"track_error"}
