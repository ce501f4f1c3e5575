"""The two trees that are compared: a revision's `attention` and `models` under today's harness, and the working tree.

    base = Base(root, "main")              # ValueError, in one line, for what is no revision to measure
    with base.checkout() as folder: ...    # a temporary folder: links to the harness, attention/ and models/ of main

Git's index, worktrees and branches are never touched, and neither are uncommitted changes.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("attention", "models")  # what comes from the revision
HARNESS = ("perf", "conftest.py", "pyproject.toml")  # what does not

# In place of a package that the revision lacks: an installed one must not stand in for it.
MISSING = "raise ImportError({!r})\n"


class Base:
    """A revision of the repository that `root` belongs to.

    `commit` is its full hash, `name` the revision as it was given. Raises ValueError, in one line, where there is no
    git, no repository or no such revision, and for a revision without attention/.
    """

    def __init__(self, root: Path, revision: str) -> None:
        self.root, self.name = root, revision
        self.commit = resolve(root, revision)

    @property
    def short(self) -> str:
        return self.commit[:8]

    @contextmanager
    def checkout(self) -> Iterator[Path]:
        """A folder to run the harness in, on this revision; removed afterwards."""
        folder = Path(tempfile.mkdtemp(prefix="perf-base-"))
        try:
            for name in HARNESS:
                if (self.root / name).exists():
                    (folder / name).symlink_to(self.root / name)
            self._extract(folder)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # the links, not what they lead to

    def _extract(self, folder: Path) -> None:
        """`git archive` knows only what the commit holds; so the tree is named there, not in the working directory."""
        held = [package for package in PACKAGES if _has(self.root, self.commit, package)]
        with tempfile.TemporaryFile() as archive:
            done = subprocess.run([*_git(self.root), "archive", "--format=tar", self.commit, "--", *held],
                                  stdout=archive, stderr=subprocess.PIPE, check=False)
            if done.returncode:
                raise ValueError(f"git can't read {self.name}: {_reason(done.stderr.decode())}")
            archive.seek(0)
            with tarfile.open(fileobj=archive) as tar:
                tar.extractall(folder, filter="tar")
        for package in sorted(set(PACKAGES) - set(held)):
            (folder / package).mkdir()
            (folder / package / "__init__.py").write_text(MISSING.format(f"{self.name} has no {package}/"),
                                                          encoding="utf-8")


@contextmanager
def checkout(revision: str, root: Path = ROOT) -> Iterator[Path]:
    """`Base(root, revision).checkout()`. Raises as `Base`."""
    with Base(root, revision).checkout() as folder:
        yield folder


def head_folder(root: Path = ROOT) -> Path:
    """The working tree as it stands, with what is not committed."""
    return root


def environment(folder: Path, variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a process that measures `folder`: its packages stand before every other."""
    path = [str(folder), *filter(None, [variables.get("PYTHONPATH")])]
    return {**variables, "PYTHONPATH": os.pathsep.join(path)}


def resolve(root: Path, revision: str) -> str:
    """The full hash of a commit. Raises ValueError, in one line, as `Base` does."""
    if shutil.which("git") is None:
        raise ValueError(f"revision {revision!r} can't be read: there is no git here; install it")
    inside = _asked(root, "rev-parse", "--is-inside-work-tree")
    if inside.returncode:
        raise ValueError(f"revision {revision!r} can't be read: {_refusal(root, inside.stderr)}")
    found = _asked(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    commit = found.stdout.strip()
    # A full hash is taken at its word, even where the repository lacks the commit.
    if found.returncode or _asked(root, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        raise ValueError(_unknown(root, revision))
    if not _has(root, commit, "attention/__init__.py"):
        raise ValueError(f"revision {revision!r} has no attention/; choose a later one")
    return commit


def _unknown(root: Path, revision: str) -> str:
    if _asked(root, "rev-parse", "--is-shallow-repository").stdout.strip() == "true":
        return (f"unknown revision {revision!r}: this is a shallow clone, which may lack the commit; "
                "git fetch --unshallow (in CI: fetch-depth: 0)")
    return f"unknown revision {revision!r}; give a branch, tag or commit, such as main or HEAD~1"


def _refusal(root: Path, said: str) -> str:
    if "not a git repository" in said:
        return f"{root} is in no git repository; measure in a clone"
    return _reason(said)


def _has(root: Path, commit: str, path: str) -> bool:
    """`path` is relative to `root`, which may lie within the repository."""
    return _asked(root, "cat-file", "-e", f"{commit}:./{path}").returncode == 0


def _asked(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_git(root), *arguments], capture_output=True, text=True, check=False)


def _git(root: Path) -> list[str]:
    return ["git", "-C", str(root)]


def _reason(said: str) -> str:
    """The line in which git gives up; after it may stand advice."""
    lines = said.strip().splitlines() or ["it gives no reason"]
    return next((line for line in lines if line.startswith("fatal: ")), lines[-1]).removeprefix("fatal: ")
