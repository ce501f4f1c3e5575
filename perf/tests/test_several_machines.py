"""Runs the scripts of docs/several-machines.md, and `-n` on several GPUs, with three groups of two rows."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from perf.measure.evidence import load, shards
from perf.run.options import Settings
from perf.run.workers import Workers
from perf.tests.repositories import git
from perf.tests.test_options import ROOT, SMALL, TEST
from perf.tests.test_workflows import command, yaml

DOCS = (ROOT / "docs" / "several-machines.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)


def test_the_workflow_passes_the_checkers(tmp_path):
    path = tmp_path / ".github" / "workflows" / "shards.yml"
    path.parent.mkdir(parents=True)
    path.write_text(blocks("yaml")[0], encoding="utf-8")
    for words in (("check-jsonschema", "--builtin-schema", "vendor.github-workflows"),
                  ("zizmor", "--offline", "--no-progress", "--no-config")):
        done = command(*words, str(path))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def checkout(tmp_path):
    """Gives a committed project whose perf/ measures six small rows, and the environment that its scripts run in."""
    root = tmp_path / "perf-checkout"
    (root / "perf").mkdir(parents=True)
    (root / "perf" / "test_it.py").write_text(TEST)
    (root / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (root / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib --benchmark-skip\n")
    (root / ".gitignore").write_text(".perf\n__pycache__\n")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "first")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in {"python": f'exec {sys.executable} -P "$@"', "ssh": f'cd {tmp_path}; shift; exec sh -c "$1"',
                         "scp": f'exec cp "{tmp_path}/${{1#*:}}" "$2"',
                         "nvidia-smi": "echo GPU-one; echo GPU-two"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    small = " ".join(("-p no:cacheprovider", *SMALL[1:-2], "--perf-seqlens=16,32,64", "--perf-heads=1"))
    return root, {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
                  "PERF_PYTHON": "python", "PYTEST_ADDOPTS": small, "OMP_NUM_THREADS": "1",
                  "RUNNER_TEMP": str(tmp_path)}


def shell(script: str, folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(["sh", "-eu", "-c", script], cwd=folder, env=environment, capture_output=True, text=True,
                          timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_workflow_s_steps_measure_and_merge(checkout, tmp_path):
    root, environment = checkout
    jobs = yaml.YAML(typ="safe").load(blocks("yaml")[0])["jobs"]
    script = {name: next(step["run"] for step in jobs[name]["steps"] if "run" in step) for name in jobs}
    matrix = jobs["measure"]["strategy"]["matrix"]["shard"]
    for shard in matrix:
        known = {"${{ matrix.shard }}": str(shard), "${{ strategy.job-total }}": str(len(matrix))}
        values = {name: known[value] for name, value in jobs["measure"]["env"].items()}
        shell(script["measure"], root, environment | values)
        (tmp_path / "shards").mkdir(exist_ok=True)
        (tmp_path / f"shard-{shard}").rename(tmp_path / "shards" / f"shard-{shard}")  # as the artifacts do
    shell(script["merge"], root, environment)
    assert len(load(tmp_path / "all.jsonl")) == 6
    for shard in shards(tmp_path / "all.jsonl"):
        assert (shard.count, shard.revision, len(shard.split)) == (3, git(root, "rev-parse", "HEAD"), 6)
        assert shard.options == {"device": "cpu", "grid": "quick", "precision": 0.01, "unfit": "keep", "quality": False}


@pytest.mark.slow
def test_the_array_s_script_measures_a_shard_a_task(checkout):
    root, environment = checkout
    script = next(block for block in blocks("sh") if "#SBATCH" in block)
    count, = re.findall(r"^#SBATCH --array=1-(\d+)$", script, re.MULTILINE)
    for task in range(1, int(count) + 1):
        shell(script, root, environment | {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": count})
    wrapped, = re.findall(r'--wrap "(.*)"', DOCS)
    shell(wrapped, root, environment)
    assert len(load(root / ".perf" / "all.jsonl")) == 6


@pytest.mark.slow
def test_the_loop_over_ssh_measures_a_shard_a_host(checkout, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    shell(next(block for block in blocks("sh") if "ssh" in block), here, checkout[1])
    assert len(load(here / ".perf" / "all.jsonl")) == 6


@pytest.mark.slow
def test_the_loop_over_gpus_measures_a_shard_on_each(checkout):
    root, environment = checkout
    shell(next(block for block in blocks("sh") if "nvidia-smi" in block), root, environment)
    assert len(load(root / ".perf" / "all.jsonl")) == 6
    assert [shard.name for shard in shards(root / ".perf" / "all.jsonl")] == ["1/2", "2/2"]


FAULTS = {  # of one worker, in the conftest.py of all
    "measures": "",
    "dies": "import os\nif os.sched_getaffinity(0) == {cores}:\n    os._exit(7)",
    "loses its device": """
import os
import perf.bench.prepare as prepare
share = prepare._share

def of_a_device_that_may_be_lost(*arguments):
    if os.sched_getaffinity(0) == {cores}:
        raise RuntimeError("lost")
    return share(*arguments)

prepare._share = of_a_device_that_may_be_lost
""",
}


def several(checkout, *words: str) -> subprocess.CompletedProcess[str]:
    root, environment = checkout
    return subprocess.run(["python", "-m", "pytest", "perf", "--benchmark-only", *words], cwd=root, env=environment,
                          capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="takes two cores")
@pytest.mark.parametrize(("number", "fault"), [(2, "measures"), (1, "dies"), (2, "dies"), (1, "loses its device"),
                                               (2, "loses its device")])
def test_two_workers_make_one_run(checkout, number, fault):
    root, cores = checkout[0], sorted(os.sched_getaffinity(0))
    share = len(cores) // 2
    with (root / "conftest.py").open("a") as file:
        file.write(FAULTS[fault].format(cores={*cores[share * (number - 1):share * number]}))
    git(root, "commit", "--quiet", "--all", "--allow-empty", "--message", fault)
    done = several(checkout, "-n", "2", "--benchmark-json=all.json")
    assert done.returncode == 0, done.stdout + done.stderr
    if len(cores) == 2:
        assert f"perf: 1/2 on cores {cores[0]}\nperf: 2/2 on cores {cores[1]}\n" in done.stdout
    rows = {row.workload.id: row.time for row in load(root / ".perf" / "evidence.jsonl")}
    assert len(rows) == 6 == len(load(root / ".perf" / "evidence.jsonl"))  # none twice
    assert len(json.loads((root / "all.json").read_text())["benchmarks"]) == 6
    files = sorted((root / ".perf" / "workers").glob("*/evidence.jsonl"))
    theirs = {row.workload.id: row.time for file in files for row in load(file) if row.outcome == "ok"}
    assert theirs.items() <= rows.items()
    assert len(files) == 2 - (fault == "dies")
    assert (len(theirs) == 6) == (fault == "measures")
    assert ("exit status 7" in done.stdout) == (fault == "dies")


@pytest.mark.slow
@pytest.mark.parametrize(("words", "said"), [
    (("-n", "999"), "-n 999: there are not as many GPUs, or cores of a CPU, here; give fewer"),
    (("-d", "--tx", "2*popen"), "perf: these workers time nothing, for pytest-benchmark measures in one process"),
])
def test_workers_that_can_not_be_had_are_refused(checkout, words, said):
    done = several(checkout, *words)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout
    assert said in done.stderr + done.stdout


def test_each_worker_has_its_gpu_by_uuid(tmp_path, monkeypatch, pytestconfig):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho GPU-one; echo GPU-two; echo GPU-three\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    on_gpu, on_second = (Settings(torch.device(name), "quick", [], tmp_path) for name in ("cuda", "cuda:1"))
    made = Workers(pytestconfig, lambda: on_gpu, 2)
    assert [place.variables for place in made._places(on_gpu)] == [
        {"CUDA_VISIBLE_DEVICES": "GPU-one"}, {"CUDA_VISIBLE_DEVICES": "GPU-two"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-three")
    with pytest.raises(pytest.UsageError, match="not as many GPUs"):
        list(made._places(on_gpu))
    with pytest.raises(pytest.UsageError, match="drop --perf-device=cuda:1"):
        list(made._places(on_second))
