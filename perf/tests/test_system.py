"""The ground room: git, files written at once, devices."""
from __future__ import annotations

import pytest
import torch

from perf.system import devices, files, git
from perf.tests import repositories

repository = repositories.repository


def test_git_says_what_a_commit_has(repository):
    commit = repository.commit("1", "first")
    assert git.has(repository.root, commit, "attention/__init__.py")
    assert git.has(repository.root / "attention", commit, "__init__.py")  # relative to the folder
    assert not git.has(repository.root, commit, "models")
    assert git.author_and_subject(repository.root, commit) == ("Ada Example", "first")


def test_commits_of_a_range_are_the_oldest_first(repository):
    first, second = repository.grow("1", "2")
    third = repository.commit("", "a note", "notes.txt")
    assert git.commits(repository.root, f"{first}..main") == [second, third]
    assert git.commits(repository.root, f"{first}..main", "attention") == [second]


def test_changes_are_tracked_files(repository):
    repository.commit("1", "first")
    assert git.changes(repository.root) == []
    (repository.root / "new").write_text("")
    (repository.root / "attention/__init__.py").write_text("changed")
    assert git.changes(repository.root) == ["attention/__init__.py"]


def test_git_gives_up_in_one_line(repository, monkeypatch, tmp_path):
    repository.commit("1", "first")
    with pytest.raises(ValueError, match=r"^bad revision 'nothing'$"):
        git.commits(repository.root, "nothing")
    assert git.run(repository.root, "rev-parse", "--verify", "--quiet", "nothing").returncode == 1
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="there is no git here; install it"):
        git.text(repository.root, "status")


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.json"
    files.write(path, "one")
    with pytest.raises(UnicodeEncodeError):
        files.write(path, "two \udc80")
    assert path.read_text() == "one"
    with files.beside(path.parent) as scratch:
        (scratch / "x").write_text("")
    assert [one.name for one in path.parent.iterdir()] == ["file.json"]


def test_a_device_that_is_not_here_names_those_that_are():
    assert str(devices.device("cpu")) == "cpu"
    assert devices.device(None).type in ("cpu", "cuda")
    with pytest.raises(ValueError, match=r"^no device 'tpu' here; choose from cpu"):
        devices.device("tpu")


def test_the_second_of_two_gpus_is_a_device(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [devices.device(name) for name in (None, "cuda:1")] == [torch.device("cuda"), torch.device("cuda", 1)]
    with pytest.raises(ValueError, match=r"^no device 'cuda:2' here; choose from cpu, cuda, cuda:0, cuda:1$"):
        devices.device("cuda:2")
