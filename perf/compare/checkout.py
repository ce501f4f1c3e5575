"""The sides that git gives: a revision's packages under today's harness, and the working tree's.

    with checkout("main", root) as base, working_tree(root) as head: ...   # ValueError, in one line

Git's index, worktrees and branches are never touched, and neither are uncommitted changes.
"""
from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perf.compare.project import Project, build, project
from perf.compare.side import PACKAGES, ROOT, Side
from perf.system import git

JUDGE = ("testing", "function.py")  # of attention/: what is right, and how a function describes itself
HARNESS = ("perf", *PACKAGES, "conftest.py", "pyproject.toml")  # today's, but for the packages that are measured


@contextmanager
def checkout(revision: str, root: Path = ROOT) -> Iterator[Side]:
    """Gives a revision's side, in a temporary folder; one that can't be built is `missing`.

    Raises ValueError, in one line, where there is no git, no repository or no such revision, and where the revision
    lacks the first package.
    """
    this, commit = project(root), resolve(root, revision)
    first = this.places[0]
    if not git.has(root, commit, f"{first}/__init__.py"):
        raise ValueError(f"revision {revision!r} has no {first}/; choose a later one")
    name = revision if commit.startswith(revision) else f"{revision} ({commit[:8]})"
    with _folder(this) as folder:
        reason = build(commit, this, folder) if this.build else _extract(commit, revision, this, folder)
        yield Side(folder, name, this.packages, commit=commit, missing=reason)


@contextmanager
def working_tree(root: Path = ROOT) -> Iterator[Side]:
    """Gives the side of the working tree as it stands, with what is not committed. Raises as `checkout`."""
    this, name = project(root), "the working tree"
    if not this.build and this.places == PACKAGES:
        yield Side(root, name)
        return
    with _folder(this) as folder:
        reason = build(git.working_tree(root), this, folder) if this.build else ""
        for place, package in zip(this.places, this.packages, strict=True) if not this.build else ():
            (folder / package).symlink_to((this.root / place).absolute())
        yield Side(folder, name, this.packages, missing=reason)


@contextmanager
def _folder(this: Project) -> Iterator[Path]:
    """Makes a folder with links to the harness; removes it afterwards, and not what they lead to."""
    folder = Path(tempfile.mkdtemp(prefix="perf-side-"))
    try:
        for name in HARNESS:
            if name not in this.packages and (ROOT / name).exists():
                (folder / name).symlink_to(ROOT / name)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _extract(commit: str, revision: str, this: Project, folder: Path) -> str:
    """Puts a commit's packages into the folder. What it lacks can't be imported: an installed one must not take its
    place."""
    there = [place for place in this.places if git.has(this.root, commit, place)]
    with tempfile.TemporaryDirectory(prefix="perf-tree-") as tree:
        git.extract(this.root, commit, Path(tree), *there)
        for place, package in zip(this.places, this.packages, strict=True):
            if place in there:
                shutil.move(Path(tree, place), folder / package)
            else:
                stand_in(folder / package, f"{revision} has no {place}/")
    return ""


def judge_by_today(package: Path) -> None:
    """Puts today's judge into an `attention/` of the past, whose own may lack what today's harness asks of it.

    The formula stays the commit's own, and so does all that is timed.
    """
    (package / "testing.py").unlink(missing_ok=True)  # it was a module before it was a package
    for name in JUDGE:
        if (package / name).is_dir() and not (package / name).is_symlink():
            shutil.rmtree(package / name)
        (package / name).unlink(missing_ok=True)
        (package / name).symlink_to(ROOT / package.name / name)


def stand_in(package: Path, why: str) -> None:
    """Writes a package that can't be imported."""
    package.mkdir()
    (package / "__init__.py").write_text(f"raise ImportError({why!r})\n", encoding="utf-8")


def resolve(root: Path, revision: str) -> str:
    """Gives the full hash of a commit. Raises ValueError, in one line, as `checkout` does."""
    try:
        git.text(root, "rev-parse", "--is-inside-work-tree")
    except ValueError as error:
        no_repository = "not a git repository" in str(error)
        why = (f"{root} is in no git repository; measure in a clone, or name the packages of your own repository: "
               "perf_packages in its pytest ini") if no_repository else error
        raise ValueError(f"revision {revision!r} can't be read: {why}") from None
    verified = git.run(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    commit = verified.stdout.strip()
    # git takes a full hash at its word, even where the repository lacks the commit.
    if verified.returncode or git.run(root, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        raise ValueError(_unknown(root, revision))
    return commit


def _unknown(root: Path, revision: str) -> str:
    if git.text(root, "rev-parse", "--is-shallow-repository") == "true":
        return (f"unknown revision {revision!r}: this is a shallow clone, which may lack the commit; "
                "git fetch --unshallow (in CI: fetch-depth: 0)")
    return f"unknown revision {revision!r}; give a branch, tag or commit, such as main or HEAD~1"
