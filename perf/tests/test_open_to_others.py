"""Another installed package adds a variant, a model and workloads, and nothing in this tree is edited."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from perf.history.matrix import Matrix
from perf.measure.evidence import load
from perf.workloads.grids import TREATED_BACKENDS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "examples" / "mykernels"
MODEL = "one-layer-3x40"
KERNEL_SERIES, MODEL_SERIES = "attention.SoftmaxForwardH3D40Fp32", "models.OneLayer3x40SoftmaxForwardFp32"
CELL = "softmax:einsum-forward-causal-b2-h3-kv3-n96-m96-d40-fp32"
IDS = [CELL, f"{MODEL}-{CELL}"]

KNOWN = """
import json, attention, models
from perf.history import matrix
print(json.dumps({"variants": attention.names(), "presets": list(models.presets()),
                  "matrix": matrix.build("quick", "cpu").to_json()}))
"""

# Of the quick grid only what has three heads: the package's own workloads, beside eager.
MEASURE = ("-m", "pytest", "perf/", "--benchmark-only", "-p", "no:cacheprovider", "--perf-device=cpu",
           "--perf-unfit=keep", "--perf-grid=quick", "--perf-functions=softmax", "--perf-backends=eager,einsum",
           "--perf-seqlens=96", "-k", "h3")


def run(path: Path, *arguments: str | Path) -> str:
    """Runs Python with `path` on its path, as with an installed package; returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)]), "OMP_NUM_THREADS": "1",
                   "COLUMNS": "120"}
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True,
                          text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Gives a folder with the other package installed in it."""
    folder = tmp_path_factory.mktemp("other")
    shutil.copytree(PACKAGE, folder / "source")  # building leaves files beside the source
    run(folder, "-m", "pip", "install", "--isolated", "--quiet", "--disable-pip-version-check", "--no-index",
        "--no-deps", "--no-build-isolation", "--target", folder / "site", folder / "source")
    return folder / "site"


@pytest.fixture(scope="module")
def outputs(site, tmp_path_factory):
    """Gives what this project knows with the package, what without its folder on the path, and what it measures."""
    nothing = tmp_path_factory.mktemp("nothing")
    with ThreadPoolExecutor(2) as pool:
        measured = pool.submit(run, site, *MEASURE, f"--perf-evidence={site / 'evidence.jsonl'}")
        installed, removed = (json.loads(run(path, "-c", KNOWN)) for path in (site, nothing))
        return installed, removed, measured.result()


def test_its_names_are_known_as_long_as_it_is_installed(outputs):
    installed, removed, _ = outputs
    for what, name in (("variants", "softmax:einsum"), ("presets", MODEL)):
        assert set(installed[what]) - set(removed[what]) == {name}


def test_asv_gets_its_series_and_a_longer_axis(outputs):
    matrix, before = (Matrix.from_json(known["matrix"]) for known in outputs[:2])
    with_it, without = ({s.benchmark: s for s in one.series} for one in (matrix, before))
    assert set(with_it) - set(without) == {KERNEL_SERIES, MODEL_SERIES}
    # None is renamed, and softmax's have one backend more, but for quantised and compiled models.
    for name, series in without.items():
        free = series.axes["function"] == ["softmax"] and series.axes["backend"] != list(TREATED_BACKENDS)
        added = ["einsum"] if free else []
        assert with_it[name].axes == {**series.axes, "backend": series.axes["backend"] + added}
    cells = [cell for name in (KERNEL_SERIES, MODEL_SERIES) for cell in with_it[name].cells()]
    assert [cell.id for cell in cells] == IDS
    assert matrix.selected[KERNEL_SERIES] == matrix.selected[MODEL_SERIES] == [0]


def test_its_workloads_are_measured_and_shown(outputs, site):
    said = outputs[2]
    assert "4 passed" in said
    for model in ("", f"{MODEL}: "):
        section = said.partition(f"- {model}softmax forward, causal, 3 heads x 40, fp32 -")[2].splitlines()
        assert [line.split()[:3] for line in section[2:4]] == [["eager", "96", "2"], ["einsum", "96", "2"]], said
    rows = [row for row in load(site / "evidence.jsonl") if row.workload.backend == "einsum"]
    assert [row.workload.id for row in rows] == IDS
    assert all(row.outcome == "ok" and row.samples for row in rows)
