"""The options of `pytest perf/` that are axes of a grid: a list of values each, by comma."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from perf.workloads.workload import BARE_PHASES, UNQUANTISED, parse_length

COMPILED = {"yes": (True,), "no": (False,), "both": (False, True)}
MASKS = {"causal": (True,), "full": (False,), "both": (True, False)}
FLAGS = {"causal": MASKS, "compiled": COMPILED}
WITH_ALL = ("functions", "quantizations")
LARGEST_HEAD_DIM = 1024

# option -> field of the workload, help
AXES = {
    "functions": ("function", "attention functions, or all"),
    "backends": ("backend", "backends"),
    "seqlens": ("n", "sequence lengths; 8k is 8192"),
    "batches": ("batch", "batch sizes"),
    "heads": ("heads", "query heads"),
    "kv_heads": ("kv_heads", "key/value heads; they divide the query heads"),
    "head_dims": ("head_dim", "head dimensions"),
    "causal": ("causal", "causal, full or both"),
    "dtypes": ("dtype", "dtypes"),
    "phases": ("phase", "phases, of kernels and of models"),
    "quantizations": ("quantization", "methods of quantising a model; none, or all"),
    "compiled": ("compiled", "yes, no or both: models under torch.compile"),
}


def flag(name: str) -> str:
    """Spells an option as on the command line."""
    return "--perf-" + name.replace("_", "-")


def values(name: str, text: str) -> list[Any]:
    """Reads the list that an axis was given. Raises UsageError, in one line, for a word that is none of its."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise pytest.UsageError(f"{flag(name)} is empty; give {AXES[name][1]}")
    if name in WITH_ALL and words == ["all"]:
        return [choice for choice in _choices(name) if choice != UNQUANTISED]
    if name in FLAGS:
        return list(dict.fromkeys(c for word in words for c in FLAGS[name][one_of(name, word, list(FLAGS[name]))]))
    if choices := _choices(name):
        return [one_of(name, word, choices) for word in words]
    parse = parse_length if name == "seqlens" else _whole_number
    return [_number(name, word, parse) for word in words]


def _choices(name: str) -> list[str]:
    """Lists the words that an option takes; none if it takes numbers."""
    import attention
    import models
    from attention.registry import functions
    from perf.workloads.grids import quantizations

    if name == "functions":
        return list(functions())
    if name == "backends":
        return list(dict.fromkeys(variant.partition(":")[2] for variant in attention.names()))
    if name == "dtypes":
        return list(attention.DTYPES)
    if name == "phases":
        of_models = (phase for preset in models.presets().values() for phase in preset.phases)
        return list(dict.fromkeys((*BARE_PHASES, *of_models)))
    if name == "quantizations":
        return [UNQUANTISED, *quantizations()]
    return []


def one_of(name: str, word: str, choices: Sequence[str]) -> str:
    """Gives the word back. Raises UsageError, which lists the choices, for another."""
    if word not in choices:
        extra = ", all" if name in WITH_ALL else ""
        what = {"causal": "mask", "compiled": "choice"}.get(name, name.removesuffix("s"))
        raise pytest.UsageError(f"{flag(name)}: unknown {what} {word!r}; choose from {', '.join(choices)}{extra}")
    return word


def _number(name: str, word: str, parse: Callable[[str], int]) -> int:
    try:
        value = parse(word)
    except ValueError as error:
        raise pytest.UsageError(f"{flag(name)}: {error}") from None
    if name == "head_dims" and value > LARGEST_HEAD_DIM:
        raise pytest.UsageError(f"--perf-head-dims: {value} is not a head_dim; give 1 to {LARGEST_HEAD_DIM}, "
                                "such as 64 or 128")
    return value


def _whole_number(word: str) -> int:
    if not (word.isascii() and word.isdigit() and int(word) > 0):
        raise ValueError(f"{word!r} is not possible; give a whole number of at least 1")
    return int(word)
