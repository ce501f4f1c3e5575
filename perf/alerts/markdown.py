"""Markdown of text that others wrote: shown as it is, never interpreted.

Commit subjects, authors, branches and the names of kernels may hold Markdown, HTML, mentions, links or workflow
commands. They stand in code spans, in which GitHub reads none of these. A "|" would end a table's cell even there.
"""
from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

LONGEST = 200  # characters of one text
BARS = "▁▂▃▄▅▆▇█"
# What a command of ours begins with, and the options it may have: others load plug-ins or name other folders.
OPTIONS = {("python", "-m", "pytest"): r"-k|--pyargs|--(?:perf|benchmark)-[a-z-]+",
           ("python", "-m", "perf"): r"--[a-z-]+"}
VALUE = r"[A-Za-z0-9_.,:/@%+~^* \[\]][A-Za-z0-9_.,:/@%+~^* \[\]=-]*"  # no shell reads more into it, quoted or not


def plain(text: str, longest: int = LONGEST) -> str:
    """Cuts a text to one line of what can be printed; bidirectional and other invisible characters are left out."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= longest else f"{line[:longest - 1].rstrip()}…"


def code(text: str, longest: int = LONGEST) -> str:
    """Writes a code span, for a paragraph or a table's cell; an empty text is "-"."""
    line = plain(text, longest).replace("|", "¦")
    if not line:
        return "-"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line[0] == "`" or line[-1] == "`" else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def command_block(command: str) -> str | None:
    """Writes a command of this project as a block to copy; None for one that could do something else."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    for start, option in OPTIONS.items():
        rest = words[len(start):] if tuple(words[:len(start)]) == start else []
        if rest and all(re.fullmatch(rf"{VALUE}|(?:{option})(?:={VALUE})?", word) for word in rest):
            return f"```sh\n{shlex.join(words)}\n```"
    return None


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Writes a table of cells that are Markdown already; columns named in `right` are aligned to the right."""
    rule = ["---:" if name in right else "---" for name in header]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def fold(title: str, inside: str) -> str:
    """Writes a fold that opens by a click; `title` is our own text."""
    return f"<details><summary>{title}</summary>\n\n{inside}\n\n</details>"


def sparkline(values: Sequence[float]) -> str:
    """Draws the values from the lowest to the highest: "▁▁▁▅█"."""
    if not values:
        return ""
    low, high = min(values), max(values)
    if high <= low:
        return BARS[0] * len(values)
    parts = ((value / 2 - low / 2) / (high / 2 - low / 2) for value in values)  # halves: no difference is infinite
    return "".join(BARS[min(len(BARS) - 1, int(len(BARS) * part))] for part in parts)
