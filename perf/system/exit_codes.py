"""The exit codes of `pytest perf/` and of `python -m perf`; below 6 they are pytest's own numbers too."""
from __future__ import annotations

OK = 0
FAILED = 1  # something regressed or is wrong, or was not found, not fit, not delivered: each command says which
REFUSED = 2  # impossible options: one line, nothing was done
STEP_FAILED = 3  # a step of a night failed; the others' results are kept
NO_TESTS = 5  # pytest's own: it collected none
UNFIT = 10  # the machine was unfit and nothing was decided: try another
UNDECIDED = 11  # what was measured stayed inconclusive
