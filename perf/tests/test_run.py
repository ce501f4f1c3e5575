"""Whole runs, as a user starts them, on small workloads and one wrong variant."""
from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perf.measure.evidence import ENDED, load, machines
from perf.workloads.workload import FIELDS, Workload

ROOT = Path(__file__).parents[2]

WRONG = """

import attention
from attention.backends.base import Backend


class Wrong(Backend):
    name = "wrong"

    def attend(self):
        return lambda q, k, v, **options: 1.01 * v


@attention.register("softmax", backends=[Wrong()])
def wrong(attend, q, k, v, *, causal, scale, key_mask):
    return attend(q, k, v)
"""
SMALL = ("--perf-device=cpu", "--perf-unfit=keep", "--perf-functions=softmax", "--perf-phases=forward",
         "--perf-causal=causal", "--perf-heads=2")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
                          timeout=120, check=False)


def pytest_run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "-m", "pytest", "-p", "no:cacheprovider", *arguments)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Gives another project with this one's plugin, a variant of its own, and one test that measures."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text() + WRONG)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib --benchmark-skip\n")
    (folder / "test_it.py").write_text("import pytest\n\n\n@pytest.mark.workloads('attention')\n"
                                       "def test_it(measure):\n    measure()\n")
    (folder / "test_other.py").write_text("def test_other():\n    pass\n")
    return folder


@pytest.fixture(scope="module")
def first(project):
    """Gives a run over right, wrong and impossible variants, saved in every way."""
    return pytest_run(project, "--benchmark-only", *SMALL, "--perf-seqlens=64,32",
                      "--perf-backends=eager,sdpa,wrong,fa2", "--benchmark-json=out.json", "--benchmark-save=one")


def row_of(run, backend: str, n: int) -> list[str]:
    return next(words for words in map(str.split, run.stdout.splitlines()) if words[:2] == [backend, str(n)])


def test_a_wrong_variant_fails_and_shows_no_time(first):
    assert first.returncode == pytest.ExitCode.TESTS_FAILED, first.stdout + first.stderr
    assert "softmax:wrong is numerically wrong: out" in first.stdout
    assert row_of(first, "wrong", 64)[3] == "WRONG"
    assert len(row_of(first, "wrong", 64)) == 6
    assert "Traceback" not in first.stdout + first.stderr


def test_the_others_are_measured(first):
    assert "4 passed" in first.stdout
    assert row_of(first, "eager", 64)[4] in ("us", "ms", "us!", "ms!")
    assert "skipped: fa2" in first.stdout
    assert "4 workloads measured in" in first.stdout


def test_progress_is_one_line_and_no_skip_is_listed(first):
    lines = first.stdout.splitlines()
    progress = next(after for line, after in itertools.pairwise(lines) if line.startswith("collected "))
    assert progress.split()[0] == "..F..Fs"  # test_other.py is skipped, the 2 rows of fa2 say nothing
    assert "SKIPPED" not in first.stdout


@pytest.mark.slow
def test_verbose_shows_a_time_a_workload_and_every_row(project):
    done = pytest_run(project, "--benchmark-only", *SMALL, "--perf-seqlens=32", "--perf-backends=sdpa", "-v",
                      "--perf-evidence=verbose.jsonl")
    line, = (line for line in done.stdout.splitlines() if "test_it[softmax:sdpa-" in line and line.endswith("%]"))
    assert line.split("] ")[1].split()[1] in ("us", "ms", "s")
    assert row_of(done, "sdpa", 32)


def test_only_one_table_is_shown_and_it_is_narrow(first):
    assert "Name (time in" not in first.stdout
    table = first.stdout.partition("perf: default grid on cpu")[2].partition("short test summary")[0]
    assert max(len(line) for line in table.splitlines()[1:-1] if " -m pytest " not in line) <= 120


def test_parameters_are_plain_scalars_in_the_json(first, project):
    saved = json.loads((project / "out.json").read_text())
    assert saved["perf"]["machine"]["torch"]
    benchmarks = saved["benchmarks"]
    assert len(benchmarks) == 4
    for benchmark in benchmarks:
        assert set(FIELDS) <= set(benchmark["params"])
        made = Workload(**{field: benchmark["params"][field] for field in FIELDS})
        assert benchmark["param"] == made.id
        assert [type(value) for value in benchmark["params"].values()] == ([str] * 4 + [bool] + [int] * 6
                                                                           + [str] * 2 + [bool])
        assert benchmark["extra_info"]["error"] <= benchmark["extra_info"]["bound"]
    assert "UNSERIALIZABLE" not in json.dumps(benchmarks)


def test_everything_is_evidence(first, project):
    path = project / ".perf" / "evidence.jsonl"
    rows = load(path)
    assert sorted(row.outcome for row in rows) == ["ok"] * 4 + ["skipped"] * 2 + ["wrong"] * 2
    assert {row.machine for row in rows} == set(machines(path))
    for row in rows:
        assert bool(row.samples) == (row.outcome == "ok")
        assert row.flops == row.workload.flops
    timed = next(row for row in rows if row.outcome == "ok")
    assert len(timed.samples) == timed.rounds
    assert timed.median is not None
    assert 0 < timed.median < 1
    assert timed.clock == "perf_counter, 1 threads"
    assert timed.peak_bytes is not None
    assert timed.peak_bytes >= 2 * 32 * 64 * 4  # the output at least


@pytest.mark.slow
@pytest.mark.parametrize(("place", "said"), [("/dev/full", "No space left on device"),
                                             ("/sys/evidence.jsonl", "Permission denied")])
def test_a_full_disk_and_a_folder_that_is_read_only_end_the_run_in_one_line(project, place, said):
    done = pytest_run(project, "--benchmark-only", *SMALL, "--perf-seqlens=32", "--perf-backends=eager,sdpa",
                      f"--perf-evidence={place}")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout + done.stderr
    assert f"perf: {place}: {said}: the evidence can't be written" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


CRASHES = """

import ctypes
import os


def leave(q, k, v, **options):
    os._exit(0)


def crash(q, k, v, **options):
    ctypes.string_at(0)
"""


def committed(project: Path, folder: Path) -> Path:
    """Copies the project into a repository of its own."""
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".*", "*.json"))
    (folder / ".gitignore").write_text(".*\n")
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=A", "-c", "user.email=a@b", "commit", "-qm", "it"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "status"), [("leave", 0), ("crash", -signal.SIGSEGV)])
def test_a_row_that_ends_the_process_costs_itself_alone(project, tmp_path, fault, status):
    """Each run after the first resumes; what a row did twice it is not let do again."""
    planted = WRONG.replace("lambda q, k, v, **options: 1.01 * v", fault) + CRASHES
    changed = shutil.copytree(project, tmp_path / "changed", ignore=shutil.ignore_patterns(".*", "*.json"))
    (changed / "conftest.py").write_text((ROOT / "conftest.py").read_text() + planted)
    folder = committed(changed, tmp_path / "project")
    arguments = ("--benchmark-only", *SMALL, "--perf-seqlens=16,32", "--perf-backends=eager,sdpa,wrong")
    runs = [pytest_run(folder, *arguments)] + [pytest_run(folder, *arguments, "--perf-resume") for _ in range(5)]
    assert [run.returncode for run in runs] == [status] * 4 + [1, 1], runs[-1].stdout + runs[-1].stderr
    rows = load(folder / ".perf" / "evidence.jsonl")
    good = [row.workload.id for row in rows if row.outcome == "ok"]
    assert len(good) == len(set(good)) == 4
    assert [row.reason for row in rows if row.workload.backend == "wrong"] == [ENDED, ENDED]
    assert "failed: softmax:wrong: ended the process 2 times" in runs[-1].stdout


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_is_resumed_and_measures_nothing_twice(project, tmp_path):
    """SIGKILL at random moments, one run after the other, each resumed; then one that ends."""
    folder = committed(project, tmp_path / "project")
    moments, path = random.Random(time.time_ns()), folder / ".perf" / "evidence.jsonl"
    arguments = ("--benchmark-only", *SMALL, "--perf-seqlens=16,32,48,64,80", "--perf-backends=eager,sdpa",
                 "--perf-resume")
    for count in (1, 3, 5, 7):  # rows that are there before it is killed, at some moment of the next few
        with subprocess.Popen([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments], cwd=folder,
                              env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                              stdout=subprocess.DEVNULL) as child:
            while child.poll() is None and not (path.exists() and path.read_bytes().count(b'"samples"') >= count):
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.5))
            child.kill()
    done = pytest_run(folder, *arguments)
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
    measured = [row.workload.id for row in load(path)]
    assert len(measured) == len(set(measured)) == 10


OTHER = """
import sys
import pytest

@pytest.fixture(params=[1, 2])
def workload(request):
    return request.param

def test_it(workload):
    assert "torch" not in sys.modules
"""


def test_the_plugin_costs_other_projects_no_torch(tmp_path):
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(OTHER)
    done = pytest_run(tmp_path, "-q")
    assert "2 passed" in done.stdout, done.stdout + done.stderr


COLLECT = """
import sys, time
import torch

before = time.process_time()
import pytest

class Plugin:
    def pytest_collection_finish(self):
        self.share = (time.process_time() - before) / before

plugin = Plugin()
arguments = ["perf", "--benchmark-only", "--collect-only", "-q", "-p", "no:cacheprovider"]
code = pytest.main(arguments, plugins=[plugin])
print(int(code), plugin.share, "transformers" in sys.modules)
"""


@pytest.mark.slow
def test_collection_is_quick_and_imports_no_transformers():
    done = run(ROOT, "-c", COLLECT)
    code, share, transformers = done.stdout.splitlines()[-1].split()
    assert code == "0", done.stdout + done.stderr
    assert transformers == "False"
    assert float(share) < 1  # of the seconds that importing torch takes, on any machine
    assert "perf/tests" not in done.stdout
    assert "perf/test_gpt2.py::test_gpt2[distilgpt2-softmax:sdpa-prefill-" in done.stdout
