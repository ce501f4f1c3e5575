"""GitHub, as far as alerts use it: issues and comments of one repository, by PyGithub.

    github = GitHub(token, "owner/name")             # ValueError for what can't be one
    for number, marker in github.opened().items(): ...

Everything may be asked again: what is made is looked for first, so that an answer that was lost makes nothing twice.
A rate limit, an error of the server and a timeout are waited for; what waiting can't help raises `NotDelivered`, in
one line that never holds the token.
"""
from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from perf.alerts.issue import LABEL
from perf.alerts.markdown import plain
from perf.alerts.sets import Marker

if TYPE_CHECKING:
    from github.Issue import Issue

T = TypeVar("T")
API = "https://api.github.com"
BOT = "github-actions[bot]"  # who a workflow's own token is: it may not ask for its name
REPOSITORY = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
LONGEST = 65536  # characters of a body
PATIENCE = 300.0  # seconds that one wait may take
SECONDARY = 60.0  # GitHub's word on how long to wait where a limit names no time
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class NotDelivered(Exception):
    """Why GitHub did not take something, in one line."""


class GitHub:
    """`timeout` (whole seconds) is that of one request, `pause` the seconds before the second of `attempts`, doubled
    each time. Raises ValueError, in one line, for an impossible token, repository or address."""

    def __init__(self, token: str, repository: str, api: str = API, *, timeout: int = 20, attempts: int = 4,
                 pause: float = 2.0, between: float = 0.25, sleep: Callable[[float], None] = time.sleep) -> None:
        address = urlsplit(api)
        if not REPOSITORY.fullmatch(repository):
            raise ValueError(f"no repository {repository!r}; give OWNER/NAME")
        if address.scheme != "https" and address.hostname not in LOOPBACK:
            raise ValueError(f"{api}: the token would travel unencrypted; give an https address")
        if not token or not token.isascii() or not token.isprintable():
            raise ValueError("no token, or none that GitHub could have made; set GITHUB_TOKEN")
        try:
            from github import Auth, Github
        except ImportError:
            raise ValueError("PyGithub is not installed; pip install 'attention-perf[alerts]'") from None
        self._token, self.attempts, self.pause, self.sleep = token, attempts, pause, sleep
        self._github = Github(auth=Auth.Token(token), base_url=api.rstrip("/"), timeout=timeout, retry=None,
                              lazy=True, per_page=100, seconds_between_requests=between,
                              seconds_between_writes=4 * between)
        self._repository = self._github.get_repo(repository)
        self._login: str | None = None
        self.notes: list[str] = []  # what was done another way than asked, a line each

    def opened(self) -> dict[int, Marker]:
        """The open issues that this account made for sets, by number."""
        return self._patiently("list issues", lambda: {
            issue.number: marker for issue in self._mine() if (marker := Marker.read(issue.body or ""))})

    def create(self, title: str, body: str, assignees: Sequence[str] = ()) -> int:
        """The new issue's number; if GitHub refuses the assignees, it is made without them."""
        marker = Marker.read(body)

        def make() -> int:
            made = (issue for issue in self._mine() if Marker.read(issue.body or "") == marker)
            if known := next(made, None):
                return known.number
            from github import GithubException

            fields: dict[str, Any] = {"title": title, "body": _fitting(body), "labels": [LABEL]}
            try:
                return self._made(self._repository.create_issue(**fields, assignees=list(assignees)))
            except GithubException as error:
                if error.status != 422 or not assignees:
                    raise
                number = self._made(self._repository.create_issue(**fields))
                self.notes.append(f"issue {number} is assigned to nobody: GitHub refused {', '.join(assignees)}")
                return number

        return self._patiently("open an issue", make)

    def _made(self, issue: Issue) -> int:
        if LABEL not in [label.name for label in issue.labels]:  # GitHub drops what the account may not set, and is mum
            self.notes.append(f"issue {issue.number} has no label {LABEL}: put it on, or the next night opens another "
                              "one; the token needs the right to")
        return issue.number

    def update(self, number: int, title: str, body: str) -> None:
        self._patiently(f"update issue {number}",
                        lambda: self._repository.get_issue(number).edit(title=title, body=_fitting(body)))

    def close(self, number: int, comment: str) -> None:
        """With a comment, which is there before the issue is closed."""
        def end() -> None:
            issue = self._repository.get_issue(number)
            self._comment(issue, f"<!-- attention-perf closed {number} -->", comment)
            issue.edit(state="closed", state_reason="completed")

        self._patiently(f"close issue {number}", end)

    def comment(self, number: int, marker: str, body: str) -> None:
        """The one comment of this account with that marker on an issue or pull request: new, or updated in place."""
        self._patiently(f"comment on {number}",
                        lambda: self._comment(self._repository.get_issue(number), marker, body))

    def _comment(self, issue: Issue, marker: str, body: str) -> None:
        text = _fitting(body if marker in body else f"{body}\n{marker}\n")
        mine = (one for one in issue.get_comments() if marker in (one.body or "") and one.user.login == self.login())
        if known := next(mine, None):
            if known.body.strip() != text.strip():
                known.edit(text)
        else:
            issue.create_comment(text)

    def _mine(self) -> list[Issue]:
        issues = self._repository.get_issues(state="open", labels=[LABEL])
        return [issue for issue in issues if issue.user.login == self.login() and issue.pull_request is None]

    def login(self) -> str:
        """Whose token it is. Others' issues and comments are left alone, whatever marker they hold."""
        if self._login is None:
            from github import GithubException

            try:
                self._login = self._github.get_user().login
            except GithubException as error:
                if error.status != 403 or _wait(error) is not None:
                    raise
                self._login = BOT
        return self._login

    def _patiently(self, what: str, ask: Callable[[], T]) -> T:
        from github import GithubException
        from requests import RequestException

        for attempt in range(1, self.attempts + 1):
            try:
                return ask()
            except (GithubException, RequestException, JSONDecodeError) as error:
                wait = _wait(error) if isinstance(error, GithubException) else 0.0
                wait = None if wait is None else max(wait, self.pause * 2 ** (attempt - 1))
                if wait is None or wait > PATIENCE or attempt == self.attempts:
                    raise NotDelivered(f"can't {what}: {self._reason(error, wait, attempt)}") from None
                self.sleep(wait)
        raise AssertionError("no attempt")

    def _reason(self, error: Exception, wait: float | None, attempt: int) -> str:
        status = getattr(error, "status", None)
        said = getattr(error, "data", None)
        message = str(said.get("message") if isinstance(said, dict) else said or "") or type(error).__name__
        message = plain(message.replace(self._token, "***"))
        if status == 401:
            return f"GitHub does not know the token ({message}); set another GITHUB_TOKEN"
        if status in (403, 404) and wait is None:
            return f"GitHub answered {status} ({message}); the token needs write access to this repository's issues"
        if wait is not None and wait > PATIENCE:
            return f"GitHub's rate limit holds for {wait:.0f} s more; try again after that"
        where = f"GitHub answered {status} ({message})" if status else f"GitHub can't be reached ({message})"
        return f"{where}, {attempt} {'time' if attempt == 1 else 'times'}"


def _wait(error: Any) -> float | None:
    """Seconds after which it is worth asking again; None where it is not.

    https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
    """
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    said = error.data.get("message", "") if isinstance(error.data, dict) else ""
    if error.status in (403, 429):
        if (after := headers.get("retry-after", "")).isdigit():
            return float(after)
        if headers.get("x-ratelimit-remaining") == "0" and (reset := headers.get("x-ratelimit-reset", "")).isdigit():
            return max(0.0, float(reset) - time.time()) + 1
        return SECONDARY if error.status == 429 or "rate limit" in said.lower() else None
    return 0.0 if error.status >= 500 else None


def _fitting(body: str) -> str:
    """What GitHub takes; the end of a body holds its marker and stays."""
    if len(body) <= LONGEST:
        return body
    head, _, marker = body.rstrip().rpartition("\n")
    note = "\n\nThe rest did not fit; it is in the record.\n\n"
    return head[:LONGEST - len(note) - len(marker) - 1] + note + marker + "\n"
