"""The rule refuses the mutants of every function, as docs/mutants.md says; what survives is listed there."""
from __future__ import annotations

import pytest

from attention import DTYPES, registry
from attention.testing import score

LINES = {line.split("`")[1]: line for line in score.PAGE.read_text().splitlines() if line.startswith("| `")}


def test_the_page_has_every_function() -> None:
    assert list(LINES) == sorted(registry.functions())
    assert score.PAGE.read_text().startswith(score.HEADER)


@pytest.mark.parametrize("dtype", [pytest.param(dtype, marks=() if dtype == "bf16" else pytest.mark.slow)
                                   for dtype in score.DTYPES])
@pytest.mark.parametrize("function", sorted(registry.functions()))
def test_mutants_are_refused_as_the_page_says(function: str, dtype: str) -> None:
    results = list(score.outcomes(function, DTYPES[dtype]))
    _, _, *shares, alive, _ = (cell.strip() for cell in LINES[function].split("|"))
    assert shares[score.DTYPES.index(dtype)] == score.share(results)
    names = {name.strip() for part in alive.split(":")[:1] for name in part.split(";")}
    assert {name for name in names if name.endswith(f"in {dtype}")} == score.survivors(dtype, results)
