"""One night, from a fit machine to an alert: `python -m perf nightly` (docs/nightly-run.md).

What runs is a list of steps (night.py), each of which leaves its result in the night's folder (folder.py) as soon as
it is done, so that a killed night goes on where it was (steps.py). What measures is a process of its own, and holds
the machine's lock (process.py, lock.py).

| step | file |
|---|---|
| machine, tests, benchmarks | measuring.py |
| launches, screen, learn | screening.py; controls.py measures, nights.py remembers |
| verdict | verdict.py asks, compare.py measures |
| bisection | bisection.py asks, blame.py measures |
| alert, site | telling.py; what they tell is record.py's |
"""
