"""The parser that all commands share: what it refuses is one line."""
from __future__ import annotations

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Shows a description as it is written. Raises ValueError, in one line, instead of ending the process."""

    def __init__(self, **options: object) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def whole_number(word: str) -> int:
    """Reads a whole number of at least 1. Raises argparse.ArgumentTypeError for anything else."""
    if not (word.isascii() and word.isdigit() and int(word) > 0):
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number of at least 1")
    return int(word)
