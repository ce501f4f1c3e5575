"""`python -m perf alert` opens, updates and closes issues, comments, and shows what it would say."""
from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from perf.__main__ import main
from perf.alerts import client
from perf.alerts.client import GitHub
from perf.alerts.text import LABEL, MARKER
from perf.tests import alerting
from perf.tests.comparisons import FA2, HEAD, SDPA, bisected, comparison, finding
from perf.tests.github_server import BOT, REPOSITORY, TOKEN

ROOT = Path(__file__).parents[2]
SECRET = "T0/B0/hook-that-nobody-may-see"
alert, github = alerting.alert, alerting.github


def test_an_issue_is_opened_updated_and_closed(alert, github):
    assert alert(comparison(bisected(finding())), "--issues") == (
        0, f"open issue, number 1: 7.2 % slower: {SDPA} on NVIDIA H200\n", "")
    [first] = github.open
    assert first["labels"] == [{"name": LABEL}]
    assert alert(comparison(bisected(finding(ratio=1.09))), "--issues")[0] == 0
    [second] = github.open
    assert second["number"] == 1
    assert "**+9.0 %**" in second["body"]
    assert github.comments == {}
    assert alert(comparison(finding("ok", ratio=1.001)), "--issues") == (0, "close issue 1: \n", "")
    assert github.open == []
    [comment] = github.comments.values()
    assert comment["body"].startswith(f"Recovered: `{SDPA} time`.")
    assert alert(comparison(finding("ok", ratio=1.001)), "--issues") == (0, "", "")
    assert len(github.issues) == len(github.comments) == 1


def test_each_commit_has_its_issue(alert, github):
    assert alert(comparison(bisected(finding()), finding(benchmark=FA2)), "--issues")[0] == 0
    assert len(github.open) == 2
    assert alert(comparison(bisected(finding()), finding("ok", FA2)), "--issues")[0] == 0
    assert [issue["title"] for issue in github.open] == [f"7.2 % slower: {SDPA} on NVIDIA H200"]


def test_issues_of_others_are_left_alone(alert, github):
    """Even those that hold a copied marker; and the list has several pages."""
    alert(comparison(finding()), "--issues")
    copied = github.issues[1]["body"]
    for i in range(4):
        github.add(copied, login="mallory", labels=(LABEL,), title=str(i))
    github.add(copied, labels=(LABEL,), pull_request={})
    github.add(copied)  # without the label
    before = {number: dict(issue) for number, issue in github.issues.items() if number > 1}
    assert alert(comparison(finding("ok")), "--issues") == (0, "close issue 1: \n", "")
    assert {number: issue for number, issue in github.issues.items() if number > 1} == before


def test_an_issue_on_a_later_page_is_found(alert, github):
    for i in range(7):
        github.add("not ours", labels=(LABEL,), title=str(i))
    alert(comparison(finding()), "--issues")
    alert(comparison(finding()), "--issues")
    assert len(github.issues) == 8


def test_a_personal_token_has_a_name(alert, github):
    github.login = "nightly-account"
    github.add("text", login=BOT, labels=(LABEL,))
    alert(comparison(finding()), "--issues")
    alert(comparison(finding()), "--issues")
    assert [issue["user"]["login"] for issue in github.issues.values()] == [BOT, "nightly-account"]


def test_owners_are_assigned(alert, github, tmp_path):
    (tmp_path / "owners.toml").write_text('["softmax:*"]\nassignees = ["ada"]\nmention = ["@o/kernels"]\n')
    alert(comparison(finding()), "--issues")
    assert github.issues[1]["assignees"] == [{"login": "ada"}]
    assert "@o/kernels" in github.issues[1]["body"]


def test_an_owner_that_github_refuses_is_told(alert, github, tmp_path):
    (tmp_path / "owners.toml").write_text('["*"]\nassignees = ["gone"]\n["x"]\nmood = "good"\n')
    code, out, err = alert(comparison(finding()), "--issues")
    assert code == 0
    assert out.endswith("note: issue 1 is assigned to nobody: GitHub refused gone\n")
    assert err == ("warning: owners.toml: [\"x\"]: unknown 'mood'; it takes owner, assignees, mention; this pattern is "
                   "left aside\n")
    assert len(github.open) == 1


def test_a_label_that_github_drops_is_told(alert, github):
    github.labelling = False
    code, out, _ = alert(comparison(finding()), "--issues")
    assert code == 0
    assert f"note: issue 1 has no label {LABEL}: put it on, or the next night opens another one" in out


def test_an_accepted_change_opens_nothing(alert, github, tmp_path):
    (tmp_path / "accepted.toml").write_text(
        '[[accepted]]\nworkload = "softmax:*"\ncommit = "any"\nreason = "worth it"\nuntil = 2999-01-01\n'
        '[[accepted]]\nworkload = "alibi:*"\ncommit = "any"\nreason = "worth it"\nuntil = 2001-01-01\n')
    code, out, err = alert(comparison(finding(), finding(benchmark=FA2)), "--issues")
    assert (code, out) == (0, f"open issue, number 1: 7.2 % slower: {FA2} on NVIDIA H200\n")
    assert err == ("warning: accepted.toml: entry 2 (alibi:*) ended on 2001-01-01; remove it, or give it a later day\n")
    assert f"- Accepted: `{SDPA}`" in github.issues[1]["body"]


def test_a_pull_request_has_one_comment(alert, github):
    number = github.add("a pull request", login="ada", pull_request={})
    for _ in range(4):
        github.say(number, "looks good", login="ada")
    theirs = github.say(number, f"a copied marker {MARKER}", login="mallory")
    assert alert(comparison(finding()), f"--comment={number}") == (0, "", "")
    assert alert(comparison(finding("ok")), f"--comment={number}") == (0, "", "")
    ours = [one for one in github.comments.values() if one["user"]["login"] == BOT]
    assert len(ours) == 1
    assert ours[0]["body"].startswith("### Performance: nothing regressed\n")
    assert github.comments[theirs]["body"] == f"a copied marker {MARKER}"


def test_a_record_of_another_commit_is_refused(alert, github):
    code, _, err = alert(comparison(finding()), "--comment=1", f"--head={'9' * 40}")
    assert code == 2
    assert "night.json is of another commit than 9999" in err
    assert github.requests == []
    assert alert(comparison(finding()), f"--head={HEAD}")[0] == 0


def test_a_summary_and_annotations(alert, github, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    code, out, _ = alert(comparison(finding()), "--summary", "--annotations")
    assert code == 0
    assert out.startswith("::error title=softmax%3Asdpa")
    assert (tmp_path / "summary.md").read_text().startswith("### Performance: 1 benchmark regressed\n")
    assert github.requests == []


@pytest.mark.parametrize(("variables", "words", "reason"), [
    ({"GITHUB_TOKEN": ""}, ["--issues"], "--issues: the environment has no GITHUB_TOKEN; set it"),
    ({"GITHUB_TOKEN": "a\nb"}, ["--issues"], "no token, or none that GitHub could have made"),
    ({"GITHUB_REPOSITORY": ""}, ["--comment=3"], "--comment: the environment has no GITHUB_REPOSITORY"),
    ({"GITHUB_REPOSITORY": "x"}, ["--issues"], "no repository 'x'; give OWNER/NAME"),
    ({"GITHUB_API_URL": "http://example.org"}, ["--issues"], "the token would travel unencrypted"),
    ({"PERF_WEBHOOK_URL": ""}, ["--webhook"], "--webhook: the environment has no PERF_WEBHOOK_URL"),
    ({}, ["--comment=abc"], "'abc' is no whole number"), ({}, ["--mood"], "unrecognized arguments: --mood"),
])
def test_what_is_refused_is_one_line(alert, github, monkeypatch, variables, words, reason):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, out, err = alert(comparison(finding()), *words)
    assert (code, out) == (2, "")
    assert err.startswith("python -m perf alert: ")
    assert reason in err
    assert err.count("\n") == 1
    assert github.requests == []


def test_a_webhook_address_without_tls_is_refused(alert, monkeypatch):
    monkeypatch.setenv("PERF_WEBHOOK_URL", f"http://example.org/{SECRET}")
    code, _, err = alert(comparison(finding()), "--webhook")
    assert code == 1
    assert err == "not delivered: PERF_WEBHOOK_URL is no https address\n"


def test_a_corrupt_record_is_one_line(tmp_path, capsys):
    (tmp_path / "night.json").write_text("{")
    assert main(["alert", str(tmp_path / "night.json")]) == 2
    assert "night.json: not the record of a comparison" in capsys.readouterr().err


def test_of_a_folder_the_newest_night_is_told(alert, tmp_path, capsys):
    folder = tmp_path / "nights"
    for i, word in enumerate(("ok", "regressed", "improved")):
        replace(comparison(finding(word)), time=(1e9, 3e9, 2e9)[i]).save(folder / f"{i}.json")
    (folder / "broken.json").write_text("{")
    assert main(["alert", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "### Performance: 1 benchmark regressed" in out
    assert err.startswith("warning: ")
    assert "broken.json: not the record of a comparison" in err
    (tmp_path / "empty").mkdir()
    assert main(["alert", str(tmp_path / "empty")]) == 2


def test_with_nothing_asked_for_it_only_shows(alert, github):
    code, out, _ = alert(comparison(finding()))
    assert code == 0
    assert "### Performance: 1 benchmark regressed" in out
    assert f"open issue: 7.2 % slower: {SDPA}" in out
    assert github.requests == []


def test_neither_torch_nor_pygithub_is_needed_to_show():
    """The job that comments on a pull request installs PyGithub alone."""
    block = ("import sys; sys.modules |= dict.fromkeys(('torch', 'numpy', 'github', 'requests')); "
             "from perf.__main__ import main; sys.exit(main(['alert', '--help']))")
    done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "PERF_WEBHOOK_URL" in done.stdout


def test_a_body_that_is_too_long_keeps_its_marker(github):
    made = GitHub(TOKEN, REPOSITORY, github.url, between=0)
    number = github.add("a pull request", pull_request={})
    made.comment(number, MARKER, "long " * 20_000)
    [comment] = github.comments.values()
    assert len(comment["body"]) <= client.LONGEST
    assert comment["body"].endswith(f"{MARKER}\n")
    assert "The rest did not fit" in comment["body"]


def test_accept_adds_an_entry_that_silences(alert, github, tmp_path, capsys):
    file = tmp_path / "accepted.toml"
    words = ["accept", "softmax:sdpa-*", "--commit", "any", f"--file={file}"]
    assert main([*words, "--reason", 'worth "it"']) == 0
    assert capsys.readouterr().out.startswith(f"added to {file}: softmax:sdpa-*, until ")
    assert alert(comparison(finding()), "--issues") == (0, "", "")
    assert main([*words, "--reason", "REASON"]) == 2
    assert main([*words, "--reason", "x", "--until", "2001-01-01"]) == 2
    assert main([*words, "--reason", "x", "--until", "soon"]) == 2
    assert main(["accept", "x", "--commit", "main", "--reason", "x", f"--file={file}"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4
    assert "write why the change is accepted in place of REASON" in errors[0]
    assert file.read_text().count("[[accepted]]") == 1


def test_accept_leaves_a_broken_file_as_it_is(tmp_path, capsys):
    file = tmp_path / "accepted.toml"
    file.write_text("accepted = 1\n")
    assert main(["accept", "x", "--commit", "any", "--reason", "x", f"--file={file}"]) == 2
    assert "accepted.toml" in capsys.readouterr().err
    assert file.read_text() == "accepted = 1\n"
