"""`python -m perf COMMAND` does what is done outside a pytest run. Each command is a file of perf/commands/."""
from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from perf.commands import (
    accept,
    alert,
    bisect,
    fastest,
    history,
    invariance,
    machine,
    nightly,
    plot,
    repeatability,
    report,
    selftest,
    site,
    variants,
)
from perf.commands.parser import Parser
from perf.system.exit_codes import REFUSED

COMMANDS = {module.__name__.rpartition(".")[2]: module for module in (
    machine, variants, plot, report, repeatability, bisect, selftest, site, alert, accept, nightly, history,
    fastest, invariance)}


def parser() -> Parser:
    """One parser for all commands. Each has the text of its file, its arguments (`add`) and its action (`run`)."""
    made = Parser(prog="python -m perf", description=__doc__)
    commands = made.add_subparsers(metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        text = module.__doc__ or ""
        one = commands.add_parser(name, help=text.splitlines()[0], description=text)
        one.set_defaults(run=module.run)
        module.add(one)
    return made


def main(arguments: Sequence[str]) -> int:
    """Runs a command and returns its exit code. What stands behind `--` goes to the pytest that the command starts."""
    words = list(arguments)
    name = words[0] if words else None
    who = f"python -m perf {name}" if name in COMMANDS else "python -m perf"
    at = words.index("--") if "--" in words else len(words)
    try:
        if name is None or not (name in COMMANDS or name.startswith("-")):
            what = "no command given" if name is None else f"unknown command {name!r}"
            raise ValueError(f"{what}; choose from {', '.join(COMMANDS)}")
        options = parser().parse_args(words[:at])
        if words[at:]:
            if not hasattr(options, "pytest"):
                raise ValueError("-- begins pytest's options, and this starts no pytest; leave it out")
            options.pytest = words[at + 1:]
        return options.run(options)
    except ValueError as error:  # what the command refuses, in one line
        print(f"{who}: {error}", file=sys.stderr)
        return REFUSED


if __name__ == "__main__":
    warnings.formatwarning = lambda message, *_: f"{message}\n"  # one line, without the code that warned
    sys.exit(main(sys.argv[1:]))
