"""The workflows: well formed, and harmless in the hands of whoever opens a pull request."""
from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

yaml = pytest.importorskip("ruamel.yaml", reason="check-jsonschema, which brings it, is not installed")
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
PIN = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")
MAY_WRITE = {  # the only rights to write, by workflow and job
    "canary": {"alert": {"issues"}},
    "nightly": {"keep": {"contents"}, "alert": {"issues"}, "site": {"pages", "id-token"}},
    "perf-pr": {"unlabel": {"pull-requests"}, "comment": {"pull-requests"}},
    "site": {"deploy": {"pages", "id-token"}}, "tests": {}}
CHECKERS = {"check-jsonschema": ("--builtin-schema", "vendor.github-workflows"),
            "zizmor": ("--offline", "--no-progress", "--no-config")}
OURS = ("github.event.pull_request.number", "github.event.pull_request.head.sha", "github.event.pull_request.base.sha")

each = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def load(path: Path) -> dict:
    return yaml.YAML(typ="safe").load(path)


def jobs() -> list[tuple[str, str, dict]]:
    return [(path.stem, name, job) for path in WORKFLOWS for name, job in load(path)["jobs"].items()]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """Returns a command of this environment."""
    program = Path(sys.executable).with_name(words[0])
    if not program.exists():
        pytest.skip(f"{words[0]} is not installed: pip install -e '.[dev]'")
    return subprocess.run([program, *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_there_are_five():
    assert [path.stem for path in WORKFLOWS] == ["canary", "nightly", "perf-pr", "site", "tests"]


def test_they_follow_github_s_schema():
    done = command("check-jsonschema", *CHECKERS["check-jsonschema"], *map(str, WORKFLOWS))
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_finds_nothing():
    done = command("zizmor", *CHECKERS["zizmor"], ".github")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No findings to report" in done.stdout + done.stderr


@pytest.mark.parametrize(("before", "after", "checker", "said"), [
    ("runs-on: ubuntu-24.04", "run-on: ubuntu-24.04", "check-jsonschema", "run-on"),
    ('HEAD "$BASE"', 'HEAD "${{ github.head_ref }}"', "zizmor", "template-injection"),
    ("pull_request:\n", "pull_request_target:\n", "zizmor", "dangerous-triggers"),
    ("@08c6903cd8c0fde910a37f88322edcfb5dd907a8", "@v5", "zizmor", "unpinned-uses"),
])
def test_the_checkers_find_what_there_is(tmp_path, before, after, checker, said):
    """So that one which looks at nothing doesn't pass for one that finds nothing."""
    text = (FOLDER / "perf-pr.yml").read_text(encoding="utf-8")
    assert before in text
    worse = tmp_path / ".github" / "workflows" / "perf-pr.yml"
    worse.parent.mkdir(parents=True)
    worse.write_text(text.replace(before, after), encoding="utf-8")
    done = command(checker, *CHECKERS[checker], str(worse))
    assert done.returncode
    assert said in done.stdout


def test_the_linters_of_tox_look_at_each():
    text = (ROOT / "tox.ini").read_text(encoding="utf-8")
    assert "zizmor --offline" in text
    assert [line.strip() for line in text.splitlines() if line.strip().startswith(".github/")] == [
        str(path.relative_to(ROOT)) + (" \\" if path != WORKFLOWS[-1] else "") for path in WORKFLOWS]


@each
def test_a_workflow_by_itself_has_no_rights(path):
    assert load(path)["permissions"] in ({}, {"contents": "read"})


def test_each_job_may_write_what_it_needs_and_no_more():
    found: dict[str, dict[str, set[str]]] = {path.stem: {} for path in WORKFLOWS}
    for workflow, name, job in jobs():
        rights = {right for right, value in job.get("permissions", {}).items() if value == "write"}
        if rights:
            found[workflow][name] = rights
    assert found == MAY_WRITE


@each
def test_actions_are_pinned(path):
    used = re.findall(r"^\s*-?\s*uses:\s*(\S+)(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert used
    for action, comment in used:
        assert action == "./.github/workflows/site.yml" or (
            PIN.fullmatch(action) and re.fullmatch(r" # v\d+\.\d+\.\d+", comment)), action + comment


def test_an_action_has_one_version():
    pins = {match for path in WORKFLOWS for match in re.findall(r"uses: (\S+@\S+) # (\S+)", path.read_text())}
    assert len({pin.partition("@")[0] for pin, _ in pins}) == len(pins)


def test_no_expression_reaches_a_shell():
    """An expression in `${{ }}` would become part of the script, so values come in by the environment."""
    for workflow, name, job in jobs():
        for step in job.get("steps", ()):
            assert "${{" not in step.get("run", ""), (workflow, name)


def test_nothing_of_others_gets_into_the_environment():
    """Titles, branch names and messages are anyone's; numbers and hashes are GitHub's own."""
    for workflow, name, job in jobs():
        for step in job.get("steps", ()):
            for value in (*step.get("env", {}).values(), *step.get("with", {}).values()):
                for inside in re.findall(r"\$\{\{\s*(github\.event\.[\w.]+|github\.head_ref)", str(value)):
                    assert inside in OURS, (workflow, name, inside)


@each
def test_no_event_gives_a_fork_more_than_a_fork_has(path):
    events = load(path).get("on") or load(path)[True]
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(events)


def test_the_gpu_machine_runs_no_fork_and_can_write_nothing():
    own = [(workflow, name, job) for workflow, name, job in jobs() if "self-hosted" in job.get("runs-on", ())]
    assert [(workflow, name) for workflow, name, _ in own] == [
        ("canary", "measure"), ("nightly", "measure"), ("perf-pr", "measure")]
    for workflow, _, job in own:
        assert job["permissions"] == {"contents": "read"}
        assert "secrets." not in json.dumps(job)
        wanted = ("github.event.pull_request.head.repo.full_name == github.repository" if workflow == "perf-pr"
                  else "github.ref == 'refs/heads/main'")
        assert wanted in job["if"]
        assert "||" not in job["if"]


def test_a_checkout_leaves_no_token_behind():
    for workflow, name, job in jobs():
        for step in job.get("steps", ()):
            if "actions/checkout@" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False, (workflow, name)


def test_what_has_a_token_never_runs_the_pull_request_s_code():
    comment = load(FOLDER / "perf-pr.yml")["jobs"]["comment"]
    [checkout] = [step for step in comment["steps"] if "actions/checkout@" in step.get("uses", "")]
    assert checkout["with"]["ref"] == "${{ github.event.pull_request.base.sha }}"
    assert "--head \"$HEAD\"" in comment["steps"][-1]["run"]


def test_each_job_ends():
    for workflow, name, job in jobs():
        assert "uses" in job or job["timeout-minutes"] <= 600, (workflow, name)


@pytest.mark.slow
def test_a_canary_s_alert_opens_an_issue_of_its_own(tmp_path):
    """Runs the step as the workflow has it, against a GitHub on loopback."""
    from perf.tests.comparisons import comparison, finding
    from perf.tests.github_server import REPOSITORY, TOKEN, serve

    (tmp_path / "verdicts").mkdir()
    comparison(finding(), versions={"base": {"torch": "2"}, "head": {"torch": "3"}}).save(
        tmp_path / "verdicts" / "verdicts.json")
    [words] = [step["run"] for step in load(FOLDER / "canary.yml")["jobs"]["alert"]["steps"]
               if "perf alert" in step.get("run", "")]
    with serve() as github:
        variables = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "RUNNER_TEMP": str(tmp_path),
                     "GITHUB_API_URL": github.url, "GITHUB_TOKEN": TOKEN, "GITHUB_REPOSITORY": REPOSITORY,
                     "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"), "PERF_WEBHOOK_URL": ""}
        done = subprocess.run(["bash", "-e", "-c", words], cwd=ROOT, env=variables, capture_output=True, text=True,
                              timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        [issue] = github.open
    assert issue["title"].endswith("against other versions")
    assert (tmp_path / "summary.md").read_text()


def test_the_commands_exist():
    from perf.__main__ import parser

    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    named = set(re.findall(r"-m perf (\w+)", text))
    assert {"machine", "alert", "nightly"} <= named
    assert named - {"nightly"} <= set(parser()[1])
