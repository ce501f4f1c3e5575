"""The jobs of nightly.yml, site.yml and perf-pr.yml in their order, each with what the jobs before it left."""
from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile

import pytest

from perf.history.rows import load as load_history
from perf.tests.github_server import REPOSITORY, TOKEN, serve
from perf.tests.repositories import ROOT, edit, harness
from perf.tests.test_nightly_end_to_end import CHOSEN, EAGER, SCORES, TILED, Nightly, commit, git
from perf.tests.workflow_jobs import script

SECRETS = {"github.token": TOKEN, "secrets.PERF_WEBHOOK_URL": ""}


class Jobs:
    """Runs jobs of a repository that lies in `folder`, as do its artifacts; `gh`, `tox` and GitHub are local too."""

    def __init__(self, folder, github):
        self.folder, self.github, self.origin, self.tree = folder, github, folder / "origin.git", folder / "tree"
        harness(self.tree)
        git(self.tree, "init", "--quiet", "--initial-branch=main")
        commit(self.tree, "fine")
        git(folder, "clone", "--quiet", "--bare", str(self.tree), str(self.origin))
        nightly, programs = Nightly(self.tree, github), folder / "bin"
        night = shlex.join([*nightly.words[4:8], "--no-tests", "--", *CHOSEN])
        pair = shlex.join(["--perf-device=cpu", "--perf-grid=quick", *CHOSEN])
        accepted = f"{self.tree}/perf/policy/accepted.toml"
        tox = (ROOT / "tox.ini").read_text(encoding="utf-8")
        [site] = re.findall(r"^commands = python (-m perf site) \{posargs\}$", tox, re.MULTILINE)
        programs.mkdir()
        for name, line in {
                "gh": f'echo "$*" >> {folder}/gh; case "$*" in *accepted.toml*) cat {accepted}; esac',
                "perf-python": f'case "$*" in *nightly*) set -- "$@" {night};; *pytest*) set -- "$@" {pair}; esac; '
                               f'exec {sys.executable} "$@"',
                "tox": f'[ "$1 $2 $3 $4" = "run -e site --" ] || exit 1; shift 4; exec python {site} "$@"',
                "python": f'exec {sys.executable} "$@"'}.items():
            (programs / name).write_text(f"#!/bin/sh\n{line}\n")
            (programs / name).chmod(0o755)
        self.variables = {**nightly.variables, "PATH": f"{programs}:{os.environ['PATH']}", "PERF_PYTHON": "perf-python",
                          "GITHUB_REPOSITORY": REPOSITORY, "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
                          "ORIGIN": f"file://{self.origin}", "ARTIFACTS": str(folder / "artifacts")}

    def run(self, workflow, job, known=None):
        """Returns the exit code of a job, in a folder of its own, and what it printed."""
        folder = tempfile.mkdtemp(prefix=f"{workflow}-{job}-", dir=self.folder)
        done = subprocess.run(["bash", "-c", script(workflow, job, known)], cwd=folder, text=True, check=False,
                              env=self.variables | {"RUNNER_TEMP": f"{folder}-temp"}, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        return done.returncode, done.stdout


@pytest.fixture
def jobs(tmp_path):
    with serve() as github:
        yield Jobs(tmp_path, github)


@pytest.mark.slow
def test_a_night_s_jobs(jobs, tmp_path):
    """Two nights, each on a machine of its own, that the branch perf-history joins; then the site."""
    orphan = git(jobs.tree, "commit-tree", git(jobs.tree, "mktree"), "-m", "History")
    git(jobs.tree, "push", "--quiet", str(jobs.origin), f"{orphan}:refs/heads/perf-history")
    for night in (1, 2):
        for job in ("measure", "keep", "alert"):
            code, said = jobs.run("nightly", job, SECRETS)
            assert code == 0, said
        assert jobs.github.issues == {}
        kept = tmp_path / f"kept-{night}"
        git(tmp_path, "clone", "--quiet", "--branch=perf-history", str(jobs.origin), str(kept))
        assert len(list(kept.glob("nights/*.json"))) == night
        assert {row.workload.id for row in load_history(kept / "results").rows} == {EAGER, TILED}
    for job in ("build", "deploy"):
        code, said = jobs.run("site", job)
        assert code == 0, said
    assert "softmax" in (tmp_path / "artifacts/github-pages/index.html").read_text()


@pytest.mark.slow
def test_a_pull_request_s_jobs(jobs, tmp_path):
    """One that slows a backend: `measure` fails, and `comment` says it with the base's code."""
    base = git(jobs.tree, "rev-parse", "HEAD")
    path = jobs.tree / "attention/backends/eager.py"
    edit(path, SCORES, "    for _ in range(20):\n        q = q.clone()\n" + SCORES)
    head = commit(jobs.tree, "Clone, and clone again")
    git(jobs.tree, "push", "--quiet", str(jobs.origin), "HEAD:refs/heads/slower")
    number = jobs.github.add("a pull request", login="ada", pull_request={})
    event = "github.event.pull_request"
    known = SECRETS | {f"{event}.head.sha": head, f"{event}.base.sha": base, f"{event}.number": str(number),
                       "github.repository": REPOSITORY}
    code, said = jobs.run("perf-pr", "measure", known)
    assert code == 1, said
    assert "regressed" in said
    code, said = jobs.run("perf-pr", "comment", known)
    assert code == 0, said
    [comment] = jobs.github.comments.values()
    assert "Performance: 1 benchmark regressed" in comment["body"]
    assert re.search(rf"`{EAGER}`.* slower ", comment["body"])
    assert re.search(rf"`{TILED}`.*unchanged", comment["body"])
    assert jobs.run("perf-pr", "unlabel", known)[0] == 0
    assert (tmp_path / "gh").read_text().splitlines() == [
        f"api repos/{REPOSITORY}/contents/perf/policy/accepted.toml?ref={head} --header Accept: "
        "application/vnd.github.raw+json", f"api --method DELETE repos/{REPOSITORY}/issues/{number}/labels/perf"]
