"""Another interpreter, other versions, and the releases of a package: what is made, and what is refused in one line."""
from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from perf.compare import environments
from perf.compare.bisect import bisect, comparing, releases
from perf.compare.checkout import working_tree
from perf.compare.closure import unchanged
from perf.compare.environments import Environment, differences, inside, installed, interpreter, with_versions
from perf.compare.record import Comparison
from perf.compare.side import ROOT, Side
from perf.tests.wheels import CELL, variant, wheel
from perf.workloads.ids import workload


def another() -> Environment:
    """This environment, as it is at the moment, with another torch."""
    return Environment("/other/bin/python", {**installed(), "torch": "2.0.0"}, ("torch",))


def test_the_same_packages_in_another_environment_are_another_side() -> None:
    with working_tree() as tree:
        other = inside(tree, another())
        assert (other.folder, other.python, other.here) == (tree.folder, another().python, False)
        assert other.name == f"torch 2.0.0 (here {installed()['torch']})"
        w = workload("softmax:sdpa-forward-causal-b1-h8-kv8-n512-m512-d64-fp32")
        assert unchanged(w, tree, tree)
        assert not unchanged(w, other, tree)
    revision = Side(ROOT, "main (01234567)", commit="01234567")
    assert inside(revision, another()).name.startswith("main (01234567) with torch 2.0.0")


def test_differences_name_the_asked_ones_first() -> None:
    here = {"a": "1", "b": "1", "c": "1", "torch": "2"}
    assert differences(here, here) == "the same versions"
    there = {"a": "2", "b": "2", "d": "1", "torch": "1"}
    assert differences(there, here, ("torch",)) == "torch 1 (here 2), a 2 (here 1) and 3 more packages"
    assert differences({}, {"a": "1"}) == "a absent (here 1)"
    there = {"absl-py": "1", "certifi": "1", "transformers": "1"}
    assert differences(there, {"certifi": "2", "transformers": "2"}) == (
        "transformers 1 (here 2), certifi 1 (here 2) and 1 more package")


def refusal(function, *arguments) -> str:
    with pytest.raises(ValueError, match=r"\w") as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_interpreter_that_can_t_measure_is_refused(tmp_path: Path) -> None:
    assert refusal(interpreter, "/no/python") == "/no/python is no interpreter: No such file or directory"
    bare = tmp_path / "python"
    bare.write_text(f"#!/bin/sh\nexec {sys.executable} -S \"$@\"\n")  # no installed packages
    bare.chmod(0o755)
    assert refusal(interpreter, str(bare)) == f"{bare} can't measure: ModuleNotFoundError: No module named 'torch'"


def test_releases_lie_between_two_that_the_index_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perf.compare.bisect._offered", lambda *_, **__: ["1.10", "1.9", "1.2", "1.0"])
    line = releases("stub", "1.0.0", "1.10", ROOT)
    assert (line.good, line.names, line.described("1.9")) == ("1.0", ["1.2", "1.9", "1.10"], "stub 1.9")
    assert refusal(releases, "stub", "1.0", "1.3", ROOT) == (
        "the index offers no stub 1.3; the newest are 1.0, 1.2, 1.9, 1.10")
    assert "the index offers no stub new" in refusal(releases, "stub", "1.0", "new", ROOT)
    assert refusal(releases, "stub", "1.9", "1.2", ROOT) == "stub 1.2 is no later than 1.9; give an older --good"


def test_a_requirement_that_is_none_is_refused(tmp_path: Path) -> None:
    assert refusal(with_versions, ["torch=2"], tmp_path) == (
        "'torch=2' is no requirement; give one such as torch==2.10.*")


def test_pip_is_this_environment_s_or_uv_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that uv made has none."""
    assert environments.pip("/there/python")[:3] == ["/there/python", "-m", "pip"]
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("shutil.which", lambda _: "/bin/uv")
    assert environments.pip("/there/python")[:7] == [
        "/bin/uv", "tool", "run", "--quiet", "pip", "--python", "/there/python"]
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert refusal(environments.pip, "/there/python").startswith("this environment has no pip, and there is no uv ")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gives an index of nothing but a folder, by pip's own variables; the variant is on the path of all processes."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(folder)), ("CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(f"PIP_{name}", value)
    path = variant(tmp_path / "variant")
    monkeypatch.syspath_prepend(path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{path}")
    return folder


@pytest.mark.slow
def test_versions_are_installed_over_this_environment_once(index: Path, tmp_path: Path) -> None:
    wheel(index, "1.0")
    made = with_versions(["stubkernel==1.*"], tmp_path)
    assert made.versions == {**installed(), "stubkernel": "1.0"}
    wheel(index, "1.1")
    assert with_versions(["stubkernel==1.*"], tmp_path) == made
    assert "No matching distribution found for stubkernel==9" in refusal(with_versions, ["stubkernel==9"], tmp_path)
    assert refusal(with_versions, ["stubkernel==1.0", "stubkernel==1.1"], tmp_path) == (
        "pip can't install stubkernel==1.0 stubkernel==1.1: Cannot install stubkernel==1.0 and stubkernel==1.1 because "
        "these package versions have conflicting dependencies.")
    assert refusal(releases, "no-such-package", "1", "2", tmp_path).startswith(
        "pip finds no releases of no-such-package: ")


@pytest.mark.slow
def test_the_release_that_copies_too_much_is_named(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """One release doesn't install; counters tell the others apart, so that a few pairs do."""
    from attention import registry

    registry._load.cache_clear()
    monkeypatch.setattr(registry, "_variants", {**registry._variants})
    for i in range(5):
        wheel(index, f"1.{i}", more=".clone()" if i > 2 else "", requires="no-such-package" if i == 1 else "")
    line = releases("stubkernel", "1.0", "1.4", ROOT)
    assert bisect(line, comparing(workload(CELL), torch.device("cpu")), 0.0) == 0
    out = capsys.readouterr().out
    assert "got slower: stubkernel 1.3\n    against stubkernel 1." in out
    assert ("against stubkernel 1.2: regressed" in out  # or noise hides that two are equal
            or "or one of these, which gave no answer: 1.1 1.2\n" in out)
    assert "aten::clone" in out


def test_a_record_keeps_both_environments_and_its_issues_are_none_of_a_night_s() -> None:
    night = Comparison(0.0, "a", {"gpus": ["H200"]}, "", "1", "1", "pytest")
    both = replace(night, versions={"base": {"torch": "2.0"}, "head": {"torch": "2.1"}})
    assert Comparison.from_json(both.to_json()) == both
    assert (night.hardware, both.hardware) == ("H200", "H200 against other versions")
    with pytest.raises(ValueError, match="versions: not a table"):
        replace(night, versions=[])  # type: ignore[arg-type]
