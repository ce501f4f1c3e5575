"""`--perf-against` over a repository whose working tree has a slower backend, a new one, and one less."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from perf.compare.pairs import VARIANT

ROOT = Path(__file__).parents[2]
AGAINST = ("-m", "pytest", "perf/", "--benchmark-only", "--perf-device=cpu", "--perf-grid=quick", "--perf-heads=2",
           "--perf-functions=softmax", "--perf-seqlens=64", "--perf-against=HEAD")
BACKENDS = "backends=[eager, sdpa, math, flash,"
TILED = "tiled, checkpointed])"
SCORES = "    scores = product(q, k_BGMD.mT, scale)"
LIMIT = 120  # seconds on two cores: a verdict on one changed variant, its own benchmarks of the quick grid


def command(*words, cwd, check=True):
    variables = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "COLUMNS": "120", "HOME": str(cwd.parent),
                 "TMPDIR": str(cwd.parent), "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for name in ("NAME", "EMAIL"):
        variables |= {f"GIT_AUTHOR_{name}": "someone", f"GIT_COMMITTER_{name}": "someone"}
    done = subprocess.run(words, cwd=cwd, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def against(tree, *arguments):
    return command(sys.executable, *AGAINST, *arguments, cwd=tree, check=False)


def edit(path, before, after):
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))


@pytest.fixture
def tree(tmp_path):
    """Gives a repository with everything committed."""
    tree = tmp_path / "tree"
    for package in ("attention", "models", "perf"):
        ignored = shutil.ignore_patterns("__pycache__", "tests", "records")
        shutil.copytree(ROOT / package, tree / package, ignore=ignored)
    for name in ("conftest.py", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, tree)
    command("git", "init", "--quiet", cwd=tree)
    commit(tree)
    return tree


def commit(tree):
    command("git", "add", "--all", cwd=tree)
    command("git", "commit", "--quiet", "--message", "before", cwd=tree)


def cases(tree):
    """Reads the junit file: backend -> whether the test failed, its properties."""
    found = ElementTree.parse(tree / "out.xml").iter("testcase")
    return {case.get("name", "").partition("softmax:")[2].partition("-forward-")[0]:
            (case.find("failure") is not None, {p.get("name"): p.get("value") for p in case.iter("property")})
            for case in found}


def test_a_slower_backend_is_a_failed_test(tree):
    edit(tree / "attention/backends/eager.py", SCORES, "    for _ in range(20):\n        q = q.clone()\n" + SCORES)
    before = command("git", "status", "--porcelain", cwd=tree).stdout
    done = against(tree, "--junitxml=out.xml", "--perf-backends=eager,tiled", "--perf-verdicts=.perf/verdicts.json")
    text = done.stdout + done.stderr
    assert done.returncode == 1, text
    found = cases(tree)
    assert {backend: (failed, said["verdict"]) for backend, (failed, said) in found.items()} == {
        "eager": (True, "regressed"), "tiled": (False, "ok, unchanged")}, text
    said = found["eager"][1]
    low, high = map(float, said["interval"].strip("[]").split(", "))
    assert 1 < low < float(said["ratio"]) < high
    assert float(said["head"]) / float(said["base"]) == pytest.approx(float(said["ratio"]), rel=0.2)
    assert f"regressed: {said['why']} (against HEAD (" in text
    assert "20 more operators: aten::clone" in said["why"]
    assert "Traceback" not in text
    assert max(map(len, text.partition("perf: quick grid on cpu")[2].partition("== short")[0].splitlines())) <= 120
    assert command("git", "status", "--porcelain", cwd=tree).stdout.replace("?? out.xml\n", "") == before
    assert not list(tree.parent.glob("perf-base-*"))
    told = command(sys.executable, "-m", "perf", "alert", ".perf/verdicts.json", cwd=tree).stdout
    assert told.startswith("### Performance: 1 benchmark regressed\n")
    assert "% slower [" in told
    assert "```sh\npython -m pytest perf/ --benchmark-only --perf-functions=softmax --perf-backends=eager,tiled" in told


@pytest.mark.slow
@pytest.mark.parametrize("how", ["shards", *(pytest.param(how, marks=pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="takes two cores")) for how in ("workers", "workers, one lost"))])
def test_parts_of_a_comparison_are_one_comparison(tree, how):
    """Two parts, each with a wrong benchmark, whatever the machine is busy with: one after the other and merged, or
    side by side; and where what measures dies on the first cores, all is decided on the others."""
    cores = sorted(os.sched_getaffinity(0))
    dies = f"    import os\n    os.sched_getaffinity(0) == {{*{cores[:len(cores) // 2]}}} and os._exit(9)\n"
    edit(tree / "attention/backends/eager.py", SCORES, dies * (how == "workers, one lost") +
         SCORES.replace("scale", "2 * scale"))
    words = ("--perf-backends=eager,tiled", "--perf-seqlens=64,32")
    if how != "shards":
        done = against(tree, *words, "-n", "2", "--perf-verdicts=.perf/all.json")
    else:
        for part in (1, 2):
            done = against(tree, *words, f"--perf-shard={part}/2", f"--perf-verdicts=.perf/{part}.json")
            assert done.returncode == 1, done.stdout + done.stderr
            assert f"shard {part}/2: 2 of 4 rows, split by the 2 that are timed" in done.stdout
        done = command(sys.executable, "-m", "perf", "merge", ".perf/1.json", ".perf/2.json", "-o", ".perf/all.json",
                       cwd=tree, check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 1, text
    assert "4 benchmarks: 2 wrong, 2 ok, unchanged" in text
    written = json.loads((tree / ".perf/all.json").read_text())
    assert sorted(one["word"] for one in written["findings"]) == ["unchanged", "unchanged", "wrong", "wrong"]
    assert written["shard"] == {}
    assert not [one["why"] for one in written["findings"] if "exit status 9" in one["why"]]
    if how != "shards":
        parts = [json.loads((tree / f".perf/workers/{part}/verdicts.json").read_text()) for part in (1, 2)]
        assert [len(part["findings"]) for part in parts] == [2, 2]
        assert (how == "workers") == ("exit status 9" not in str(parts[0]))


@pytest.mark.slow
def test_what_only_one_side_has(tree):
    softmax = tree / "attention/functions/softmax.py"
    edit(softmax, BACKENDS, BACKENDS.replace("math, ", ""))
    commit(tree)
    edit(softmax, BACKENDS.replace("math, ", ""), BACKENDS)
    edit(softmax, TILED, TILED.replace("tiled, ", ""))
    found = {}
    for lenient, code in (("--perf-lenient",), 0), ((), 11):
        done = against(tree, "--junitxml=out.xml", "-k", "tiled or math", *lenient)
        assert done.returncode == code, done.stdout + done.stderr
        found[code] = {backend: (failed, said["verdict"]) for backend, (failed, said) in cases(tree).items()}
    assert found == {0: {"tiled": (False, "missing"), "sdpa-math": (False, "new")},
                     11: {"tiled": (True, "missing"), "sdpa-math": (False, "new")}}
    assert "missing: the head can't do it: softmax:tiled is not registered" in done.stdout


@pytest.mark.slow
def test_the_same_on_both_sides_passes(tree):
    done = against(tree, "--perf-backends=eager,sdpa", "--perf-all", "--perf-lenient", "--junitxml=out.xml")
    assert done.returncode == 0, done.stdout + done.stderr
    found = cases(tree)
    assert set(found) == {"eager", "sdpa"}
    for failed, said in found.values():
        assert not failed
        assert said["verdict"] in ("ok", "inconclusive", "invalid")
    assert any("ratio" in said for _, said in found.values())


@pytest.mark.slow
def test_a_verdict_on_one_variant_in_time(tree):
    """Its kernels and its TFT of the quick grid, at their own sizes; with a GPT-2 and a ViT it takes longer."""
    edit(tree / "attention/backends/sdpa.py", "class SDPA", "FASTER = True\n\n\nclass SDPA")
    start = time.monotonic()
    done = command(sys.executable, *AGAINST[:6], "--perf-against=HEAD", "--perf-functions=softmax",
                   "--perf-backends=sdpa", "-k", "test_attention or test_tft", cwd=tree, check=False)
    assert done.returncode in (0, 10, 11), done.stdout + done.stderr  # 10, 11: another is using this machine
    assert "3 benchmarks: " in done.stdout
    undecided = VARIANT["cpu"] if done.returncode == 11 else 0  # what others' work leaves so has its budget besides
    assert time.monotonic() - start < LIMIT + undecided
