"""`python -m perf COMMAND`: what is done outside a pytest run."""
from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence


def machine(arguments: Sequence[str]) -> None:
    """Prints the fingerprint that evidence carries."""
    from perf.measure.machine import fingerprint, identity

    print(json.dumps({"id": identity(), **fingerprint()}, indent=2))


def variants(arguments: Sequence[str]) -> None:
    """Prints the README's table of variants."""
    from perf.report.variants import variants

    variants(arguments)


def plot(arguments: Sequence[str]) -> None:
    """Draws the TFLOP/s of an evidence file over n."""
    from perf.report.plot import plot

    plot(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"machine": machine, "variants": variants, "plot": plot}


def main(arguments: Sequence[str]) -> int:
    name = arguments[0] if arguments else None
    if name not in COMMANDS:
        said = "no command given" if name is None else f"unknown command {name!r}"
        print(f"python -m perf: {said}; choose from {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        COMMANDS[name](arguments[1:])
    except ValueError as error:  # what the command refuses, in one line
        print(f"python -m perf {name}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
