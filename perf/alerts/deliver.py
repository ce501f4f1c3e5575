"""Delivers the messages of a comparison, to GitHub (client.py) and to a webhook: each is written to a folder first, so
that none is lost. A webhook's address is a secret: it is never printed.
"""
from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from perf.alerts import text
from perf.alerts.sets import Action, Marker, Why, plan
from perf.compare.record import Comparison
from perf.policy.owners import Owners
from perf.verdict.words import many

if TYPE_CHECKING:
    from perf.alerts.client import GitHub

T = TypeVar("T")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LONGEST_WAIT = 300  # seconds that an answer may ask to wait
AGAIN = (429, *range(500, 600))  # answers of a webhook after which a message is sent again
ATTEMPTS = 3


class NotDelivered(Exception):
    """Raised when something was not delivered, with the reason in one line."""


@contextmanager
def unlogged() -> Iterator[None]:
    """Keeps urllib3 from logging an address that it tries again: a webhook's is a secret."""
    log = logging.getLogger("urllib3.connectionpool")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def cause(error: Exception) -> str:
    """Names what broke a connection, without the address: "ReadTimeoutError"."""
    inner = error.args[0] if error.args else None
    return type(getattr(inner, "reason", None) or error).__name__


@dataclass(frozen=True)
class Message:
    """Is an action on an issue, with its text."""

    action: Action
    title: str
    body: str

    @property
    def what(self) -> str:
        """Names the action: "open issue", "update issue 7", "close issue 7"."""
        number = "" if self.action.number is None else f" {self.action.number}"
        return f"{'open' if not number else 'update' if self.action.about else 'close'} issue{number}"


@dataclass(frozen=True)
class Folder:
    """Is the folder that messages lie in."""

    path: Path

    def save(self, name: str, body: str) -> Path:
        """Writes a message to a file, and returns it. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / (re.sub(r"[^A-Za-z0-9.-]+", "-", name) + (".json" if body.startswith("{") else ".md"))
        file.write_text(body, encoding="utf-8")
        return file

    def deliver(self, name: str, body: str, send: Callable[[str], T]) -> T:
        """Saves a message, sends it, and returns what `send` does. Raises NotDelivered with the file's name, and
        OSError."""
        file = self.save(name, body)
        try:
            return send(body)
        except NotDelivered as error:
            raise NotDelivered(f"{error}; the message lies in {file}") from None


def messages(comparison: Comparison, issues: Mapping[int, Marker], owners: Owners, accepted: Why) -> Iterator[Message]:
    """Writes a message for each action of the plan; `issues` are open, by number."""
    for action in plan(comparison, issues, accepted):
        if action.about:
            yield Message(action, text.title(comparison, action.about),
                          text.body(comparison, action.about, owners, accepted))
        else:
            yield Message(action, "", text.closing(comparison, action))


def deliver(github: GitHub, comparison: Comparison, owners: Owners, accepted: Why, folder: Folder) -> None:
    """Opens, updates and closes issues, and prints a line for each. Raises NotDelivered, once, for all that failed."""
    errors = []
    issues = _open_issues(github, comparison, owners, accepted, folder)
    for i, message in enumerate(messages(comparison, issues, owners, accepted), 1):
        try:
            number = folder.deliver(f"{i}-{message.what}", message.body,
                                    functools.partial(_send, github, message, owners))
            print(f"{message.what}{f', number {number}' if message.action.number is None else ''}: {message.title}")
        except NotDelivered as error:
            errors.append(str(error))
    for note in github.notes:
        print(f"note: {note}")
    if errors:
        raise NotDelivered("; ".join(errors))


def _open_issues(github: GitHub, comparison: Comparison, owners: Owners, accepted: Why,
                 folder: Folder) -> dict[int, Marker]:
    """Asks for the open issues. If they can't be had, the messages for no open issue are saved at least."""
    try:
        return github.open_issues()
    except NotDelivered as error:
        files = [folder.save(f"{i}-{message.what}", message.body)
                 for i, message in enumerate(messages(comparison, {}, owners, accepted), 1)]
        where = f"; the messages lie in {folder.path}" if files else ""
        raise NotDelivered(f"{error}{where}") from None


def _send(github: GitHub, message: Message, owners: Owners, body: str) -> int:
    about, number = message.action.about, message.action.number
    if number is None:
        assert about is not None
        return github.create(message.title, body, text.assignees(about, owners))
    if about is None:
        github.close(number, body)
    else:
        github.update(number, message.title, body)
    return number


def post(url: str, message: dict[str, Any], *, timeout: float, pause: float) -> None:
    """Posts `message`, up to `ATTEMPTS` times; `timeout` and `pause`, which is doubled each time, are seconds.

    Raises ValueError for what is no address, and NotDelivered if the message is not taken; neither shows the address.
    """
    address = urlsplit(url)
    if address.scheme != "https" and not (address.scheme == "http" and address.hostname in LOOPBACK):
        raise ValueError("PERF_WEBHOOK_URL is no https address")
    try:
        import requests
        from urllib3 import Retry
    except ImportError:
        raise ValueError("requests is not installed; pip install 'attention-perf[alerts]'") from None
    retries = Retry(ATTEMPTS - 1, backoff_factor=pause, status_forcelist=AGAIN, allowed_methods={"POST"},
                    raise_on_status=False, retry_after_max=LONGEST_WAIT)
    with requests.Session() as session, unlogged():
        session.mount(f"{address.scheme}://", requests.adapters.HTTPAdapter(max_retries=retries))
        try:
            status = session.post(url, json=message, timeout=timeout, allow_redirects=False).status_code
        except requests.RequestException as error:
            why, times = f"it can't be reached ({cause(error)})", ATTEMPTS
        else:
            if status < 300:
                return
            why, times = f"it answered {status}", ATTEMPTS if status in AGAIN else 1
    raise NotDelivered(f"the webhook did not take it: {why}, {many(times, 'time')}")
