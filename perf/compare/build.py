"""A revision that must be built: `perf_build` in the pytest ini, any command with {out} in it, run in the revision's
tree.

What it leaves in {out} is kept in `.perf/builds`, by the tree's hash, the command, Python and torch; a failure is not.
"""
from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from perf.compare.project import Project
from perf.system import files, git

FOLDER = Path(".perf/builds")


def build(tree: str, this: Project, folder: Path) -> str:
    """Builds a commit or tree, unless it was built before, and links its packages into the folder.

    Returns why there are none, in one line, or "". Raises ValueError for a command without {out}.
    """
    if "{out}" not in this.build:
        raise ValueError(f"perf_build: {this.build!r} has no {{out}}; say where the packages are to go, such as pip "
                         "install . --no-deps --target {out}")
    name = git.text(this.root, "rev-parse", f"{tree}^{{tree}}")
    key = hashlib.sha256("\0".join((name, this.build, sys.version, version("torch"))).encode()).hexdigest()[:16]
    kept = this.root / FOLDER / key
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with files.beside(kept.parent) as scratch:
            source, out = scratch / "source", scratch / "out"
            source.mkdir()
            out.mkdir()
            git.extract(this.root, name, source)
            if reason := _failure(source, out, this):
                return f"the build failed: {reason}"
            shutil.move(out, kept)
    for package in this.packages:
        (folder / package).symlink_to(kept / package)
    return ""


def _failure(source: Path, out: Path, this: Project) -> str:
    """Runs the command; returns why it left no packages, in one line, or ""."""
    command = this.build.replace("{out}", shlex.quote(str(out)))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    process = subprocess.Popen(command, shell=True, cwd=source, env={**os.environ, "PATH": path},
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="replace", start_new_session=True)
    try:
        said, _ = process.communicate(timeout=this.limit)
    except subprocess.TimeoutExpired:
        return f"it took longer than {this.limit:g} s; perf_build_seconds allows more"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        return _error(said) or f"exit status {process.returncode}"
    lacking = [package for package in this.packages if not (out / package / "__init__.py").exists()]
    return f"it left no {lacking[0]}/ in {{out}}" if lacking else ""


def _error(said: str) -> str:
    """Finds the last line of a compiler's that names an error; the last line at all where none does."""
    lines = [line.strip() for line in said.strip().splitlines() if line.strip()]
    of_compiler = [line for line in lines if " error: " in line or "fatal error" in line]
    return (of_compiler or lines or [""])[-1]
