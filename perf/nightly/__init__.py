"""One night, from a fit machine to an alert: `python -m perf nightly` (docs/nightly-run.md).

A night is a list of steps (schedule.py). Each leaves its result in the night's folder as soon as it ends, so that a
killed night goes on where it was (steps.py). What measures is a process of its own, and holds the machine's
lock (process.py).

| step | file |
|---|---|
| machine, tests, benchmarks | measure.py |
| launches, screen, learn | screen.py; memory.py remembers |
| verdict | verdict.py asks, compare.py measures |
| bisection | bisection.py |
| alert, site | publish.py |
"""
