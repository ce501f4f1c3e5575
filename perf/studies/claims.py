"""A study's claims, each beside what this run measured, and the tables they are read from."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from perf.studies.measuring import Study

Cell = float | int | str | None


@dataclass(frozen=True)
class Claim:
    """What a study `published` and this run `measured`; `holds` is None where they can't be compared, and `why` says
    what decided."""

    said: str
    published: str
    measured: str
    holds: bool | None
    why: str = ""

    @property
    def word(self) -> str:
        return "not comparable" if self.holds is None else "holds" if self.holds else "FAILS"

    def __str__(self) -> str:
        why = f" ({self.why})" if self.why else ""
        return f"{self.word:14} {self.said}: published {self.published}\n{'':14} measured {self.measured}{why}"


class Claims:
    """Those of one study, as records too."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.all: list[Claim] = []

    def add(self, said: str, published: str, measured: str, holds: bool | None, why: str = "") -> None:
        self.all.append(claim := Claim(said, published, measured, holds, why))
        self.study.write("claim", {**asdict(claim), "word": claim.word})

    def end(self) -> int:
        """Prints them, then what failed; 1 only where a part could not be measured. A claim that fails is a finding."""
        missing = [f"NOT MEASURED   {said}" for said in dict.fromkeys(self.study.failures)]
        print("\nClaims, published beside measured:", *map(str, self.all), *missing, f"records: {self.study.out}",
              sep="\n")
        return 1 if self.study.failures else 0


def table(title: str, rows: Sequence[Mapping[str, Cell]]) -> str:
    """Rows as lines under their columns, in the order in which these first appear; what is not there is "-"."""
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
