"""The two trees of a comparison: revisions of small repositories, and what is refused."""
from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from perf.compare.checkout import checkout, resolve, working_tree
from perf.compare.side import ROOT, Side


def git(root: Path, *arguments: str) -> str:
    names = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    return subprocess.run(["git", "-C", str(root), *names, *arguments], capture_output=True, text=True,
                          check=True).stdout.strip()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Gives three commits: without attention/, without models/ (tag `early`), with both; and a harness."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    for step in ("none", "early", "whole"):
        (root / "perf").mkdir(exist_ok=True)
        (root / "perf" / "clock.py").write_text(f"clock of {step}")
        if step != "none":
            (root / "attention").mkdir(exist_ok=True)
            (root / "attention" / "__init__.py").write_text(f"step = {step!r}\n")
        if step == "whole":
            (root / "models").mkdir()
            (root / "models" / "__init__.py").write_text("there = True\n")
        git(root, "add", ".")
        git(root, "commit", "--quiet", "-m", step)
        git(root, "tag", step)
    return root


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gives the folder where temporary folders are made."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_only_attention_and_models_come_from_the_revision(root: Path, scratch: Path) -> None:
    (root / "attention" / "__init__.py").write_text("step = 'changed, not committed'\n")
    with checkout("whole", root) as side:
        folder = side.folder
        assert (folder / "attention" / "__init__.py").read_text() == "step = 'whole'\n"
        assert (folder / "models" / "__init__.py").exists()
        assert (folder / "perf").samefile(ROOT / "perf")  # today's
        commit = git(root, "rev-parse", "whole")
        assert (side.name, side.commit) == (f"whole ({commit[:8]})", commit)
        assert list(scratch.iterdir()) == [folder]
    assert not list(scratch.iterdir())
    assert (ROOT / "perf" / "__init__.py").exists()  # the link went, not what it led to
    assert "not committed" in (root / "attention" / "__init__.py").read_text()
    assert git(root, "worktree", "list").count("\n") == 0


def test_a_package_that_the_revision_lacks_can_not_be_imported(root: Path) -> None:
    with checkout("early", root) as side:
        found = subprocess.run([sys.executable, "-c", "import models"], cwd=side.folder, env=side.variables(),
                               capture_output=True, text=True, check=False)
    assert "ImportError: early has no models/" in found.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_behind_when_measuring_is_broken_off(root: Path, scratch: Path, error: type) -> None:
    with pytest.raises(error), checkout("whole", root):
        raise error
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(("revision", "reason"), [
    ("nowhere", "unknown revision 'nowhere'"),
    ("f" * 40, "unknown revision"),  # git takes a full hash at its word
    ("", "unknown revision ''"),
    ("--help", "unknown revision '--help'"),
    ("none..whole", "unknown revision 'none..whole'"),
    ("none", "revision 'none' has no attention/"),
])
def test_a_revision_that_can_not_be_measured_is_refused_in_one_line(root: Path, revision: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refusal, checkout(revision, root):
        pass
    assert "\n" not in str(refusal.value)


def test_outside_a_repository_and_without_git(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(ValueError, match="is in no git repository"):
        resolve(tmp_path, "main")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="there is no git here"):
        resolve(root, "main")


def test_a_shallow_clone_says_how_to_get_the_commit(root: Path, tmp_path: Path) -> None:
    early = git(root, "rev-parse", "early")
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{root}", "shallow")
    for revision in ("HEAD~1", early, "early"):
        with pytest.raises(ValueError, match=r"shallow clone.*git fetch --unshallow"):
            resolve(tmp_path / "shallow", revision)
    assert resolve(tmp_path / "shallow", "HEAD") == git(root, "rev-parse", "whole")


def test_the_project_may_lie_in_a_folder_of_the_repository(root: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    (outer / "project" / "attention").mkdir(parents=True)
    (outer / "project" / "attention" / "__init__.py").write_text("inner = True\n")
    git(outer, "init", "--quiet")
    git(outer, "add", ".")
    git(outer, "commit", "--quiet", "-m", "all")
    with checkout("HEAD", outer / "project") as side:
        assert (side.folder / "attention" / "__init__.py").read_text() == "inner = True\n"


def test_the_head_is_the_working_tree_itself() -> None:
    with working_tree() as side:
        assert side.folder == ROOT == Path(__file__).parents[2]


def test_a_folder_stands_before_every_other() -> None:
    side = Side(Path("here"), "a side")
    assert side.variables({})["PYTHONPATH"] == "here"
    assert side.variables({"PYTHONPATH": "there", "x": "y"}) == {
        "PYTHONPATH": os.pathsep.join(["here", "there"]), "x": "y"}
