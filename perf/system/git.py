"""Runs git in the repository that a folder belongs to. Its index, worktrees and branches are left as they are.

    git.text(root, "rev-parse", "HEAD")          # what it prints; ValueError, in one line, where it gives up
    git.run(root, "merge-base", ...).returncode  # where giving up is an answer
"""
from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def run(root: Path, *words: str, variables: Mapping[str, str] | None = None,
        stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Runs `git WORDS` and returns what became of it. `variables` are added to the environment.

    Raises ValueError, in one line, where there is no git.
    """
    try:
        return subprocess.run(["git", "-C", str(root), *words], env={**os.environ, **(variables or {})}, stdout=stdout,
                              stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    except FileNotFoundError:
        raise ValueError("there is no git here; install it") from None


def text(root: Path, *words: str, variables: Mapping[str, str] | None = None) -> str:
    """Returns what `git WORDS` prints. Raises ValueError with the line in which it gives up."""
    process = run(root, *words, variables=variables)
    if process.returncode:
        raise ValueError(reason(process.stderr))
    return process.stdout.strip()


def reason(errors: str) -> str:
    """Finds the line in which git gives up; after it may stand advice."""
    lines = errors.strip().splitlines() or ["git gives no reason"]
    return next((line for line in lines if line.startswith(("fatal: ", "error: ", " ! "))), lines[-1]).removeprefix(
        "fatal: ")


def has(root: Path, commit: str, path: str) -> bool:
    """Tells whether a commit has a file or folder, relative to `root`, which may lie within the repository."""
    return run(root, "cat-file", "-e", f"{commit}:./{path}").returncode == 0


def commits(root: Path, revisions: str, *paths: str) -> list[str]:
    """Lists the full hashes of a range such as v1..main, the oldest first; of a merge its first side; those that touch
    `paths`. Raises ValueError, in one line, for what is no range of this repository."""
    return text(root, "rev-list", "--first-parent", "--reverse", "--end-of-options", revisions, "--", *paths).split()


def changes(root: Path) -> list[str]:
    """Lists the tracked files with uncommitted changes. Raises ValueError outside a repository."""
    return [line.split(maxsplit=1)[1] for line in
            text(root, "status", "--porcelain", "--untracked-files=no").splitlines()]


def author_and_subject(root: Path, commit: str) -> tuple[str, str]:
    """Returns who made a commit, and the first line of its message. Raises ValueError for an unknown one."""
    author, _, subject = text(root, "show", "--no-patch", "--no-show-signature", "--format=%an%x00%s",
                              "--end-of-options", commit).partition("\0")
    return author, subject


def extract(root: Path, tree: str, folder: Path, *paths: str) -> None:
    """Writes the files of a commit or tree into a folder: all of `root`, or those under `paths`. Raises ValueError, in
    one line, for what git can't read."""
    with tempfile.TemporaryFile() as archive:
        process = run(root, "archive", "--format=tar", tree, "--", *paths, stdout=archive)
        if process.returncode:
            raise ValueError(f"git can't read {tree[:8]}: {reason(process.stderr)}")
        archive.seek(0)
        with tarfile.open(fileobj=archive) as tar:
            if hasattr(tarfile, "tar_filter"):
                tar.extractall(folder, filter="tar")
            else:  # Python 3.11.0 to 3.11.3 has no filters
                tar.extractall(folder)


def working_tree(root: Path, *paths: str) -> str:
    """Gives the hash of the working tree, or of some paths of it, as a tree of git's, with what is not committed or not
    tracked, but without what git ignores. The index stays as it is."""
    with tempfile.TemporaryDirectory(prefix="perf-index-") as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch, "index"))}
        text(root, "add", "--all", "--", *(paths or (":/", ":(exclude).perf")), variables=index)
        return text(root, "write-tree", variables=index)
