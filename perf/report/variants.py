"""The table of variants that the README shows, from the registry: `python -m perf variants`."""
from __future__ import annotations

import re
from collections.abc import Sequence

import attention
from attention.registry import Function, functions

HEADER = ("function", "kind", "paper", "options", "backends")


def table() -> str:
    """A Markdown table: one row a function, what it is, and the backends that compute it."""
    rows = [HEADER, ("---",) * len(HEADER), *map(_row, functions().values())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(function: Function) -> tuple[str, ...]:
    options = ", ".join(f"`{name}={default!r}`" for name, default in function.options.items())
    backends = ", ".join(f"`{name.partition(':')[2]}`" for name in attention.names(function.name))
    return f"`{function.name}`", function.kind, _linked(function.paper), options or "-", backends


def _linked(paper: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", paper)


def variants(arguments: Sequence[str]) -> None:
    """Prints the table. Raises ValueError for an argument: there are none."""
    if arguments:
        raise ValueError(f"unknown argument {arguments[0]!r}; it takes none")
    print(table())
