"""`python -m perf nightly` over a small repository, against a GitHub on loopback: a quiet night; one with a regression,
killed midway and taken up again; and another that finds the same."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from perf.compare.record import load
from perf.history.rows import load as load_history
from perf.measure.evidence import load as load_evidence
from perf.system import files
from perf.tests.github_server import REPOSITORY, TOKEN, serve
from perf.tests.repositories import edit, harness

CHOSEN = ("--perf-functions=softmax", "--perf-backends=eager,tiled", "--perf-phases=forward", "--perf-seqlens=512")
EAGER, TILED = (f"softmax:{backend}-forward-causal-b1-h8-kv8-n512-m512-d64-fp32" for backend in ("eager", "tiled"))
SCORES = "    scores = product(q, k_BGMD.mT, scale)"
LIMIT = 540  # seconds until something is seen


@pytest.fixture
def tree(tmp_path):
    """Gives a repository with everything committed, on a machine that counts as fit."""
    tree = harness(tmp_path / "tree")
    (tree / "attention/tests").mkdir()
    (tree / "attention/tests/test_fine.py").write_text("def test_fine():\n    assert True\n")
    git(tree, "init", "--quiet", "--initial-branch=main")
    commit(tree, "fine")
    return tree


def git(tree, *words):
    names = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    return subprocess.run(["git", "-C", str(tree), *names, *words], capture_output=True, text=True,
                          check=True).stdout.strip()


def commit(tree, subject):
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message", subject)
    return git(tree, "rev-parse", "HEAD")


def measured(path):
    return [line for line in files.records(path) if line.get("kind") != "machine"]


class Nightly:
    """Runs it in the tree."""

    def __init__(self, tree, github):
        self.tree = tree
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        self.variables = {**kept, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "COLUMNS": "120",
                          "HOME": str(tree.parent), "TMPDIR": str(tree.parent), "GITHUB_API_URL": github.url,
                          "GITHUB_TOKEN": TOKEN, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        self.chosen = CHOSEN
        self.words = [sys.executable, "-m", "perf", "nightly", "--device=cpu", "--grid=quick", "--budget=200",
                      f"--lock={tree.parent / 'lock'}", f"--repository={REPOSITORY}"]

    def start(self, *options):
        self.out = (self.tree.parent / "out.txt").open("w+")
        return subprocess.Popen([*self.words, *options, "--", *self.chosen], cwd=self.tree, env=self.variables,
                                stdout=self.out, stderr=subprocess.STDOUT)

    def run(self, *options):
        """Runs a night; returns the exit code, and what was printed."""
        code = self.start(*options).wait(LIMIT)
        self.out.seek(0)
        return code, self.out.read()

    def kill_when(self, night, file):
        """Sends SIGKILL as soon as `file`, of the `night`-th, tells of something measured."""
        process = self.start()
        end = time.monotonic() + LIMIT
        while len(self.folders) < night or not measured(self.folder / file):
            assert process.poll() is None, (self.tree.parent / "out.txt").read_text()
            assert time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL

    def remembered(self):
        """Reads what the newest night left for later ones."""
        return json.loads((self.tree / f".perf/nights/{self.folder.name}.measured").read_text())["night"]

    def remember(self, count):
        """Puts as many nights before the first, each like it."""
        [first, *_] = sorted((self.tree / ".perf/nights").glob("*.measured"))
        told = json.loads(first.read_text())
        for i in range(1, count + 1):
            before = told | {"began": told["began"] - i * 86400}
            first.with_name(f"before-{i}.measured").write_text(json.dumps(before))

    @property
    def folders(self):
        return sorted((self.tree / ".perf/nightly").glob("*/"))

    @property
    def folder(self):
        return self.folders[-1]

    @property
    def records(self):
        return sorted(map(load, (self.tree / ".perf/nights").glob("*.json")), key=lambda night: night.time)


@pytest.fixture
def github():
    with serve() as server:
        yield server


def test_a_first_night(tree, github):
    """Every step runs, and there is nothing to compare with."""
    nightly = Nightly(tree, github)
    first_night(nightly, git(tree, "rev-parse", "HEAD"))
    assert github.issues == {}


def first_night(nightly, commit):
    code, out = nightly.run()
    assert code == 0, out
    [night] = nightly.records
    assert {(one.benchmark, one.word) for one in night.findings} == {(EAGER, "new"), (TILED, "new")}
    assert {step.name: step.outcome for step in night.steps} == {
        "machine": "ok", "tests": "ok", "benchmarks": "ok", "launches": "ok", "screen": "skipped",
        "verdict": "skipped", "bisection": "skipped", "learn": "ok", "alert": "ok", "site": "ok"}, out
    history = load_history(nightly.tree / ".asv/results")
    assert {row.commit for row in history.rows} == {commit}
    assert {row.workload.id for row in history.rows} == {EAGER, TILED}


@pytest.mark.slow
def test_a_night_over_shards_is_one_record_and_one_alert(tree, github, tmp_path):
    nightly = Nightly(tree, github)
    nightly.chosen = (*CHOSEN[:-1], "--perf-seqlens=512,1024")  # two groups

    def shards():
        """Measures two shards, as two machines would, and merges them."""
        parts = [tmp_path / git(tree, "rev-parse", "HEAD") / f"{i}.jsonl" for i in (1, 2)]
        for i, part in enumerate(parts, 1):
            call("pytest", "perf/", "--benchmark-only", "--perf-device=cpu", "--perf-grid=quick", *nightly.chosen,
                 f"--perf-shard={i}/2", f"--perf-evidence={part}", "-p", "no:cacheprovider")
        call("perf", "merge", *map(str, parts), "-o", str(parts[0].with_name("all.jsonl")))
        return parts[0].with_name("all.jsonl")

    def call(*words):
        done = subprocess.run([sys.executable, "-m", *words], cwd=tree, env=nightly.variables, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        assert done.returncode in (0, 1), done.stdout

    merged = shards()
    code, said = nightly.run(f"--measured={merged}", "--no-tests")
    assert code == 0, said
    rows = {one.workload.id: one.time for one in load_evidence(merged) if one.outcome == "ok"}
    assert len(rows) == 4
    assert {one.workload.id: one.time for one in load_evidence(nightly.folder / "evidence.jsonl")} == rows
    assert {row.workload.id for row in load_history(tree / ".asv/results").rows} == rows.keys()
    [night] = nightly.records
    assert {one.benchmark: one.word for one in night.findings} == dict.fromkeys(rows, "new")

    edit(tree / "attention/backends/eager.py", SCORES, SCORES.replace("scale", "2 * scale"))
    commit(tree, "a wrong scale")
    code, said = nightly.run(f"--measured={merged}", "--no-tests")
    assert code == 2
    assert "is of commit" in said
    code, said = nightly.run(f"--measured={shards()}", "--no-tests", "--budget=0")
    assert code == 1, said
    assert len(nightly.records) == 2
    [issue] = github.open
    assert "softmax:eager" in issue["body"]


@pytest.mark.slow
def test_nights_speak_up_once(tree, github):
    first, nightly = git(tree, "rev-parse", "HEAD"), Nightly(tree, github)
    first_night(nightly, first)

    with (tree / "attention/masks.py").open("a") as file:
        file.write("# words\n")
    commit(tree, "words")
    edit(tree / "attention/backends/eager.py", SCORES, "    for _ in range(20):\n        q = q.clone()\n" + SCORES)
    slow = commit(tree, "Clone, and clone again")
    nightly.kill_when(2, "evidence.jsonl")  # the first time while it measures
    [kept] = measured(nightly.folder / "evidence.jsonl")
    nightly.kill_when(2, "compared.jsonl")  # the second time while it compares
    assert github.issues == {}
    assert len(nightly.records) == 1
    code, said = nightly.run()
    assert code == 1, said
    assert "tests: done before" in said
    assert "benchmarks: done before" in said
    rows = measured(nightly.folder / "evidence.jsonl")
    assert len(rows) == 2  # nothing was measured twice
    assert rows[0] == kept
    assert set(Counter(line["finding"]["benchmark"] for line in
                       files.records(nightly.folder / "compared.jsonl")).values()) == {1}
    night = nightly.records[-1]
    found = {one.benchmark: one for one in night.findings}
    assert {name: one.word for name, one in found.items()} == {EAGER: "regressed", TILED: "unchanged"}
    assert (night.base, night.head) == (first, slow)
    assert (found[EAGER].since, found[EAGER].author) == (slow, "Ada")
    assert found[EAGER].subject == "Clone, and clone again"
    assert "20 more operators: aten::clone" in found[EAGER].why
    assert [commit for commit, _ in found[EAGER].samples] == [first, slow]
    assert len(nightly.folders) == 2
    [issue] = github.open
    assert slow[:8] in issue["body"]
    assert EAGER in issue["body"]
    page = (tree / ".site/index.html").read_text()
    assert "Clone, and clone again" in page

    nightly.remember(12)
    code, said = nightly.run()  # the night is over: this is another one, of the same commit
    assert code == 1, said
    assert [step.outcome for step in nightly.records[-1].steps if step.name == "screen"] == ["ok"], said
    assert set(nightly.remembered()["launches"]) == {TILED}  # what regressed is found again tomorrow
    assert len(nightly.folders) == len(nightly.records) == 3
    assert nightly.records[-1].base == first  # what regressed is not the base of the next night
    assert [issue["number"] for issue in github.open] == [1]
    assert len(github.issues) == 1
    assert github.comments == {}
    assert not list(tree.parent.glob("perf-base-*"))
    assert json.loads((nightly.folder / "steps/alert.json").read_text())["outcome"] == "ok"
