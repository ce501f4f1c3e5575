"""Sets a study's claims beside what this run measured, with a word on each, and prints its tables."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from models.figures import Change
from perf.studies.measuring import Study

Cell = float | int | str | None


# The words on a claim. Only what an interval shows, or a count that carries no noise, "holds" or "FAILS".
HOLDS, FAILS = "holds", "FAILS"
UNDECIDED = "undecided"  # the interval reaches to both sides of what was claimed
NOT_WORSE = "not shown worse"  # no loss is claimed, and the interval includes none
APART = "not comparable"


@dataclass(frozen=True)
class Claim:
    """Sets what a study published beside what this run measured, with the word on it, and what else decided."""

    text: str
    published: str
    measured: str
    word: str
    why: str = ""

    def __str__(self) -> str:
        why = f" ({self.why})" if self.why else ""
        return f"{self.word:16} {self.text}: published {self.published}\n{'':16} measured {self.measured}{why}"


class Claims:
    """Holds the claims of one study, which are records too."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.all: list[Claim] = []

    def add(self, text: str, published: str, measured: str, shown: bool | None, why: str = "", *,
            apart: str = "") -> None:
        """Adds a claim, which is or is not `shown`, or (None) can't be told from this run; `apart` says why it can't
        be compared at all."""
        self._add(Claim(text, published, measured, APART if apart else judge(shown), apart or why))

    def add_no_loss(self, text: str, published: str, change: Change) -> None:
        """Adds a claim that nothing was lost: a change inside the noise shows no loss, and no equality either."""
        word = {"better": HOLDS, "worse": FAILS}.get(change.verdict, NOT_WORSE)
        self._add(Claim(text, published, str(change), word))

    def _add(self, claim: Claim) -> None:
        self.all.append(claim)
        self.study.write("claim", asdict(claim))

    def end(self) -> int:
        """Prints them, then the parts that failed. Gives 1 only where a part could not be measured: a claim that fails
        is a finding."""
        missing = [f"NOT MEASURED     {part}" for part in dict.fromkeys(self.study.failures)]
        print("\nClaims, published beside measured:", *map(str, self.all), *missing, f"records: {self.study.out}",
              sep="\n")
        return 1 if self.study.failures else 0


def judge(shown: bool | None) -> str:
    """Gives the word on a claim that is shown, is shown to be false, or (None) is neither."""
    return UNDECIDED if shown is None else HOLDS if shown else FAILS


def spread(change: Change) -> str:
    """Writes "-0.74 (-2.11 to +0.57)", a change with its interval."""
    return f"{change.difference:+.2f} ({change.low:+.2f} to {change.high:+.2f})"


def in_percent(change: Change) -> Change:
    """Gives a change in percent of what it is from."""
    return replace(change, low=100 * change.low / change.base, high=100 * change.high / change.base,
                   new=100 * change.new / change.base, base=100.0)


def table(title: str, rows: Sequence[Mapping[str, Cell]]) -> str:
    """Sets rows as lines under their columns, in the order in which these first appear; what is not there is "-"."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *([_shown(row.get(column)) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) if not i else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in cells]
    return "\n".join(["", title, *lines])


def _shown(cell: Any) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4g}" if abs(cell) < 1000 else f"{cell:.0f}"
    return str(cell)
