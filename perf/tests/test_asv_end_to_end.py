"""`asv run` over commits that differ in what they have: today's harness measures each one's own code."""
from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from asv.config import Config
from asv.environment import EnvironmentUnavailable

from perf.history import asv_environment, matrix
from perf.history.rows import load
from perf.history.series import FIGURES
from perf.system.files import seal, unseal
from perf.workloads import grids as workloads

ROOT = Path(__file__).parents[2]
SERIES = "attention.SoftmaxForwardH8D64Fp32"
BENCH = rf"{SERIES}\..*'eager'.*True, 1, 8, 8, 512,"
SCORES = "    scores = product(q, k_BGMD.mT, scale)"


def command(*words, cwd, home, check=True, **variables):
    variables = {**os.environ, "HOME": str(home), "PERF_GRID": "quick", "PERF_DEVICE": "cpu",
                 "PYTHONPATH": str(cwd),  # as careless as can be: the tree that isn't measured stands on the path
                 "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **variables}
    variables.pop("PYTEST_XDIST_WORKER", None)  # pytest-benchmark would take the run for xdist's
    for name in ("NAME", "EMAIL"):
        variables |= {f"GIT_AUTHOR_{name}": "someone", f"GIT_COMMITTER_{name}": "someone"}
    done = subprocess.run(words, cwd=cwd, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def asv(*words, **kwargs):
    return command(sys.executable, "-m", "asv", *words, **kwargs)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Gives three commits: without attention, with it, and with a wrong scale and without models."""
    home = tmp_path_factory.mktemp("home")
    tree = home / "tree"
    skip = shutil.ignore_patterns("__pycache__", "tests", "records")
    shutil.copytree(ROOT / "perf", tree / "perf", ignore=skip)
    shutil.copy(ROOT / "asv.conf.json", tree)
    (tree / ".gitignore").write_text("/.asv/\n__pycache__/\n")

    def commit(message):
        command("git", "add", "--all", cwd=tree, home=home)
        command("git", "commit", "--quiet", "--message", message, cwd=tree, home=home)
        return command("git", "rev-parse", "HEAD", cwd=tree, home=home).stdout.strip()

    command("git", "init", "--quiet", cwd=tree, home=home)
    commits = {"empty": commit("nothing to measure")}
    for package in ("attention", "models"):
        shutil.copytree(ROOT / package, tree / package, ignore=skip)
    commits["right"] = commit("attention and models")
    eager = tree / "attention" / "backends" / "eager.py"
    right = eager.read_text()
    assert SCORES in right
    eager.write_text(right.replace(SCORES, "    scores = product(q, k_BGMD.mT, 2 * scale)"))
    models = tree / "models"
    models.rename(home / "models")
    commits["wrong"] = commit("a wrong scale, and no models")
    # The working tree is none of the commits: right again, and with models.
    eager.write_text(right)
    (home / "models").rename(models)
    asv("machine", "--yes", cwd=tree, home=home)
    return tree, home, commits


def figures(tree, commit):
    """Returns asv's results of a commit: benchmark -> its cells, or None."""
    (path,) = (tree / ".asv" / "results").glob(f"*/{commit[:8]}-links-*.json")
    record = json.loads(path.read_text())
    column = record["result_columns"].index("result")
    return {name: row[column] if len(row) > column else None for name, row in record["results"].items()}


def known(cells):
    """Returns the cells that are not null, by number."""
    return {number: value for number, value in enumerate(cells or []) if value is not None and not math.isnan(value)}


@pytest.mark.slow
def test_each_commit_is_measured_by_its_own_code(repository):
    tree, home, commits = repository
    one = {s.benchmark: s for s in matrix.all_series().values()}[SERIES]
    (cell,) = [w for w in workloads.grid("quick", "cpu")
               if w.variant == "softmax:eager" and w.n == 512 and w.causal]
    number = one.index(cell)

    checked = asv("check", cwd=tree, home=home)
    assert "No problems found" in checked.stdout
    ran = asv("run", "ALL", "--quick", "--show-stderr", "--bench", BENCH, cwd=tree, home=home, check=False)
    said = ran.stdout + ran.stderr
    assert f"missing: commit {commits['empty'][:8]} has no attention/; all its figures are null" in said
    assert f"missing: commit {commits['wrong'][:8]} has no models/; its model benchmarks are null" in said

    empty, right, wrong = (figures(tree, commits[name]) for name in ("empty", "right", "wrong"))
    names = {f"{SERIES}.{figure}" for figure in FIGURES}
    assert set(right) == set(wrong) == set(empty) == names
    assert all(not known(cells) for cells in empty.values())
    for name in names & {f"{SERIES}.{figure}" for figure in ("time_call", "track_peak_bytes", "track_error")}:
        assert set(known(right[name])) == {number}
        assert len(right[name]) == len(one.cells())
    assert known(right[f"{SERIES}.track_error"])[number] <= 1
    assert known(wrong[f"{SERIES}.track_error"])[number] > 1
    assert "is numerically wrong" in said
    assert not known(wrong[f"{SERIES}.time_call"])

    # Another cell of the same commit leaves the first one's figures alone.
    more = rf"{SERIES}\.track_error.*'sdpa'.*True, 1, 8, 8, 512,"
    asv("run", f"{commits['right']}^!", "--quick", "--bench", more, cwd=tree, home=home)
    kept = figures(tree, commits["right"])
    assert len(known(kept[f"{SERIES}.track_error"])) == 2
    assert known(kept[f"{SERIES}.time_call"]) == known(right[f"{SERIES}.time_call"])


@pytest.mark.slow
def test_pytest_and_asv_run_fill_the_same_file_and_asv_reads_it(repository):
    """One cell by each; then pytest's evidence as the next commit's, and asv's own commands over both."""
    tree, home, commits = repository
    clone = home / "clone"
    command("git", "clone", "--quiet", str(tree), str(clone), cwd=home, home=home)
    command("git", "checkout", "--quiet", "-B", "main", commits["right"], cwd=clone, home=home)
    asv("run", f"{commits['right']}^!", "--quick", "--bench", BENCH, cwd=clone, home=home)
    evidence = clone / ".asv" / "evidence.jsonl"
    measured = command(sys.executable, "-m", "pytest", "perf/test_attention.py", "--benchmark-only",
                       "--perf-unfit=keep", "--perf-grid=quick", "--perf-functions=softmax", "--perf-backends=sdpa",
                       "--perf-seqlens=512", f"--perf-evidence={evidence}", "--perf-history", "-p", "no:cacheprovider",
                       cwd=clone, home=home)
    assert f"numbers in {clone}/.asv/results" in measured.stdout
    # This machine may be busy, and have no times then: they are what is tested, so it is taken for fit.
    lines = [unseal(line) for line in evidence.read_bytes().splitlines()]
    evidence.write_text("\n".join(seal(line | ({"reason": None} if "reason" in line else {})) for line in lines))
    added = command(sys.executable, "-m", "perf", "history", "add", str(evidence), cwd=clone, home=home)
    assert added.stdout.startswith(f"{evidence}: ")

    (path,) = (clone / ".asv" / "results").glob("*/*-links-*.json")  # one machine, commit and environment
    assert path.name.startswith(commits["right"][:8])
    found = load(clone / ".asv" / "results")
    assert not found.problems
    told = {row.workload.backend: row for row in found.rows if row.figure == "time_call"}
    assert set(told) == {"eager", "sdpa"}
    assert len(told["sdpa"].samples) >= 3
    peaks = {row.workload.backend for row in found.rows if row.figure == "track_peak_bytes"}
    assert peaks == {"eager", "sdpa"}

    (clone / "note").write_text("another commit")
    command("git", "add", "note", cwd=clone, home=home)
    command("git", "commit", "--quiet", "-m", "another", cwd=clone, home=home)
    after = command("git", "rev-parse", "HEAD", cwd=clone, home=home).stdout.strip()
    command(sys.executable, "-m", "perf", "history", "add", str(evidence), "--commit", after, cwd=clone, home=home)
    shown = asv("show", "--details", commits["right"], cwd=clone, home=home).stdout
    assert f"{SERIES}.time_call" in shown
    compared = asv("compare", commits["right"], after, cwd=clone, home=home).stdout
    (line,) = [line for line in compared.splitlines() if "time_call" in line and "'sdpa'" in line and "1.00" in line]
    assert SERIES in line
    assert not [line for line in compared.splitlines() if line.count("n/a") == 3]  # measured at neither commit
    asv("publish", cwd=clone, home=home)
    graphs = list((clone / ".asv" / "html" / "graphs").rglob(f"{SERIES}.time_call.json"))
    points = [json.loads(graph.read_text()) for graph in graphs if "summary" not in graph.parts]
    numbers = [value for (of_one,) in [points] for _, values in of_one for value in values if value is not None]
    assert len(numbers) == 3  # eager at one commit, sdpa at both
    assert told["sdpa"].value in numbers


@pytest.mark.parametrize(("setting", "message"), [
    (("PERF_GRID", "huge"), "PERF_GRID: unknown grid 'huge'; choose from quick, default, full"),
    (("PERF_DEVICE", "tpu"), "PERF_DEVICE: no device 'tpu' here; choose from cpu"),
])
def test_impossible_settings_stop_asv_in_one_line(setting, message, tmp_path):
    shutil.copy(ROOT / "asv.conf.json", tmp_path)
    (tmp_path / "perf").symlink_to(ROOT / "perf")
    command("git", "init", "--quiet", cwd=tmp_path, home=tmp_path)
    done = asv("setup", cwd=tmp_path, home=tmp_path, check=False, **dict([setting]))
    assert done.returncode == 1
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_what_asv_starts_is_forked_and_the_matrix_says_what_is_selected(monkeypatch, tmp_path):
    conf = Config.from_json({"repo": ".", "env_dir": str(tmp_path)})
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    monkeypatch.setattr(asv_environment, "harness_matrix", lambda: matrix.Matrix("quick", "cuda", [], {"one": [1, 2]}))
    links = asv_environment.Links(conf, python, {}, {})
    links.create()
    assert conf.launch_method == "forkserver"
    links.select({"one": [2]})
    written = matrix.Matrix.from_json((Path(links._path) / "matrix.json").read_text())
    assert written.selected == {"one": [2]}


def test_another_python_is_refused(tmp_path):
    with pytest.raises(EnvironmentUnavailable, match=r"3\.5"):
        asv_environment.Links(Config.from_json({"repo": ".", "env_dir": str(tmp_path)}), "3.5", {}, {})
