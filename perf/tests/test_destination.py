"""Tests what `--perf-history` refuses before anything is measured, in one line."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from perf import plugin
from perf.history import destination


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(destination.machine, "revision", lambda: "a" * 40)
    (tmp_path / "asv.conf.json").write_text('{"version": 1, "repo": ".", "results_dir": "deep/results"}')
    return tmp_path


def test_the_default_is_asvs_own_folder(root):
    assert destination.folder(None, root) == root / "deep" / "results"


def test_a_folder_may_be_named_empty_or_full_of_results(root):
    (root / "mine").mkdir()
    (root / "mine" / ".keep").touch()
    assert destination.folder(root / "mine", root) == root / "mine"
    (root / "mine" / "benchmarks.json").write_text("{}")
    assert destination.folder(root / "mine", root) == root / "mine"


def test_without_asvs_settings_a_folder_must_be_named(tmp_path):
    with pytest.raises(ValueError, match=r"no asv\.conf\.json in .*; name a folder"):
        destination.folder(None, tmp_path)


def test_the_folder_of_something_else_is_refused(root):
    """`pytest --perf-history perf/` means the tests in perf/."""
    with pytest.raises(ValueError, match="is no folder of asv results"):
        destination.folder(root, root)
    with pytest.raises(ValueError, match="is a file"):
        destination.folder(root / "asv.conf.json", root)


@pytest.mark.parametrize(("revision", "message"), [
    (None, "of no commit: this is no git repository"),
    ("b" * 40 + "+dirty", "uncommitted changes: .*--perf-history-dirty"),
])
def test_what_is_of_no_commit_is_refused(revision, message, root, monkeypatch):
    monkeypatch.setattr(destination.machine, "revision", lambda: revision)
    with pytest.raises(ValueError, match=message):
        destination.folder(None, root)


def test_a_dirty_tree_may_be_asked_for(root, monkeypatch):
    monkeypatch.setattr(destination.machine, "revision", lambda: "b" * 40 + "+dirty")
    assert destination.folder(None, root, dirty=True)


def test_a_history_that_can_not_be_written_is_said_and_fails_the_run(tmp_path, monkeypatch):
    """Nothing is lost: the evidence is there to be added."""
    def full(*args, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr("perf.history.results.write", full)
    asked = SimpleNamespace(history=tmp_path, history_dirty=False, evidence=tmp_path / "evidence.jsonl")
    session: Any = SimpleNamespace(settings=asked, rows=[], notes=[])
    assert not plugin._write_history(session)
    assert session.notes == [f"no history: No space left on device; add it later: python -m perf history add "
                             f"{tmp_path}/evidence.jsonl"]
