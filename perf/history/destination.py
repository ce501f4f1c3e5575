"""Says where the history is, and whether what is measured now may go there."""
from __future__ import annotations

from pathlib import Path

from asv.config import Config

from perf.history.results import ASK
from perf.measure import machine

CONF = "asv.conf.json"


def results_dir(root: Path) -> Path:
    """Reads from asv.conf.json in which folder asv keeps its results. Raises ValueError if there is none."""
    path = root / CONF
    if not path.exists():
        raise ValueError(f"there is no {CONF} in {root}, which says where asv's results are; name a folder")
    return root / Config.load(str(path)).results_dir


def folder(named: Path | None, root: Path, *, dirty: bool = False) -> Path:
    """Returns `named`, or the folder of asv.conf.json in `root`.

    Raises ValueError, in one line, for a folder of something else, and where what is measured is of no commit.
    """
    path = results_dir(root) if named is None else named
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; name a folder")
    content = [one for one in path.iterdir() if one.name[0] != "."] if path.is_dir() else []  # git wants a .keep
    if content and not (path / "benchmarks.json").exists():
        raise ValueError(f"{path} is no folder of asv results; name one, as in --perf-history=FOLDER, or give the "
                         "option last for the default")
    revision = machine.revision()
    if revision is None:
        raise ValueError("what is measured is of no commit: this is no git repository; measure in a clone")
    if revision.endswith("+dirty") and not dirty:
        raise ValueError(f"uncommitted changes: what is measured is of no commit; commit them, or {ASK}")
    return path
