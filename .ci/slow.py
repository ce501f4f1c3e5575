"""Names the slow test files that cover what changed since the commit in `.ci/slow-since`.

A test file covers itself and the modules that it imports. The nightly workflow runs all slow tests. Whoever has seen
those named pass writes the commit on which they did:

    git rev-parse HEAD > .ci/slow-since
"""
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("attention", "models", "perf")


def changed(since: str) -> set[str]:
    """Lists the paths that differ between `since` and the working tree; exits, in one line, if git can't."""
    done = subprocess.run(["git", "-C", str(ROOT), "diff", "--name-only", since], check=False, text=True,
                          capture_output=True)
    if done.returncode:
        reason = done.stderr.splitlines()[0]
        sys.exit(f".ci/slow.py: no slow test can be chosen, this clone has no commit {since}: {reason}")
    return set(done.stdout.split())


def covered(path: Path) -> set[str]:
    """Lists the test file and the project's modules that it imports, as paths from the root."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {str(path.relative_to(ROOT)),
            *(f"{name.replace('.', '/')}.py" for name in names if name.partition(".")[0] in PACKAGES)}


if __name__ == "__main__":
    changes = changed((ROOT / ".ci/slow-since").read_text(encoding="ascii").strip())
    slow = (path for package in PACKAGES for path in sorted((ROOT / package / "tests").glob("test_*.py"))
            if "mark.slow" in path.read_text(encoding="utf-8"))
    print(*(path.relative_to(ROOT) for path in slow if covered(path) & changes))
