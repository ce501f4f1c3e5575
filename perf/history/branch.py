"""Keeps the history on a branch of its own, `perf-history`: the working tree, the index and other branches are left
alone.

    push(folder, root)     # what the folder has, merged into the branch of the remote; again, if others push meanwhile
    pull(folder, root)     # what the branch has, merged into the folder
    prune(root, ...)       # the branch as one commit of what is left: git forgets the rest

The branch shares no commit with any other. asv's results are in its folder results/; what else it has (the nights'
records) stays as it is. Without a remote the branch is the repository's own.
"""
from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from perf.history import merge
from perf.system import git

BRANCH = "perf-history"
REF = f"refs/heads/{BRANCH}"
RESULTS = "results"  # on the branch
TRIES = 10
NOBODY = {"NAME": "perf history", "EMAIL": "perf-history@localhost"}  # where git knows no name


def push(folder: Path, root: Path, remote: str | None = "origin") -> list[str]:
    """Returns what of `folder` could not be read. Raises ValueError, in one line, for what git refuses."""
    return _changed(root, remote, f"History of {folder.name}", lambda tree: merge.merge_folders(folder, tree / RESULTS))


def pull(folder: Path, root: Path, remote: str | None = "origin") -> list[str]:
    """Returns what of the branch could not be read. Raises ValueError, in one line, if there is no such branch."""
    with _work_tree(root, tip := _tip(root, remote)) as tree:
        if tip is None:
            raise ValueError(f"there is no branch {BRANCH} {'at ' + remote if remote else 'here'} yet; push makes one")
        return merge.merge_folders(tree / RESULTS, folder)


def prune(root: Path, remote: str | None = "origin", *, days: float, sample_days: float) -> tuple[int, int, list[str]]:
    """Does as `merge.prune` on the branch, which becomes one commit without a past. Raises as `push`."""
    counts: tuple[int, int, list[str]] = (0, 0, [])

    def change(tree: Path) -> list[str]:
        nonlocal counts
        (tree / RESULTS).mkdir(exist_ok=True)
        counts = merge.prune(tree / RESULTS, days=days, sample_days=sample_days)
        return counts[2]

    _changed(root, remote, f"History of the last {days:g} days", change, past=False)
    return counts


def _changed(root: Path, remote: str | None, message: str, change: Callable[[Path], list[str]], *,
             past: bool = True) -> list[str]:
    """Commits what `change` makes of the branch's tree, and starts over when someone else was faster."""
    for attempt in range(TRIES):
        tip = _tip(root, remote)
        with _work_tree(root, tip) as tree:
            problems = change(tree)
            commit = _commit(root, tree, message, tip if past else None)
        if tip and past and _git(root, "rev-parse", f"{commit}^{{tree}}") == _git(root, "rev-parse", f"{tip}^{{tree}}"):
            break  # nothing new
        try:
            if remote:
                _git(root, "push", "--quiet", f"--force-with-lease={REF}:{tip or ''}", remote, f"{commit}:{REF}")
            else:
                _git(root, "update-ref", REF, commit, tip or "0" * 40)
            break
        except ValueError as error:
            if _tip(root, remote) == tip or attempt + 1 == TRIES:  # nobody was faster: it will be refused again
                raise ValueError(f"the history can't be pushed: {error}") from None
    return problems


def _tip(root: Path, remote: str | None) -> str | None:
    """Returns the branch's commit, which it fetches if that is the remote's; None if there is no such branch."""
    if remote is None:
        return _git(root, "for-each-ref", "--format=%(objectname)", REF) or None
    listed = _git(root, "ls-remote", remote, REF)
    if not listed:
        return None
    _git(root, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", remote, REF)
    return listed.split()[0]


@contextmanager
def _work_tree(root: Path, commit: str | None) -> Iterator[Path]:
    """Gives a temporary folder with the commit's files, and an index of its own."""
    with tempfile.TemporaryDirectory(prefix="perf-history-") as scratch:
        tree = Path(scratch, "tree")
        tree.mkdir()
        if commit:
            _git(root, "read-tree", commit, index=tree)
            _git(root, "-c", "core.symlinks=false", "checkout-index", "--all", f"--prefix={tree}{os.sep}", index=tree)
        yield tree


def _commit(root: Path, tree: Path, message: str, parent: str | None) -> str:
    _git(root, f"--work-tree={tree}", "add", "--all", "--force", "--", ":/", ":(exclude,glob)**/.lock", index=tree)
    tree_name = _git(root, "write-tree", index=tree)
    return _git(root, "commit-tree", tree_name, "-m", message, *(["-p", parent] if parent else []))


def _git(root: Path, *words: str, index: Path | None = None) -> str:
    """Runs git with an index of its own and returns what it prints. Raises ValueError with the line in which it gives
    up."""
    names = {f"GIT_{role}_{name}": value for role in ("AUTHOR", "COMMITTER") for name, value in NOBODY.items()}
    unnamed = git.run(root, "config", "user.email").returncode
    variables = {name: os.environ.get(name, value) for name, value in names.items()} if unnamed else {}
    variables |= {"GIT_INDEX_FILE": f"{index}.index"} if index else {}
    return git.text(root, *words, variables={**variables, "GIT_TERMINAL_PROMPT": "0"})
