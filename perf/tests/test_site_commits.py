"""The commits of the front page: which were measured, which could not be, and why."""
from __future__ import annotations

import re
from dataclasses import replace

import pytest

from perf.history.rows import History, load
from perf.tests import front_page, published
from perf.tests.repositories import git
from perf.web.site import commits

tree, site, shown = front_page.tree, front_page.site, front_page.shown


def test_what_was_measured_is_told_by_machine_and_what_was_not_with_its_reason(shown):
    result = re.sub(r"\s+", " ", shown.sections["commits"])
    assert "12 figures on AMD EPYC, 57 figures on NVIDIA H200" in result
    assert "failed: the GPU fell off the bus <u>" in result


def test_why_a_commit_has_no_figures_if_no_night_says(tree):
    folder, hashes = tree
    history = load(folder / "results")
    log = [*commits.log(folder), commits.Commit("0" * 40, 0.0, "", "older than the history")]
    newer = commits.Commit("1" * 40, 0.0, "", "not tried")
    result = commits.states([newer, *log], history, folder / "results", (), folder)
    states = {state.commit.hash: state for state in result}
    assert list(states) == ["1" * 40, *reversed(hashes)]
    assert (states[hashes[published.NOTHING]].word, states[hashes[published.NOTHING]].reason) == (
        "failed", "it has no attention/")
    assert states["1" * 40].word == "not measured"
    assert states[hashes[0]].word == "measured"


def test_what_was_measured_with_uncommitted_changes_is_not_the_commits(tree):
    folder, hashes = tree
    history = load(folder / "results")
    rows = tuple(replace(row, dirty=row.commit == hashes[3]) for row in history.rows)
    result = commits.states(commits.log(folder), History(rows, ()), folder / "results", (), folder)
    words = {state.commit.hash: state.word for state in result}
    assert (words[hashes[3]], words[hashes[2]]) == ("not measured", "measured")


def test_odd_characters_in_a_subject_are_no_end_of_it(tmp_path):
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "a\u2028b\x0bc\x85d\x1ce")
    (one,) = commits.log(tmp_path)
    assert (one.author, one.subject) == ("Ada Example", "a\u2028b\x0bc\x85d\x1ce")


def test_git_that_fails_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="its commits can't be listed: not a git repository"):
        commits.log(tmp_path)
