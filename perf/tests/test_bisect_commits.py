"""Tests which commits of a repository are bisected."""
from __future__ import annotations

import pytest

from perf.compare.bisect import between
from perf.tests import repositories

repository = repositories.repository


def test_only_commits_that_touch_what_is_measured(repository):
    first, second = repository.grow("1", "1")
    repository.commit("", "a note", "notes.txt")
    fourth = repository.commit("2", "slower")
    repository.commit("", "another", "notes.txt")
    assert between(repository.root, first, "main") == [second, fourth]
    with pytest.raises(ValueError, match=r"^no commit of main~1\.\.main touches attention/ or models/"):
        between(repository.root, "main~1", "main")


def test_a_merge_stands_for_its_branch(repository):
    (first,) = repository.grow("1")
    repository.git("checkout", "--quiet", "-b", "side")
    repository.commit("x", "on the side", "attention/other.py")
    repository.git("checkout", "--quiet", "main")
    second = repository.commit("2", "on main")
    repository.git("merge", "--quiet", "--no-ff", "--message", "merge", "side")
    assert between(repository.root, first, "main") == [second, repository.git("rev-parse", "main")]


def test_revisions_that_cannot_be_bisected(repository):
    first, second = repository.grow("1", "2")
    with pytest.raises(ValueError, match=rf"^{second} is no ancestor of {first}; "):
        between(repository.root, second, first)
    with pytest.raises(ValueError, match=r"^unknown revision 'nothing'"):
        between(repository.root, "nothing", "main")
    with pytest.raises(ValueError, match="touches"):
        between(repository.root, "main", "main")
