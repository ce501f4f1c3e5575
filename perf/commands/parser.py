"""Commands share a parser that refuses in one line, a type for whole numbers, and the evidence of a file."""
from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

if TYPE_CHECKING:
    from perf.measure.evidence import Evidence

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"  # what a command is added to


class Parser(argparse.ArgumentParser):
    """Shows a description as it is written. Raises ValueError, in one line, instead of ending the process."""

    def __init__(self, **options: object) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def command(commands: Commands, name: str, run: Callable[[argparse.Namespace], int], text: str | None) -> Parser:
    """Adds a command that `run` carries out, and returns its parser. --help shows its text."""
    text = inspect.cleandoc(text or "")
    one = commands.add_parser(name, help=text.splitlines()[0], description=text)
    one.set_defaults(run=run)
    return one


def whole_number(word: str) -> int:
    """Reads a whole number of at least 1. Raises argparse.ArgumentTypeError for anything else."""
    if not (word.isascii() and word.isdigit() and int(word) > 0):
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number of at least 1")
    return int(word)


def read_evidence(path: Path, verb: str) -> tuple[list[Evidence], dict[str, dict[str, Any]]]:
    """Returns the evidence of a file, and its machines by id. Raises ValueError if there is none to `verb`."""
    from perf.measure.evidence import load, machines

    try:
        rows, known = load(path), machines(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; give an evidence file, such as .perf/evidence.jsonl") from error
    if not rows:
        raise ValueError(f"{path}: nothing to {verb}: it holds no evidence; run pytest perf/ --benchmark-only first")
    return rows, known
