"""The part of GitHub that alerts use: issues and comments of one repository, by PyGithub.

    github = GitHub(token, "owner/name")             # ValueError for what can't be one
    for number, marker in github.open_issues().items(): ...

Everything may be asked again: what is made is looked for first, so that an answer that was lost makes nothing twice. A
rate limit, an error of the server and a broken connection are waited for by PyGithub's own retries: nothing is made
twice, and no wait is over 5 minutes (https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api).
What waiting can't help raises `NotDelivered`, in one line that never holds the token.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from json import JSONDecodeError
from typing import Any, TypeVar
from urllib.parse import urlsplit

from github import Auth, Github, GithubException, GithubRetry, RateLimitExceededException
from github.GithubException import RateLimitExceededExceedsMaxWait
from github.Issue import Issue
from github.IssueComment import IssueComment
from requests import RequestException
from urllib3.exceptions import MaxRetryError

from perf.alerts.deliver import LONGEST_WAIT, LOOPBACK, NotDelivered, cause, unlogged
from perf.alerts.markdown import plain
from perf.alerts.sets import Marker
from perf.alerts.text import LABEL
from perf.verdict.words import many

T = TypeVar("T")
API = "https://api.github.com"
BOT = "github-actions[bot]"  # who a workflow's own token is: it may not ask for its name
REPOSITORY = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
LONGEST = 65536  # characters of a body
SECONDARY = 60  # seconds that GitHub asks for where a limit names no time
LIMITED = (403, 429)  # answers of a rate limit; 403 is one only if its message says so


class Patience(GithubRetry):
    """Asks again after a rate limit, an error of the server or a broken connection, `attempts` times in all. `pause`
    is doubled each time, in seconds.

    A POST is sent again only after a rate limit: after any other fault GitHub may have done it, and its answer was
    lost. Raises RateLimitExceededException where the limit holds on.
    """

    @classmethod
    def of(cls, attempts: int, pause: float) -> Patience:
        return cls(total=attempts - 1, backoff_factor=pause, status_forcelist=[429, *range(500, 600)],
                   allowed_methods={"GET", "PATCH", "POST"}, raise_on_status=False, secondary_rate_wait=SECONDARY,
                   max_rate_limit_wait=LONGEST_WAIT)

    def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:
        again = super().is_retry(method, status_code, has_retry_after)
        return again and (method != "POST" or status_code in LIMITED)

    def increment(self, method: Any = None, url: Any = None, response: Any = None, error: Any = None,
                  _pool: Any = None, _stacktrace: Any = None) -> Any:
        if error is not None and method == "POST":
            raise MaxRetryError(_pool, url, error)
        try:
            return super().increment(method, url, response, error, _pool, _stacktrace)
        except MaxRetryError:
            if response is None or response.status != 403:
                raise
            raise RateLimitExceededException(403, {"message": "rate limit"}, dict(response.headers)) from None

    def get_backoff_time(self) -> float:
        limited = self.history and self.history[-1].status == 429
        return max(SECONDARY if limited else 0.0, super().get_backoff_time())

    def get_retry_after(self, response: Any) -> float | None:
        seconds = super().get_retry_after(response)
        if seconds is not None and seconds > LONGEST_WAIT:
            raise RateLimitExceededExceedsMaxWait(response.status, None, dict(response.headers), wait=seconds)
        return seconds


class GitHub:
    """Is one repository's issues. `timeout` is that of one request, in whole seconds; `attempts` and `pause` are
    `Patience`'s.

    Raises ValueError, in one line, for an impossible token, repository or address.
    """

    def __init__(self, token: str, repository: str, api: str, *, timeout: int = 20, attempts: int = 4,
                 pause: float = 2.0, between: float = 0.25) -> None:
        address = urlsplit(api)
        if not REPOSITORY.fullmatch(repository):
            raise ValueError(f"no repository {repository!r}; give OWNER/NAME")
        if address.scheme != "https" and address.hostname not in LOOPBACK:
            raise ValueError(f"{api}: the token would travel unencrypted; give an https address")
        if not token or not token.isascii() or not token.isprintable():
            raise ValueError("no token, or none that GitHub could have made; set GITHUB_TOKEN")
        self._token, self.attempts = token, attempts
        self._github = Github(auth=Auth.Token(token), base_url=api.rstrip("/"), timeout=timeout, lazy=True,
                              retry=Patience.of(attempts, pause), per_page=100, seconds_between_requests=between,
                              seconds_between_writes=4 * between)
        self._repository = self._github.get_repo(repository)
        self._login: str | None = None
        self.notes: list[str] = []  # a line for each thing that GitHub did in another way

    def open_issues(self) -> dict[int, Marker]:
        """Returns the open issues that this account made for sets, by number."""
        return self._ask("list issues", lambda: {
            issue.number: marker for issue in self._mine() if (marker := Marker.read(issue.body or ""))})

    def create(self, title: str, body: str, assignees: Sequence[str] = ()) -> int:
        """Returns the new issue's number. If GitHub refuses the assignees, it is made without them."""
        marker = Marker.read(body)
        fields: dict[str, Any] = {"title": title, "body": _fitting(body), "labels": [LABEL]}

        def there() -> int | None:
            return next((issue.number for issue in self._mine() if Marker.read(issue.body or "") == marker), None)

        def make() -> int:
            try:
                return self._number(self._repository.create_issue(**fields, assignees=list(assignees)))
            except GithubException as error:
                if error.status != 422 or not assignees:
                    raise
                number = self._number(self._repository.create_issue(**fields))
                self.notes.append(f"issue {number} is assigned to nobody: GitHub refused {', '.join(assignees)}")
                return number

        return self._ask("open an issue", lambda: self._once(there, make))

    def _number(self, issue: Issue) -> int:
        """Returns the number of a new issue, and notes it if it lacks the label."""
        if LABEL not in [label.name for label in issue.labels]:  # GitHub drops what the account may not set, and is mum
            self.notes.append(f"issue {issue.number} has no label {LABEL}: put it on, or the next night opens another "
                              "one; the token needs the right to")
        return issue.number

    def update(self, number: int, title: str, body: str) -> None:
        self._ask(f"update issue {number}",
                  lambda: self._repository.get_issue(number).edit(title=title, body=_fitting(body)))

    def close(self, number: int, comment: str) -> None:
        """Closes an issue, after a comment on it."""
        def end() -> None:
            issue = self._repository.get_issue(number)
            self._comment(issue, f"<!-- attention-perf closed {number} -->", comment)
            issue.edit(state="closed", state_reason="completed")

        self._ask(f"close issue {number}", end)

    def comment(self, number: int, marker: str, body: str) -> None:
        """Writes the one comment of this account with that marker on an issue or pull request, or updates it."""
        self._ask(f"comment on {number}",
                  lambda: self._comment(self._repository.get_issue(number), marker, body))

    def _comment(self, issue: Issue, marker: str, body: str) -> None:
        text = _fitting(body if marker in body else f"{body}\n{marker}\n")

        def there() -> IssueComment | None:
            return next((one for one in issue.get_comments()
                         if marker in (one.body or "") and one.user.login == self.login()), None)

        comment = self._once(there, lambda: issue.create_comment(text))
        if comment.body.strip() != text.strip():
            comment.edit(text)

    def _once(self, there: Callable[[], T | None], make: Callable[[], T]) -> T:
        """Makes what is not there yet; looks again before it tries again, for the answer may be all that was lost."""
        for left in reversed(range(self.attempts)):
            if (before := there()) is not None:
                return before
            try:
                return make()
            except (GithubException, RequestException) as error:
                if not left or (isinstance(error, GithubException) and error.status < 500):
                    raise
        raise AssertionError("no attempt")

    def _mine(self) -> list[Issue]:
        issues = self._repository.get_issues(state="open", labels=[LABEL])
        return [issue for issue in issues if issue.user.login == self.login() and issue.pull_request is None]

    def login(self) -> str:
        """Returns whose token it is. Others' issues and comments are left alone, whatever marker they hold."""
        if self._login is None:
            try:
                self._login = self._github.get_user().login
            except GithubException as error:
                if error.status != 403 or isinstance(error, RateLimitExceededException):
                    raise
                self._login = BOT
        return self._login

    def _ask(self, what: str, ask: Callable[[], T]) -> T:
        try:
            with unlogged():
                return ask()
        except (GithubException, RequestException, JSONDecodeError) as error:
            raise NotDelivered(f"can't {what}: {self._reason(error)}") from None

    def _reason(self, error: Exception) -> str:
        if wait := getattr(error, "wait", None):
            return f"GitHub's rate limit holds for {wait:.0f} s more; try again after that"
        if not isinstance(error, GithubException):
            return f"GitHub can't be reached ({cause(error)}), {self.attempts} times"
        data = error.data
        message = str(data.get("message") if isinstance(data, dict) else data or "") or type(error).__name__
        answer = f"GitHub answered {error.status} ({plain(message.replace(self._token, '***'))})"
        if error.status == 401:
            return f"{answer}: it does not know the token; set another GITHUB_TOKEN"
        limited = isinstance(error, RateLimitExceededException) or error.status == 429
        if error.status in (403, 404) and not limited:
            return f"{answer}; the token needs write access to this repository's issues"
        return f"{answer}, {many(self.attempts if limited or error.status >= 500 else 1, 'time')}"


def _fitting(body: str) -> str:
    """Cuts a body to what GitHub takes. Its last line, the marker, stays."""
    if len(body) <= LONGEST:
        return body
    head, _, marker = body.rstrip().rpartition("\n")
    note = "\n\nThe rest did not fit; it is in the record.\n\n"
    return head[:LONGEST - len(note) - len(marker) - 1] + note + marker + "\n"
