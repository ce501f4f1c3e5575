"""Bad input stops pytest at once, in one line that names the choices; ini twins work."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

import models
import perf.plugin
import perf.run.session
from perf.run.options import AXES, OTHERS, SWITCHES

pytest_plugins = "pytester"
ROOT = Path(__file__).parents[2]
HEAVY = (perf.run.session, models)  # imported here once: pytester unloads what an inner run imports
TEST = """
import pytest

@pytest.mark.workloads("attention")
def test_it(measure):
    measure()
"""

BAD = {
    "--perf-functions=cosine": "--perf-functions: unknown function 'cosine'; choose from softmax, alibi",
    "--perf-functions=": "--perf-functions is empty",
    "--perf-backends=cutlass": "--perf-backends: unknown backend 'cutlass'; choose from eager, sdpa",
    "--perf-dtypes=int8": "--perf-dtypes: unknown dtype 'int8'; choose from fp64, fp32, bf16, fp16",
    "--perf-device=tpu": "--perf-device: no device 'tpu' here; choose from cpu",
    "--perf-seqlens=0": "--perf-seqlens: '0' is not a length; give a whole number of at least 1",
    "--perf-seqlens=512,abc": "--perf-seqlens: 'abc' is not a length",
    "--perf-batches=-1": "--perf-batches: '-1' is not possible; give a whole number of at least 1",
    "--perf-heads=x": "--perf-heads: 'x' is not possible",
    "--perf-kv-heads=5": "kv_heads 5: it must divide the query heads, 4, 6, 8, 12",
    "--perf-head-dims=0": "--perf-head-dims: '0' is not possible",
    "--perf-head-dims=100k": "--perf-head-dims: '100k' is not possible",
    "--perf-head-dims=4096": "--perf-head-dims: 4096 is not a head_dim; give 1 to 1024",
    "--perf-causal=maybe": "--perf-causal: unknown mask 'maybe'; choose from causal, full, both",
    "--perf-quantizations=int3": "--perf-quantizations: unknown quantization 'int3'; choose from none, bnb-int8",
    "--perf-compiled=maybe": "--perf-compiled: unknown choice 'maybe'; choose from yes, no, both",
    "--perf-phases=sideways": "--perf-phases: unknown phase 'sideways'; choose from forward, backward",
    "--perf-grid=huge": "--perf-grid: unknown grid 'huge'; choose from quick, default, full",
    "--perf-evidence=.": "is a directory; name a file in it",
    "--perf-shard=3/2": "--perf-shard: '3/2' is no part of a run; give i/n, such as 1/3 to 3/3",
    "--perf-shard-seconds=all.jsonl": "--perf-shard-seconds: says how --perf-shard splits; give it i/n",
}


@pytest.fixture
def compilers():
    """Imports what a measured call imports, before `pytester` takes note of what is: no process can import it twice."""
    import torch._dynamo  # noqa: F401


@pytest.fixture
def project(pytester, monkeypatch):
    """Gives a folder with this project's conftest and one test that measures."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # pytest-benchmark would take this run for xdist's
    pytester.makeconftest((ROOT / "conftest.py").read_text())
    pytester.makepyfile(TEST)
    return pytester


def test_help_names_every_option(project):
    """argparse reads a lone % in a text as a format, and fails when the help is asked for, not before."""
    result = project.runpytest_inprocess("--help")
    assert result.ret == pytest.ExitCode.OK
    named = set(re.findall(r"--perf-[a-z-]+", result.stdout.str()))
    assert {f"--perf-{name.replace('_', '-')}" for name in (*AXES, *OTHERS, *SWITCHES)} <= named
    assert "95 % interval" in " ".join(result.stdout.str().split())


@pytest.mark.parametrize(("option", "message"), BAD.items(), ids=BAD)
def test_bad_input_is_one_line(project, option, message):
    result = project.runpytest_inprocess("--benchmark-only", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = [line for line in result.errlines + result.outlines if line.strip()]
    assert "Traceback" not in "\n".join(said)
    assert len(said) == 1
    assert message in said[0]


def test_options_that_leave_the_named_tests_nothing(project):
    project.makepyfile(TEST.replace("attention", "vit"))
    result = project.runpytest_inprocess("--benchmark-only", "--perf-seqlens=8k")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "perf: the options leave the tests named no workload" in result.stderr.str() + result.stdout.str()


def test_an_ini_file_s_value_is_validated_as_well(project):
    project.makeini("[pytest]\nperf_grid = enormous\n")
    result = project.runpytest_inprocess("--benchmark-only")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "unknown grid 'enormous'" in result.stderr.str()


def collected(result) -> set[str]:
    return {line.partition("[")[2].removesuffix("]") for line in result.outlines if "::test_it[" in line}


def test_ini_twins_and_the_command_line_over_them(project):
    project.makeini("[pytest]\nperf_device = cpu\nperf_grid = quick\nperf_seqlens = 64\nperf_backends = sdpa\n")
    arguments = ("--benchmark-only", "--collect-only", "-q", "--perf-functions=softmax,alibi")
    assert collected(project.runpytest_inprocess(*arguments)) == {
        f"{function}:sdpa-forward-causal-b1-h8-kv8-n64-m64-d64-fp32" for function in ("softmax", "alibi")}
    assert collected(project.runpytest_inprocess(*arguments, "--perf-seqlens=32", "--perf-dtypes=bf16")) == {
        f"{function}:sdpa-forward-causal-b1-h8-kv8-n32-m32-d64-bf16" for function in ("softmax", "alibi")}


SMALL = ("--benchmark-only", "--perf-unfit=keep", "--perf-device=cpu", "--perf-grid=quick", "--perf-functions=softmax",
         "--perf-backends=eager,sdpa", "--perf-seqlens=64,32", "--perf-heads=1")


def test_a_saved_run_is_compared_and_grouped(compilers, project):
    saved = project.runpytest_inprocess(*SMALL, "--benchmark-save=one", "--perf-evidence=one.jsonl")
    assert saved.ret == 0
    saved.stdout.no_fnmatch_line("*Name (time in*")
    again = project.runpytest_inprocess(*SMALL, "--benchmark-compare", "--benchmark-group-by=param:n")
    assert again.ret == 0
    again.stdout.fnmatch_lines(["*benchmark 'n=32': 4 tests*", "*(0001_one)*", "*benchmark 'n=64': 4 tests*"])
    assert (project.path / "one.jsonl").exists()


def test_plain_pytest_measures_nothing(project):
    project.makepyfile(test_other="def test_other():\n    pass\n")
    result = project.runpytest_inprocess("--benchmark-skip", *SMALL[1:])
    result.assert_outcomes(passed=1, skipped=4)
    assert not (project.path / ".perf").exists()


def test_disabled_benchmarks_are_checked_and_not_timed(project):
    result = project.runpytest_inprocess("--benchmark-disable", *SMALL[1:])
    result.assert_outcomes(passed=4)
    assert not (project.path / ".perf").exists()


def test_shapes_join_the_grid(project):
    arguments = ("--benchmark-only", "--collect-only", "-q", "--perf-device=cpu", "--perf-grid=quick")
    without, joined = (collected(project.runpytest_inprocess(*arguments, *more)) for more in ((), ("--perf-shapes",)))
    added = joined - without
    assert "softmax:eager-forward-causal-b1-h32-kv8-n1-m4096-d128-fp32" in added
    assert without < joined
    assert len(added) == 5 * len({w.partition("-forward")[0] for w in added})


@pytest.mark.parametrize(("arguments", "ignored"), [
    (["perf"], True), (["perf/studies"], False), (["perf/studies/test_one.py::test_it"], False), ([], True)])
def test_studies_are_measured_only_if_named(arguments, ignored, pytestconfig, monkeypatch):
    studies = ROOT / "perf" / "studies"
    monkeypatch.setattr(pytestconfig, "args", [str(ROOT / argument) for argument in arguments])
    assert perf.plugin.pytest_ignore_collect(studies, pytestconfig) is (True if ignored else None)
    assert perf.plugin.pytest_ignore_collect(ROOT / "perf" / "tests", pytestconfig) is None  # not --benchmark-only


@pytest.mark.parametrize(("ci", "option", "word"), [
    ("", (), "keep"), ("true", (), "invalid"), ("true", ("--perf-unfit=keep",), "keep"),
    ("", ("--perf-unfit=invalid",), "invalid")])
def test_an_unfit_row_fails_only_where_its_number_decides(project, monkeypatch, ci, option, word):
    monkeypatch.setenv("CI", ci)
    config = project.parseconfigure(*SMALL[:1], *SMALL[2:], *option)
    assert perf.run.options.settings(config).unfit == word
