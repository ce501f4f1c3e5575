"""The releases of a package as a line to bisect: python -m perf bisect --versions torchao --good 0.14 --bad 0.18 ...

Every side is the working tree in this environment with one release of the package.
"""
from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from packaging.version import InvalidVersion, Version

from perf.compare.bisect import Line
from perf.compare.checkout import working_tree
from perf.compare.environments import inside, pip, with_versions
from perf.compare.side import Side


def releases(package: str, good: str, bad: str, root: Path, *, pre: bool = False) -> Line:
    """Lists the releases after `good` up to `bad` that the index offers; with `pre`, pre-releases too.

    Raises ValueError, in one line, for a package or release that the index doesn't have.
    """
    offered = sorted(map(Version, _offered(package, root, pre=pre)))
    first, last = (_chosen(package, name, offered) for name in (good, bad))
    names = [str(one) for one in offered if first < one <= last]
    if not names:
        raise ValueError(f"{package} {bad} is no later than {good}; give an older --good")

    @contextmanager
    def side(name: str) -> Iterator[Side]:
        environment = with_versions([f"{package}=={name}"], root)
        with working_tree(root) as tree:
            yield inside(tree, environment)

    return Line(str(first), names, f"releases of {package}", side, lambda name: f"{package} {name}")


def _offered(package: str, root: Path, *, pre: bool) -> list[str]:
    """Asks the index."""
    words = [*pip(with_versions([], root).python), "index", "versions", package, *(["--pre"] if pre else [])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("Available versions:"):
            return [name.strip() for name in line.partition(":")[2].split(",")]
    errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    raise ValueError(f"pip finds no releases of {package}: {(errors or ['no reason given'])[-1]}")


def _chosen(package: str, name: str, offered: Sequence[Version]) -> Version:
    try:
        return next(one for one in offered if one == Version(name))
    except (StopIteration, InvalidVersion):
        newest = ", ".join(map(str, offered[-5:]))
        raise ValueError(f"the index offers no {package} {name}; the newest are {newest}") from None
