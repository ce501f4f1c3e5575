"""These settings say what the project demands; each file stands beside its loader. Another repository has owners and
accepted changes of its own: perf-owners.toml, perf-accepted.toml."""
from __future__ import annotations

from pathlib import Path

LONGEST = 500  # characters of a pattern: fnmatch takes minutes to read one of 100,000 brackets


def check_pattern(text: str) -> None:
    """Raises ValueError, in one line, for a pattern of benchmarks that is longer than any name of one."""
    if len(text) > LONGEST:
        raise ValueError(f"a pattern of {len(text)} characters; give at most {LONGEST}")


def here(file: Path) -> Path:
    """Gives the place of `owners.toml` or `accepted.toml`: where the working directory has its own, that one."""
    own = Path(f"perf-{file.name}").absolute()
    return own if own.exists() else file
