"""`python -m perf COMMAND` does what is done outside a pytest run. The commands are in perf/commands/."""
from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from perf.commands import alert, bisect, evidence, fastest, history, invariance, machine, merge, nightly
from perf.commands.parser import Parser
from perf.system.exit_codes import REFUSED


def parser() -> tuple[Parser, list[str]]:
    """Makes one parser for all commands, and lists their names."""
    whole = Parser(prog="python -m perf", description=__doc__)
    commands = whole.add_subparsers(metavar="COMMAND", required=True)
    for module in (machine, evidence, merge, bisect, fastest, invariance, alert, nightly, history):
        module.add(commands)
    return whole, list(commands.choices)


def main(arguments: Sequence[str]) -> int:
    """Runs a command and returns its exit code. What stands behind `--` goes to the pytest that the command starts."""
    words = list(arguments)
    name = words[0] if words else None
    whole, names = parser()
    who = f"python -m perf {name}" if name in names else "python -m perf"
    at = words.index("--") if "--" in words else len(words)
    try:
        if name is None or not (name in names or name.startswith("-")):
            what = "no command given" if name is None else f"unknown command {name!r}"
            raise ValueError(f"{what}; choose from {', '.join(names)}")
        options = whole.parse_args(words[:at])
        if words[at:]:
            if not hasattr(options, "pytest"):
                raise ValueError("-- begins pytest's options, and this starts no pytest; leave it out")
            options.pytest = words[at + 1:]
        return options.run(options)
    except ValueError as error:  # what the command refuses, in one line
        print(f"{who}: {error}", file=sys.stderr)
        return REFUSED
    except ModuleNotFoundError as error:
        if (error.name or "perf").startswith(("perf", "models", "attention")):
            raise
        print(f"{who}: {sys.executable} has no {error.name}; call a Python that has it, as .tox/perf/bin/python after "
              "tox run -e perf, or install it there: pip install -e .", file=sys.stderr)
        return REFUSED


if __name__ == "__main__":
    warnings.formatwarning = lambda message, *_: f"{message}\n"  # one line, without the code that warned
    sys.exit(main(sys.argv[1:]))
