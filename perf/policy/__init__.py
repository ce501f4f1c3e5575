"""Each file of settings, what the project demands, stands beside its loader. Another repository has owners and accepted
changes of its own: perf-owners.toml, perf-accepted.toml."""
from __future__ import annotations

from pathlib import Path


def here(file: Path) -> Path:
    """Gives the place of `owners.toml` or `accepted.toml`: where the working directory has its own, that one."""
    own = Path(f"perf-{file.name}").absolute()
    return own if own.exists() else file
