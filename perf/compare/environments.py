"""Other environments: another interpreter, or this one's packages with some versions changed.

    other = interpreter("/opt/old/bin/python")
    other = with_versions(["torch==2.10.*"], root)      # kept in `.perf/environments`
    base = inside(side, other)                          # the same packages to measure, in that environment

An environment with other versions is a venv that holds what differs; behind it stand this environment's packages. pip
installs, by its own variables (PIP_FIND_LINKS, PIP_NO_INDEX): this environment's, or the one that uv lends where there
is none (`uv tool run pip`). `uv pip` would not see the packages behind the venv, and install all of them anew.
"""
from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import site
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from perf.compare.side import Side
from perf.measure.machine import PACKAGES
from perf.system.tools import ending, last_line

FOLDER = Path(".perf/environments")
LIMIT = 1800.0  # seconds of an installation
FREEZE = "freeze.json"  # written last: an environment without it is not finished
MOST = 2  # differences that are named: those first that a time depends on
TELLING = ("python", *PACKAGES)
PROBE = """
import importlib.metadata, json, platform, sys
if sys.version_info < (3, 11): sys.exit(f"it is Python {platform.python_version()}, and the harness needs 3.11")
import torch, psutil
versions = {"python": platform.python_version()}
for one in importlib.metadata.distributions():
    versions.setdefault(one.metadata["Name"].lower().replace("_", "-"), one.version)
print(json.dumps(versions))
"""


@dataclass(frozen=True)
class Environment:
    """Is an interpreter, with the versions of what is installed there, Python's among them; `asked` names the packages
    that it was made for."""

    python: str
    versions: Mapping[str, str]
    asked: tuple[str, ...] = ()


def interpreter(path: str) -> Environment:
    """Asks an interpreter what it has. Raises ValueError, in one line, for one that can't measure."""
    python = str(Path(path).expanduser().absolute())
    try:
        done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=LIMIT, check=False)
    except OSError as error:
        raise ValueError(f"{path} is no interpreter: {error.strerror}") from None
    if done.returncode:
        raise ValueError(f"{path} can't measure: {last_line(done.stderr, ending(done.returncode))[:200]}")
    return Environment(python, json.loads(done.stdout.splitlines()[-1]))


def with_versions(requirements: Sequence[str], root: Path) -> Environment:
    """Makes this environment with these requirements, unless it was made before. Raises ValueError, in one line, for
    what pip can't install."""
    asked = tuple(_name(requirement) for requirement in requirements)
    parts = [*sorted(requirements), sys.prefix, *(f"{name} {version}" for name, version in sorted(installed().items()))]
    folder = root / FOLDER / hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    python = str(folder / "bin" / "python")
    if (folder / FREEZE).exists():
        return Environment(python, json.loads((folder / FREEZE).read_text(encoding="utf-8")), asked)
    shutil.rmtree(folder, ignore_errors=True)
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)], "a venv can't be made")
    [packages] = folder.glob("lib/python*/site-packages")
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    behind = "".join(f"import site; site.addsitedir({path!r})\n" for path in [*site.getsitepackages(), *user])
    (packages / "behind.pth").write_text(behind, encoding="utf-8")
    if requirements:
        run([*pip(python), "install", "--quiet", *requirements], f"pip can't install {' '.join(requirements)}")
    versions = interpreter(python).versions
    (folder / FREEZE).write_text(json.dumps(versions, indent=1), encoding="utf-8")
    return Environment(python, versions, asked)


def pip(python: str) -> list[str]:
    """Begins a command of pip on an environment that was made here. Raises ValueError where there is no pip."""
    options = ["--disable-pip-version-check", "--no-input"]
    if importlib.util.find_spec("pip"):
        return [python, "-m", "pip", *options]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "--quiet", "pip", "--python", python, *options]
    raise ValueError("this environment has no pip, and there is no uv that could lend one; python -m ensurepip")


def inside(side: Side, environment: Environment) -> Side:
    """Gives the same packages in another environment, named by what differs there."""
    what = differences(environment.versions, installed(), environment.asked)
    return replace(side, python=environment.python, versions=environment.versions,
                   name=f"{side.name} with {what}" if side.commit else what)


def installed() -> dict[str, str]:
    """Lists what is installed here, as `Environment.versions` does."""
    versions = {"python": sys.version.split()[0]}
    path = [folder for folder in sys.path if not folder.endswith("_vendor")]  # setuptools adds it
    for one in importlib.metadata.distributions(path=path):
        versions.setdefault(one.metadata["Name"].lower().replace("_", "-"), one.version)
    return versions


def differences(there: Mapping[str, str], here: Mapping[str, str], first: Sequence[str] = ()) -> str:
    """Writes "torch 2.10.0 (here 2.13.0) and 2 more packages", some packages `first`."""
    names = sorted((name for name in {*there, *here} if there.get(name) != here.get(name)),
                   key=lambda name: (name not in first, name not in TELLING, not {name} <= {*there} & {*here}, name))
    phrases = [f"{name} {there.get(name, 'absent')} (here {here.get(name, 'absent')})" for name in names[:MOST]]
    left = len(names) - MOST
    more = [f"{left} more package{'s' if left > 1 else ''}"] if left > 0 else []
    return " and ".join(filter(None, [", ".join(phrases), *more])) or "the same versions"


def _name(requirement: str) -> str:
    try:
        return Requirement(requirement).name.lower().replace("_", "-")
    except InvalidRequirement:
        raise ValueError(f"{requirement!r} is no requirement; give one such as torch==2.10.*") from None


def run(words: Sequence[str], failed: str) -> str:
    """Runs a command, and gives what it prints. Raises ValueError with the line in which it gives up."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{failed}: it took longer than {LIMIT:.0f} s") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR: ") for line in lines
                  if line.startswith("ERROR: ") and "ResolutionImpossible" not in line]
        raise ValueError(f"{failed}: {(errors or lines or ['no reason given'])[-1]}")
    return done.stdout
