"""`perf_build`: a revision's packages are made by a command; the slow test compiles an extension."""
from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from perf.compare.checkout import checkout, working_tree
from perf.compare.pairs import compare
from perf.compare.project import BUILDS, project
from perf.compare.side import ROOT, Side
from perf.tests.repositories import git
from perf.verdict.verdict import Thresholds
from perf.workloads.ids import workload

COPY = "echo built >> ../../../log && cp -r fast {out}"
COMPILE = "pip install . --quiet --no-deps --no-index --no-build-isolation --target {out}"
SETUP = """
from setuptools import Extension, setup
setup(name="fast", version="1.0", packages=["fast"], ext_modules=[Extension("fast.native", ["csrc/native.cpp"])])
"""
NATIVE = """
#include <Python.h>
static PyObject* level(PyObject*, PyObject*) { return PyLong_FromLong(LEVEL); }
static PyMethodDef methods[] = {{"level", level, METH_NOARGS, ""}, {}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "native", "", -1, methods};
PyMODINIT_FUNC PyInit_native() { return PyModule_Create(&module); }
"""


class Repository:
    """Holds a package `fast` with a C++ source outside of it, and the command that builds it."""

    def __init__(self, root: Path, command: str, seconds: str = "60") -> None:
        self.root = root
        (root / "fast").mkdir(parents=True)
        (root / "csrc").mkdir()
        (root / "fast" / "__init__.py").write_text("")
        (root / "setup.py").write_text(SETUP)
        (root / "pytest.ini").write_text(
            f"[pytest]\nperf_packages = fast\nperf_build = {command}\nperf_build_seconds = {seconds}\n")
        git(root, "init", "--quiet", "--initial-branch=main")
        self.commit("1")

    def commit(self, level: str) -> str:
        (self.root / "csrc" / "native.cpp").write_text(NATIVE.replace("LEVEL", level))
        git(self.root, "add", "--all", ":(exclude).perf")
        git(self.root, "commit", "--quiet", "--message", f"level {level}")
        return git(self.root, "rev-parse", "HEAD")


def test_each_tree_is_built_once_and_the_working_tree_too(tmp_path: Path) -> None:
    made = Repository(tmp_path / "mine", COPY)
    log = made.root / BUILDS / ".." / "log"
    for _ in range(2):
        with checkout("main", made.root) as side, working_tree(made.root) as tree:
            assert (side.folder / "fast" / "__init__.py").exists()
            assert (side.folder / "fast").samefile(tree.folder / "fast")  # the same tree
            assert (side.missing, side.packages) == ("", ("fast",))
    (made.root / "csrc" / "more.cpp").write_text("// not committed")
    with checkout("main", made.root) as side, working_tree(made.root) as tree:
        assert not (side.folder / "fast").samefile(tree.folder / "fast")
    assert log.read_text().splitlines() == ["built"] * 2
    assert project(made.root).touched == "anything"


@pytest.mark.parametrize(("command", "seconds", "reason"), [
    ("echo 'native.cpp:3: error: no such thing' && echo 'ninja: stopped' && exit 1; {out}", "60",
     "the build failed: native.cpp:3: error: no such thing"),
    ("echo starting && exit 3; {out}", "60", "the build failed: starting"),
    ("exit 3; {out}", "60", "the build failed: exit status 3"),
    ("mkdir {out}/other", "60", "the build failed: it left no fast/ in {out}"),
    ("sleep 30; {out}", "0.2", "the build failed: it took longer than 0.2 s; perf_build_seconds allows more"),
])
def test_what_can_t_be_built_is_missing_and_says_why(tmp_path: Path, command: str, seconds: str, reason: str) -> None:
    made = Repository(tmp_path / "mine", command, seconds)
    with checkout("main", made.root) as side:
        assert side.missing == reason
    assert not list((made.root / BUILDS).iterdir())  # it is tried again


def test_a_missing_side_makes_each_benchmark_missing() -> None:
    w = workload("softmax:sdpa-forward-causal-b1-h2-kv2-n64-m64-d8-fp32")
    head = Side(ROOT, "the working tree")
    base = replace(head, name="main", missing="the build failed: exit status 3")
    [(_, verdict)] = compare([w], base, head, "cpu", lambda w: Thresholds(), 1.0)
    assert (verdict.word, verdict.why) == ("missing", "main: the build failed: exit status 3")


def test_a_command_without_a_place_for_its_packages_is_refused(tmp_path: Path) -> None:
    made = Repository(tmp_path / "mine", "make")
    with pytest.raises(ValueError, match=r"^perf_build: 'make' has no \{out\}; say where"), checkout("main", made.root):
        pass


@pytest.mark.slow
def test_an_extension_in_cpp_is_compiled_for_each_commit(tmp_path: Path) -> None:
    made = Repository(tmp_path / "mine", COMPILE)
    first = git(made.root, "rev-parse", "HEAD")
    second, broken = made.commit("2"), made.commit("no_such_level")
    for commit, level in ((first, "1"), (second, "2")):
        with checkout(commit, made.root) as side:
            assert side.missing == ""
            said = subprocess.run([side.python, "-c", "from fast import native; print(native.level())"],
                                  cwd=side.folder, env=side.variables(), capture_output=True, text=True, check=True)
            assert said.stdout.strip() == level
    with checkout(broken, made.root) as side:
        assert "error" in side.missing
        assert "no_such_level" in side.missing
