"""A job of a workflow as one shell script: its steps in their order, as GitHub's runner takes them, without GitHub.

A checkout is one of $ORIGIN, an artifact a folder in $ARTIFACTS; `gh` and `tox` are what PATH has. Left out: what `pip`
installs, each job's `if` and its rights, timeouts, and what GitHub does to a log.
"""
from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("ruamel.yaml", reason="check-jsonschema, which brings it, is not installed")
FOLDER = Path(__file__).parents[2] / ".github" / "workflows"
COMMIT = re.compile("[0-9a-f]{40}")
ALWAYS = "${{ !cancelled() }}"  # a step that runs after one that failed, too
CHECKOUT = """git init --quiet {path}; cd {path}
git remote get-url origin > /dev/null 2>&1 || git remote add origin "$ORIGIN"
git fetch --quiet {depth} origin {ref}; git checkout --quiet --force {branch} FETCH_HEAD"""
UPLOAD = """rm -rf "$ARTIFACTS"/{name}; mkdir -p "$ARTIFACTS"/{name}
if test -d {path}; then cp -r {path}/. "$ARTIFACTS"/{name}; else cp {path} "$ARTIFACTS"/{name} {missing}; fi
find "$ARTIFACTS"/{name} -mindepth 1 -name '.*' -exec rm -rf {{}} +  # hidden files and empty folders stay behind
find "$ARTIFACTS"/{name} -mindepth 1 -type d -empty -delete"""
DOWNLOAD = 'mkdir -p {path}; cp -r "$ARTIFACTS"/{name}/. {path}'


def load(name: str) -> dict[str, Any]:
    return yaml.YAML(typ="safe").load(FOLDER / f"{name}.yml")


def script(workflow: str, job: str, known: Mapping[str, str] | None = None) -> str:
    """Writes the script of a job for bash; it begins in the job's folder, and ends with 1 if a step failed.

    `known` has the values of expressions, by name ("github.token"); `runner.temp` is $RUNNER_TEMP. Raises KeyError for
    an expression or an action that it doesn't know.
    """
    whole = load(workflow)["jobs"][job]
    folder = whole.get("defaults", {}).get("run", {}).get("working-directory", ".")

    def fill(value: Any) -> str:
        """Fills in expressions; the result is one word of the shell."""
        parts = re.split(r"\$\{\{ ([\w.-]+) \}\}", str(value))
        return "".join('"$RUNNER_TEMP"' if part == "runner.temp" else shlex.quote((known or {})[part])
                       if i % 2 else shlex.quote(part) if part else "" for i, part in enumerate(parts))

    def action(name: str, given: Mapping[str, Any]) -> str:
        words = {key: fill(value) for key, value in given.items()}
        match name.partition("@")[0]:
            case "actions/checkout":
                ref = words.get("ref", "main")
                return CHECKOUT.format(path=words.get("path", "."), ref=ref,
                                       branch="--detach" if COMMIT.fullmatch(ref) else f"-B {ref}",
                                       depth="" if given.get("fetch-depth") == 0 else "--depth=1")
            case "actions/upload-artifact":
                missing = "" if given.get("if-no-files-found") == "error" else "|| true"
                return UPLOAD.format(name=words["name"], path=words["path"], missing=missing)
            case "actions/upload-pages-artifact":
                return UPLOAD.format(name="github-pages", path=words["path"], missing="")
            case "actions/download-artifact":
                return DOWNLOAD.format(name=words["name"], path=words["path"])
            case "actions/deploy-pages":
                return 'test -f "$ARTIFACTS"/github-pages/index.html'
            case "actions/setup-python":
                return ":"
        raise KeyError(f"{workflow}.yml, {job}: the action {name}")

    lines = ['mkdir -p "$RUNNER_TEMP" "$ARTIFACTS"', "failed=0"]
    for step in whole["steps"]:
        if "pip install" in step.get("run", ""):
            continue
        what = step["run"] if "run" in step else action(step["uses"], step.get("with", {}))
        where = folder if "run" in step else "."
        said = step.get("name") or step.get("uses") or what.splitlines()[0]
        variables = {**whole.get("env", {}), **step.get("env", {})}
        environment = " ".join(f"{name}={fill(value)}" for name, value in variables.items())
        ready = "true" if step.get("if") == ALWAYS else "[ $failed = 0 ]"
        lines += [f"if {ready}; then", f"echo {shlex.quote(f'## {said}')}",
                  f"(cd {where} && env {environment} bash -e -o pipefail -c {shlex.quote(what)}) || failed=1", "fi"]
    return "\n".join([*lines, "exit $failed", ""])
