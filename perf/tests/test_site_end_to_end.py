"""`asv run` of this harness on a commit, then `python -m perf site`: its figures stand on the page and in a graph."""
from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perf.history.rows import load
from perf.report.units import seconds
from perf.tests.repositories import git

ROOT = Path(__file__).parents[2]
SERIES = "attention.SoftmaxForwardH8D64Fp32"


@pytest.mark.slow
def test_what_asv_measured_is_published(tmp_path):
    tree = tmp_path / "tree"
    skip = shutil.ignore_patterns("__pycache__", "tests", "records")
    for package in ("perf", "attention", "models"):
        shutil.copytree(ROOT / package, tree / package, ignore=skip)
    shutil.copy(ROOT / "asv.conf.json", tree)
    (tree / ".gitignore").write_text("/.asv/\n/.site/\n__pycache__/\n")
    git(tree, "init", "--quiet")
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message", "all of it")

    def python(*words):
        variables = {**os.environ, "HOME": str(tmp_path), "PERF_GRID": "quick", "PERF_DEVICE": "cpu",
                     "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-m", *words], cwd=tree, env=variables, capture_output=True, text=True,
                              timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    python("asv", "machine", "--yes")
    python("asv", "run", "HEAD^!", "--quick", "--bench", rf"{SERIES}\..*(eager|sdpa').*True, 1, 8, 8, (512|1024),")
    site = python("perf", "site")
    assert site.stderr == ""
    assert site.stdout == ".site/index.html\n"

    rows = [row for row in load(tree / ".asv" / "results").rows if row.figure == "time_call"]
    assert {(row.workload.backend, row.workload.n) for row in rows} == {
        (backend, n) for backend in ("eager", "sdpa") for n in (512, 1024)}
    page = (tree / ".site" / "index.html").read_text()
    for row in rows:
        assert f">{seconds(row.value)}</td>" in page
    (graph,) = (tree / ".site" / "asv").glob(f"graphs/**/machine-*/**/{SERIES}.time_call.json")
    ((_, cells),) = json.loads(graph.read_text())
    assert sorted(cell for cell in cells if cell is not None and not math.isnan(cell)) == sorted(
        row.value for row in rows)
