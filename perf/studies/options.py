"""Gives the studies the options that they share."""
from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

from perf.system.devices import HELP, device


def parser(study: str, about: str | None, parts: Collection[str] = (),
           minutes: float = 40) -> argparse.ArgumentParser:
    """Makes the parser of the module of this name and docstring; what else it takes it adds. `minutes` is the default
    of its limit."""
    options = argparse.ArgumentParser(prog=f"python -m perf.studies.{study}", description=about,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    add = options.add_argument
    add("--out", type=Path, required=True, help="file that records are appended to, JSON lines")
    add("--device", type=device, default=device(None), help=HELP)
    add("--tiny", action="store_true", help="the smallest sizes: shows that it runs, and no finding")
    add("--minutes", type=float, default=minutes, help=f"after which no part is begun (default: {minutes:g})")
    if parts:
        add("--part", action="append", default=[], choices=parts, help="only this part; may be repeated")
    return options
