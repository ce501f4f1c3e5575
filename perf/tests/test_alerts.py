"""`python -m perf alert` against a GitHub on loopback, as it answers on good days and on bad ones."""
from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from urllib3.util import retry

from perf.__main__ import main
from perf.alerts import client
from perf.alerts.client import SECONDARY, GitHub
from perf.alerts.comment import MARKER
from perf.alerts.issue import LABEL
from perf.alerts.network import NotDelivered
from perf.compare.record import Comparison
from perf.tests.comparisons import FA2, HEAD, SDPA, bisected, comparison, finding
from perf.tests.github_server import BOT, REPOSITORY, TOKEN, serve

ROOT = Path(__file__).parents[2]
SECRET = "T0/B0/hook-that-nobody-may-see"


@pytest.fixture
def github(monkeypatch):
    with serve() as server:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("GITHUB_API_URL", server.url)
        monkeypatch.setenv("GITHUB_REPOSITORY", REPOSITORY)
        monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
        yield server


@pytest.fixture
def alert(tmp_path, capsys, monkeypatch, github):
    """Tells a night; the exit code, what was printed, and what went to stderr."""
    preset(monkeypatch, between=0.0)
    slept(monkeypatch)
    owners, accepted = tmp_path / "owners.toml", tmp_path / "accepted.toml"

    def run(made: Comparison, *words: str):
        made.save(tmp_path / "night.json")
        code = main(["alert", str(tmp_path / "night.json"), *words, f"--folder={tmp_path / 'said'}", "--pause=0.01",
                     "--timeout=1", f"--owners={owners}", f"--accepted={accepted}"])
        out, err = capsys.readouterr()
        assert TOKEN not in out + err
        assert "Traceback" not in out + err
        return code, out, err

    return run


def slept(monkeypatch) -> list[float]:
    """The waits, none of which takes time."""
    waits: list[float] = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=waits.append, time=time.time))
    return waits


def preset(monkeypatch, **values):
    """Other defaults of the client."""
    monkeypatch.setattr(GitHub.__init__, "__kwdefaults__", {**(GitHub.__init__.__kwdefaults__ or {}), **values})


def said(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in (folder / "said").iterdir()}


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
    assert "night.json: of another commit than 9999" in err
    assert github.requests == []
    assert alert(comparison(finding()), f"--head={HEAD}")[0] == 0


@pytest.mark.parametrize(("status", "message", "headers"), [
    (500, "Server Error", {}), (502, "Bad Gateway", {}), (503, "Unavailable", {"Retry_After": "0"}),
    (403, "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.",
     {"Retry_After": "0"}),
    (429, "Too many requests", {"Retry_After": "0"}),
    (403, "API rate limit exceeded for installation", {"X_RateLimit_Remaining": "0", "X_RateLimit_Reset": "1"}),
])
@pytest.mark.parametrize("request_", ["GET /issues", "POST /issues", "GET /user"])
def test_a_passing_fault_is_waited_for(alert, github, status, message, headers, request_):
    github.add("of another account", login="ada", labels=(LABEL,))
    github.fail(request_, status, message, times=2, **headers)
    assert alert(comparison(finding()), "--issues")[0] == 0
    assert len(github.open) == 2
    assert github.faults == []


def test_an_answer_that_was_lost_makes_nothing_twice(alert, github):
    """The server did it and then failed, or was too slow to say so."""
    github.fail("POST /issues", 502, done=True)
    github.fail("POST /issues", 504, done=True, seconds=1.1)
    assert alert(comparison(bisected(finding()), finding(benchmark=FA2)), "--issues")[0] == 0
    assert len(github.issues) == 2
    github.fail("POST /issues/1/comments", 502, done=True)
    github.fail("PATCH /issues/1", 502)
    assert alert(comparison(finding("ok"), finding(benchmark=FA2)), "--issues")[0] == 0
    assert [len(github.open), len(github.comments)] == [1, 1]


@pytest.mark.parametrize(("fault", "reason"), [
    ({"status": 502, "times": 9, "message": "Bad Gateway"}, "GitHub answered 502 (Bad Gateway), 4 times"),
    ({"status": 403, "message": f"Resource not accessible by {TOKEN}"},
     "GitHub answered 403 (Resource not accessible by ***); the token needs write access"),
    ({"status": 403, "message": "API rate limit exceeded", "X_RateLimit_Remaining": "0",
      "X_RateLimit_Reset": "99999999999"}, "GitHub's rate limit holds for "),
    ({"status": 429, "message": "Slow down", "Retry_After": "3600"}, "GitHub's rate limit holds for 3600 s more"),
    ({"status": 422, "message": "Validation Failed"}, "GitHub answered 422 (Validation Failed), 1 time"),
    ({"status": 410, "message": "Issues are disabled for this repo"}, "410 (Issues are disabled for this repo)"),
], ids=lambda value: value[:30] if isinstance(value, str) else "")
def test_what_can_t_be_delivered_is_named_and_kept(alert, github, tmp_path, fault, reason):
    github.fail("POST /issues", **fault)
    code, out, err = alert(comparison(finding()), "--issues")
    assert (code, out) == (1, "")
    assert err.startswith("not delivered: can't open an issue: ")
    assert reason in err
    file = tmp_path / "said" / "1-open-issue.md"
    assert err.endswith(f"; the message lies in {file}\n")
    assert "**1 regressed** on `NVIDIA H200`" in file.read_text(encoding="utf-8")


def test_a_github_that_does_not_answer_is_waited_for_once_more(alert, github, monkeypatch):
    preset(monkeypatch, attempts=2)
    github.fail("GET /issues", seconds=1.2, times=9)
    code, _, err = alert(comparison(finding()), "--issues")
    assert code == 1
    assert err.startswith("not delivered: can't list issues: GitHub can't be reached (ReadTimeoutError), 2 times;")


def test_a_wrong_token_is_one_line_and_the_messages_are_kept(alert, github, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_TOKEN", "ghs_wrong")
    code, out, err = alert(comparison(bisected(finding()), finding(benchmark=FA2)), "--issues", "--comment=1")
    assert (code, out) == (1, "")
    assert err.count("(Bad credentials): it does not know the token; set another GITHUB_TOKEN; the message") == 2
    assert "ghs_wrong" not in err
    assert sorted(said(tmp_path)) == ["1-open-issue.md", "2-open-issue.md", "comment.md"]
    assert github.issues == {}


def test_one_that_fails_does_not_keep_the_others_back(alert, github, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "nowhere" / "summary.md"))
    monkeypatch.setenv("PERF_WEBHOOK_URL", f"{github.url}/hook?{SECRET}")
    github.fail("POST /issues", 410, "gone")
    made = comparison(bisected(finding()), finding(benchmark=FA2))
    code, out, err = alert(made, "--issues", "--summary", "--webhook", f"--csv={tmp_path / 'a' / 'night.csv'}",
                           f"--pytorch={tmp_path / 'night.pytorch.json'}")
    assert code == 1
    assert out.startswith("open issue, number 1: ")
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["not delivered"] * 2
    assert (tmp_path / "a" / "night.csv").read_text().count("\n") == 3
    assert (tmp_path / "night.pytorch.json").exists()
    assert len(github.posts) == 1


def test_a_summary_and_annotations(alert, github, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    code, out, _ = alert(comparison(finding()), "--summary", "--annotations")
    assert code == 0
    assert out.startswith("::error title=softmax%3Asdpa")
    assert (tmp_path / "summary.md").read_text().startswith("### Performance: 1 benchmark regressed\n")
    assert github.requests == []


@pytest.mark.parametrize(("status", "times", "code", "reason"), [
    (503, 2, 0, ""), (503, 9, 1, "it answered 503, 3 times"), (404, 1, 1, "it answered 404, 1 time"),
    (302, 1, 1, "it answered 302, 1 time")])
def test_the_webhook(alert, github, monkeypatch, status, times, code, reason):
    monkeypatch.setenv("PERF_WEBHOOK_URL", f"{github.url}/hook?{SECRET}")
    github.fail("POST /hook", status, times=times)
    found, _, err = alert(comparison(finding()), "--webhook")
    assert found == code
    assert reason in err
    assert SECRET not in err
    assert github.posts[-1]["alarms"][0]["benchmark"] == SDPA


def test_a_webhook_that_can_t_be_reached_is_no_secret_told(alert, monkeypatch, tmp_path):
    monkeypatch.setenv("PERF_WEBHOOK_URL", f"http://127.0.0.1:9/{SECRET}")
    code, _, err = alert(comparison(finding()), "--webhook")
    assert code == 1
    assert "it can't be reached (NewConnectionError), 3 times; the message lies in " in err
    assert SECRET not in err
    assert "webhook.json" in said(tmp_path)


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


def test_waiting_grows_and_has_an_end(github, monkeypatch):
    waits = slept(monkeypatch)
    made = GitHub(TOKEN, REPOSITORY, github.url, pause=2.0, between=0)
    github.fail("GET /issues", 500, times=4)
    with pytest.raises(NotDelivered, match="can't list issues: GitHub answered 500"):
        made.open_issues()
    assert waits == [4.0, 8.0]  # the second attempt is made at once
    github.fail("GET /issues", 403, "You have exceeded a secondary rate limit", times=1)
    github.fail("GET /issues", 429, "Slow down", times=1, Retry_After="7")
    github.fail("GET /issues", 429, "Slow down", times=1)
    assert made.open_issues() == {}
    assert waits[2:] == [SECONDARY, 7.0, SECONDARY]


def test_a_rate_limit_that_holds_on_makes_no_other_account_of_ours(github, monkeypatch):
    """A token that may not ask for its name is a workflow's; one that is refused for now is not."""
    slept(monkeypatch)
    made = GitHub(TOKEN, REPOSITORY, github.url, between=0)
    github.add("someone's", labels=(LABEL,))
    github.fail("GET /user", 403, "You have exceeded a secondary rate limit", times=4)
    with pytest.raises(NotDelivered, match=r"can't list issues: GitHub answered 403 \(rate limit\), 4 times"):
        made.open_issues()


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
