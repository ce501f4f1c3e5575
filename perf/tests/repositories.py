"""Small git repositories, for the tests of what reads them."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from perf.compare.side import PACKAGES, ROOT

START = 1_790_000_000


def git(folder: Path, *words: str, when: int = START) -> str:
    """Runs git in `folder`, as the same person at the time `when`, whatever this machine's settings are; returns what
    it says."""
    variables = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for who in ("AUTHOR", "COMMITTER"):
        variables |= {f"GIT_{who}_NAME": "Ada Example", f"GIT_{who}_EMAIL": "ada@example.org",
                      f"GIT_{who}_DATE": f"{when} +0000"}
    done = subprocess.run(["git", *words], cwd=folder, env=variables, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def harness(folder: Path) -> Path:
    """Copies this project, to which every machine is fit: other tests may run beside this one."""
    for package in ("perf", *PACKAGES):
        ignored = shutil.ignore_patterns("__pycache__", "tests", "records")
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    for name in ("conftest.py", "pyproject.toml", ".gitignore", "asv.conf.json"):
        shutil.copy(ROOT / name, folder)
    edit(folder / "perf/measure/fitness.py", "    if not states:\n", "    if True:\n")
    edit(folder / "perf/compare/pair.py", "busy <= idle + TOLERATED", "busy <= 1000")
    return folder


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))


class Repository:
    """Is a git repository whose attention/ says how long it takes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init", "--quiet", "--initial-branch=main")
        (root / "attention").mkdir()

    def git(self, *words: str) -> str:
        return git(self.root, *words)

    def commit(self, level: str, subject: str, path: str = "attention/__init__.py") -> str:
        (self.root / path).write_text(f"{level}\n# {subject}\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", subject)
        return self.git("rev-parse", "HEAD")

    def grow(self, *commits: str) -> list[str]:
        """Commits of these levels, "number 0" and so on; their hashes."""
        return [self.commit(level, f"number {i}") for i, level in enumerate(commits)]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)
