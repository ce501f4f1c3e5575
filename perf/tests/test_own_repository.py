"""`perf_packages` in a pytest ini: the template under examples/, as a repository of its own."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perf.compare.bisect import between
from perf.compare.checkout import checkout, working_tree
from perf.compare.closure import unchanged
from perf.compare.project import Project, project
from perf.compare.record import load
from perf.compare.side import PACKAGES, ROOT
from perf.history import backfill
from perf.tests.github_server import REPOSITORY, TOKEN, serve
from perf.tests.repositories import git, harness
from perf.workloads.ids import workload

TEMPLATE = ROOT / "examples" / "mykernels"
CELL = "softmax:einsum-forward-causal-b2-h3-kv3-n96-m96-d40-fp32"
SLOW = "scores.softmax(-1).clone()"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Gives the template with one commit, tagged `good`."""
    root = tmp_path / "mine"
    shutil.copytree(TEMPLATE, root, ignore=shutil.ignore_patterns("__pycache__"))
    git(root, "init", "--quiet", "--initial-branch=main")
    commit(root, "first")
    git(root, "tag", "good")
    return root


def commit(root: Path, subject: str) -> str:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", subject)
    return git(root, "rev-parse", "HEAD")


def edit(root: Path, before: str, after: str, file: str = "variants.py") -> None:
    path = root / "mykernels" / file
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_an_ini_names_the_packages_and_without_one_they_are_this_project_s(repository: Path, tmp_path: Path) -> None:
    assert project(repository) == Project(repository, ("mykernels",))
    assert project(tmp_path) == Project(tmp_path, PACKAGES)
    other = tmp_path / "other"
    other.mkdir()
    (other / "pytest.ini").write_text("[pytest]\nperf_packages = src/nowhere\n")
    with pytest.raises(ValueError, match=r"perf_packages: .*other has no package src/nowhere") as refusal:
        project(other)
    assert "\n" not in str(refusal.value)


def test_its_packages_come_from_its_commits_and_all_else_from_here(repository: Path) -> None:
    edit(repository, "scores.softmax(-1)", SLOW)
    with checkout("good", repository) as base, working_tree(repository) as head:
        assert (base.packages, base.name[:5]) == (("mykernels",), "good ")
        for side, slow in ((base, False), (head, True)):
            assert (SLOW in (side.folder / "mykernels" / "variants.py").read_text()) == slow
            for name in ("perf", *PACKAGES):
                assert (side.folder / name).samefile(ROOT / name)
    assert not base.folder.exists()
    assert (repository / "mykernels" / "variants.py").exists()


def test_only_commits_that_touch_its_packages_are_bisected(repository: Path) -> None:
    (repository / "notes.txt").write_text("a note")
    commit(repository, "a note")
    edit(repository, "scores.softmax(-1)", SLOW)
    slow = commit(repository, "slow")
    assert between(repository, "good", "main") == [slow]
    assert backfill.commits(repository, "good..main", 5) == [slow]
    with pytest.raises(ValueError, match="touches mykernels/"):
        between(repository, "main", "main")


def test_code_of_its_packages_decides_what_is_timed(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness's variants depend on it by what importing it does, and no more."""
    monkeypatch.syspath_prepend(repository)
    eager = workload(CELL.replace("einsum", "eager"))
    with checkout("good", repository) as base, working_tree(repository) as head:
        edit(repository, "scores.softmax(-1)", SLOW)
        assert unchanged(eager, base, head)
        edit(repository, "import torch\n", "import torch\n\ntorch.set_float32_matmul_precision('high')\n")
        assert not unchanged(eager, base, head)


def python(root: Path, site: Path, *words: str, harness: Path = ROOT,
           **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (root, harness, site)))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **variables}
    environment.pop("PYTEST_XDIST_WORKER", None)  # pytest-benchmark would take this run for xdist's
    return subprocess.run([sys.executable, *words], cwd=root, capture_output=True, text=True, timeout=900, check=False,
                          env=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the template installed in it."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(TEMPLATE, folder / "source")  # building leaves files beside the source
    done = python(folder, folder, "-m", "pip", "install", "--isolated", "--quiet", "--no-index", "--no-deps",
                  "--no-build-isolation", "--target", str(folder / "site"), str(folder / "source"))
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.mark.slow
def test_the_template_is_measured_compared_and_bisected(repository: Path, site: Path) -> None:
    measure = ("-m", "pytest", "--pyargs", "perf", "--benchmark-only", "-p", "no:cacheprovider", "--perf-device=cpu",
               "--perf-unfit=keep", "-k", "h3 and test_attention")
    done = python(repository, site, *measure)
    assert "2 passed" in done.stdout, done.stdout + done.stderr

    edit(repository, "scores.softmax(-1)", SLOW)
    against = tuple(word for word in measure if word != "--perf-unfit=keep")
    done = python(repository, site, *against, "--perf-against=good")
    assert done.returncode == 1, done.stdout + done.stderr
    for words in ("regressed", "aten::clone", "against good (", "ok, unchanged"):  # eager's code is the harness's
        assert words in done.stdout

    culprit = commit(repository, "a needless copy")
    edit(repository, '"""Attention', '"""More. Attention', file="__init__.py")
    commit(repository, "a docstring")
    done = python(repository, site, "-m", "perf", "bisect", "--device=cpu", "--good=good", "--bad=main", "--seconds=0",
                  CELL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"got slower: {culprit[:8]} a needless copy" in done.stdout


@pytest.mark.slow
def test_the_template_has_nights_a_site_a_history_branch_and_owners(repository: Path, site: Path,
                                                                    tmp_path: Path) -> None:
    copy = harness(tmp_path / "harness")

    def perf(*words: str, code: int = 0) -> str:
        done = python(repository, site, "-m", "perf", *words, harness=copy, GITHUB_API_URL=github.url,
                      GITHUB_TOKEN=TOKEN, NO_PROXY="*")
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    night = ("nightly", "--device=cpu", "--grid=quick", "--budget=200", "--no-tests", f"--lock={tmp_path / 'lock'}",
             f"--repository={REPOSITORY}", "--", "--perf-backends=einsum", "-k", "h3 and test_attention")
    with serve() as github:
        perf(*night)
        perf("history", "push", "--remote=none")
        assert git(repository, "show", "perf-history:results/benchmarks.json")
        edit(repository, "scores.softmax(-1)", SLOW)
        culprit = commit(repository, "a needless copy")
        said = perf(*night, code=1)
        [record] = [one for one in map(load, (repository / ".perf/nights").glob("*.json")) if one.head == culprit]
        [found] = record.findings
        assert (found.benchmark, found.word, found.since) == (CELL, "regressed", culprit), said
        assert record.command.startswith("python -m pytest --pyargs perf --benchmark-only")
        [issue] = github.open
        for words in ("aten::clone", culprit[:8], "@example/kernels", record.command):
            assert words in issue["body"]
        assert [one["login"] for one in issue["assignees"]] == ["ada"]
        assert "a needless copy" in (repository / ".site/index.html").read_text()
        perf("history", "push", "--remote=none")
        assert "a needless copy" not in git(repository, "log", "--format=%s", "perf-history")
        results = git(repository, "ls-tree", "-r", "--name-only", "perf-history", "results")
        assert culprit[:8] in results
        perf("accept", CELL, f"--commit={culprit}", "--reason=worth it")
        git(repository, "add", "perf-accepted.toml")
        commit(repository, "accepted")
        perf("alert", str(repository / ".perf/nights"), "--issues", f"--repository={REPOSITORY}")
        assert not github.open
