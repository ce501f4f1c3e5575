"""`python -m perf COMMAND`: what is done outside a pytest run."""
from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence


def machine(arguments: Sequence[str]) -> None:
    """Prints the fingerprint that evidence carries."""
    from perf.measure.machine import fingerprint, identity

    print(json.dumps({"id": identity(), **fingerprint()}, indent=2))


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"machine": machine}


def main(arguments: Sequence[str]) -> int:
    name = arguments[0] if arguments else None
    if name not in COMMANDS:
        said = "no command given" if name is None else f"unknown command {name!r}"
        print(f"python -m perf: {said}; choose from {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    COMMANDS[name](arguments[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
