"""`python -m perf alert` against a GitHub and a webhook on bad days: nothing is lost, sent twice, or told a secret."""
from __future__ import annotations

import pytest

from perf.alerts.client import SECONDARY, GitHub
from perf.alerts.deliver import NotDelivered
from perf.alerts.text import LABEL
from perf.tests import alerting
from perf.tests.comparisons import FA2, SDPA, bisected, comparison, finding
from perf.tests.github_server import REPOSITORY, TOKEN

SECRET = "T0/B0/hook-that-nobody-may-see"
alert, github = alerting.alert, alerting.github


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
    alerting.preset(monkeypatch, attempts=2)
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
    assert sorted(alerting.messages(tmp_path)) == ["1-open-issue.md", "2-open-issue.md", "comment.md"]
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
    assert "webhook.json" in alerting.messages(tmp_path)


def test_waiting_grows_and_has_an_end(github, monkeypatch):
    waits = alerting.slept(monkeypatch)
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
    alerting.slept(monkeypatch)
    made = GitHub(TOKEN, REPOSITORY, github.url, between=0)
    github.add("someone's", labels=(LABEL,))
    github.fail("GET /user", 403, "You have exceeded a secondary rate limit", times=4)
    with pytest.raises(NotDelivered, match=r"can't list issues: GitHub answered 403 \(rate limit\), 4 times"):
        made.open_issues()
