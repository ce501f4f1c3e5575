"""The harness takes a workload from its name to a verdict, and keeps and tells what came of it."""
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def keep_apart() -> None:
    """Takes the packages that are found elsewhere than they are installed out of the reach of an editable install.

    Its import hook finds each module of an installed package by itself: where a revision's `attention/` stands first on
    the path and lacks a file, Python would take that one file from the working tree, without a word.
    """
    for finder in sys.meta_path:
        mapping = getattr(sys.modules.get(getattr(finder, "__module__", "")), "MAPPING", None)
        if not isinstance(mapping, dict):
            continue
        for name in [name for name in mapping if "." not in name]:
            if not _lies_in(name, Path(mapping[name])):
                del mapping[name]


def _lies_in(name: str, folder: Path) -> bool:
    loaded = sys.modules.get(name)
    origin = getattr(loaded, "__file__", None) or getattr(importlib.util.find_spec(name), "origin", None)
    return origin is None or Path(origin).resolve().is_relative_to(folder.resolve())


keep_apart()  # before anything of attention/ or models/ is imported
