"""Data that needs no network: data sets inside installed packages, and readers for the files of the studies.

| module | what | from |
| --- | --- | --- |
| `digits` | 1797 images of handwritten digits, two photographs | scikit-learn |
| `docstrings` | text and its first line, a tokenizer | Python's standard library |
| `series` | three monthly series, windows over any | statsmodels |
| `listops` | nested lists and the digit they come to, of any length | drawn from a seed |
| `pathfinder` | images of curves and two dots, of any size | drawn from a seed |
| `passages` | bytes of source code and the package they are from | Python's standard library |
| `arena` | Long Range Arena's five tasks, of any length | the modules above |
| `flowers` | photographs in a folder a class | a path: Flowers-102 |
| `news` | articles and highlights | a path: CNN/DailyMail, JSON lines or parquet |
| `electricity` | hourly series of 370 clients | a path: UCI's LD2011_2014.txt |
"""
from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from models.registry import Preset, get

# family -> module with `split(preset)`
MODULES = {"vit": "digits", "gpt2": "docstrings", "tft": "series", "forecasting": "series"}


def module(preset: str | Preset) -> ModuleType:
    """Imports the module with the embedded data of a preset's family. Raises ValueError if there is none."""
    preset = get(preset)
    if preset.family not in MODULES:
        raise ValueError(f"{preset.name}: no embedded data for the family {preset.family}; "
                         f"families with some: {', '.join(MODULES)}")
    return importlib.import_module(f"models.data.{MODULES[preset.family]}")


def split(preset: str | Preset) -> tuple[Any, Any]:
    """Gives (training, held-out) data that suit a preset. Raises ValueError for a family without embedded data."""
    preset = get(preset)
    return module(preset).split(preset)
