"""The two trees that are compared: a revision's `attention` and `models` under today's harness, and the working tree.

    base = Base(root, "main")              # ValueError, in one line, for what is no revision to measure
    with base.checkout() as folder: ...    # a temporary folder: links to the harness, attention/ and models/ of main

Git's index, worktrees and branches are never touched, and neither are uncommitted changes.
"""
from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from perf.system import git

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("attention", "models")  # what comes from the revision
HARNESS = ("perf", "conftest.py", "pyproject.toml")  # what does not


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
        held = [package for package in PACKAGES if git.has(self.root, self.commit, package)]
        with tempfile.TemporaryFile() as archive:
            done = git.run(self.root, "archive", "--format=tar", self.commit, "--", *held, stdout=archive)
            if done.returncode:
                raise ValueError(f"git can't read {self.name}: {git.reason(done.stderr)}")
            archive.seek(0)
            with tarfile.open(fileobj=archive) as tar:
                tar.extractall(folder, filter="tar")
        for package in sorted(set(PACKAGES) - set(held)):
            stand_in(folder / package, f"{self.name} has no {package}/")


def stand_in(package: Path, why: str) -> None:
    """Writes a package that can't be imported, where a revision lacks it: an installed one must not take its place."""
    package.mkdir()
    (package / "__init__.py").write_text(f"raise ImportError({why!r})\n", encoding="utf-8")


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
    try:
        git.text(root, "rev-parse", "--is-inside-work-tree")
    except ValueError as error:
        no_repository = "not a git repository" in str(error)
        why = f"{root} is in no git repository; measure in a clone" if no_repository else error
        raise ValueError(f"revision {revision!r} can't be read: {why}") from None
    verified = git.run(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    commit = verified.stdout.strip()
    # git takes a full hash at its word, even where the repository lacks the commit.
    if verified.returncode or git.run(root, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        raise ValueError(_unknown(root, revision))
    if not git.has(root, commit, "attention/__init__.py"):
        raise ValueError(f"revision {revision!r} has no attention/; choose a later one")
    return commit


def _unknown(root: Path, revision: str) -> str:
    if git.text(root, "rev-parse", "--is-shallow-repository") == "true":
        return (f"unknown revision {revision!r}: this is a shallow clone, which may lack the commit; "
                "git fetch --unshallow (in CI: fetch-depth: 0)")
    return f"unknown revision {revision!r}; give a branch, tag or commit, such as main or HEAD~1"
