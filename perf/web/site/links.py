"""Writes the addresses of asv's graphs, with their parameters chosen, as asv's own page does (www/asv.js, asv 0.6.6).

    asv/index.html#attention.SoftmaxForwardH8D64Fp32.time_call?machine=a100&p-backend='fa2'&p-n=1024

A parameter of the benchmark is "p-" and its name, its value Python's repr; what else asv tells series apart by
(machine, versions) stands under its own name, and only where it has two values or more. "x-axis" is "commit" or a
parameter, "y-axis-scale" is "log", "commits" marks a commit or a range.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

PAGE = "asv/index.html"
NONE = "[none]"  # a value that is null
AS_ENCODE_URI_COMPONENT = "-_.!~*'()"


def graph(benchmark: str, chosen: Mapping[str, Iterable[str | None]], *, commits: Sequence[str] = (),
          x_axis: str | None = None, log: bool = False) -> str:
    """Returns the address of `benchmark`'s graph, relative to the front page.

    `chosen` are the values shown of each parameter or property, none of one that is left open.
    """
    pairs = [(key, NONE if value is None else value) for key, values in chosen.items() for value in values]
    pairs += [("x-axis", x_axis)] if x_axis else []
    pairs += [("y-axis-scale", "log")] if log else []
    pairs += [("commits", commit) for commit in commits]
    query = "&".join(f"{_quoted(key)}={_quoted(value)}" for key, value in pairs)
    return f"{PAGE}#{_quoted(benchmark)}{'?' + query if query else ''}"


def page(name: str) -> str:
    """Returns the address of one of asv's own pages: "" is its grid, "summarylist", "regressions"."""
    return f"{PAGE}#/{name}"


def _quoted(text: str) -> str:
    return quote(text, safe=AS_ENCODE_URI_COMPONENT)
