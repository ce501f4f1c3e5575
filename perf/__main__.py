"""`python -m perf COMMAND`: what is done outside a pytest run."""
from __future__ import annotations

import sys
from collections.abc import Callable, Sequence


def machine(arguments: Sequence[str]) -> int:
    """Prints the fingerprint that evidence carries, and whether the machine is fit to measure: 1 if it is not."""
    import torch

    from perf.report.machine import report

    if len(arguments) > 1:
        raise ValueError(f"unknown argument {arguments[1]!r}; it takes a device at most, such as cuda:1")
    device = arguments[0] if arguments else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        text, why = report(torch.device(device))
    except (AssertionError, RuntimeError) as error:  # torch's own word on a device that can't be
        raise ValueError(f"no device {device!r} here: {str(error).splitlines()[0]}") from None
    print(text)
    if why:
        print(f"unfit: {why}", file=sys.stderr)
    return 1 if why else 0


def variants(arguments: Sequence[str]) -> None:
    """Prints the README's table of variants."""
    from perf.report.variants import variants

    variants(arguments)


def plot(arguments: Sequence[str]) -> None:
    """Draws the TFLOP/s of an evidence file over n."""
    from perf.report.plot import plot

    plot(arguments)


def repeatability(arguments: Sequence[str]) -> None:
    """Shows how far medians of fresh processes spread, and how far the clock lies from the profiler."""
    from perf.commands.repeatability import main

    main(arguments)


def report(arguments: Sequence[str]) -> None:
    """Writes an evidence file as one HTML page."""
    from perf.web.page import report

    report(arguments)


def bisect(arguments: Sequence[str]) -> int | None:
    """Finds the commit that made a benchmark slow: --good REV --bad REV BENCHMARK."""
    from perf.commands.bisect import main

    return main(arguments)


def selftest(arguments: Sequence[str]) -> int | None:
    """Shows what this machine can certify: the same code against itself, and slowdowns put in on purpose."""
    from perf.commands.selftest import main

    return main(arguments)


def site(arguments: Sequence[str]) -> int:
    """Publishes the history as web pages that load nothing from elsewhere."""
    from perf.web.site import main

    return main(arguments)


def alert(arguments: Sequence[str]) -> int:
    """Says what a night or a comparison found: issues, a comment, a summary, a table, a webhook."""
    from perf.commands.alert import main

    return main(arguments)


def nightly(arguments: Sequence[str]) -> int:
    """One night: fit machine, tests, benchmarks, verdict, bisection, alert, site."""
    from perf.commands.nightly import main

    return main(arguments)


def accept(arguments: Sequence[str]) -> None:
    """Accepts a change for the worse, so that nobody is alerted to it."""
    from perf.commands.accept import main

    main(arguments)


def history(arguments: Sequence[str]) -> int:
    """The history of every commit: add evidence to it, show its changes, push, pull and prune its branch."""
    from perf.commands.history import main

    return main(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "machine": machine, "variants": variants, "plot": plot, "report": report,
    "repeatability": repeatability, "bisect": bisect, "selftest": selftest, "site": site,
    "alert": alert, "accept": accept, "nightly": nightly, "history": history}


def main(arguments: Sequence[str]) -> int:
    name = arguments[0] if arguments else None
    if name not in COMMANDS:
        said = "no command given" if name is None else f"unknown command {name!r}"
        print(f"python -m perf: {said}; choose from {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return COMMANDS[name](arguments[1:]) or 0
    except ValueError as error:  # what the command refuses, in one line
        print(f"python -m perf {name}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
