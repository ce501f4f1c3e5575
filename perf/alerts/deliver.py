"""A night's messages: written to a folder first, then sent, so that what is not delivered is not lost either."""
from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from perf.alerts import issue
from perf.alerts.client import GitHub, NotDelivered
from perf.alerts.sets import Action, Marker, Why, plan
from perf.compare.record import Night
from perf.policy.owners import Owners

T = TypeVar("T")


@dataclass(frozen=True)
class Message:
    """What is to become of an issue: the action, and its text."""

    action: Action
    title: str
    body: str

    @property
    def what(self) -> str:
        """"open issue", "update issue 7", "close issue 7"."""
        number = "" if self.action.number is None else f" {self.action.number}"
        return f"{'open' if not number else 'update' if self.action.about else 'close'} issue{number}"


@dataclass(frozen=True)
class Folder:
    """Where messages lie."""

    path: Path

    def keep(self, name: str, body: str) -> Path:
        """The file with the message. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / (re.sub(r"[^A-Za-z0-9.-]+", "-", name) + (".json" if body.startswith("{") else ".md"))
        file.write_text(body, encoding="utf-8")
        return file

    def told(self, name: str, body: str, send: Callable[[str], T]) -> T:
        """What `send` gives, after the message is kept. Raises NotDelivered with the file's name, and OSError."""
        file = self.keep(name, body)
        try:
            return send(body)
        except NotDelivered as error:
            raise NotDelivered(f"{error}; the message lies in {file}") from None


def planned(night: Night, opened: Mapping[int, Marker], owners: Owners, accepted: Why) -> Iterator[Message]:
    """What `plan` says, in words."""
    for action in plan(night, opened, accepted):
        if action.about:
            yield Message(action, issue.title(night, action.about), issue.body(night, action.about, owners, accepted))
        else:
            yield Message(action, "", issue.closing(night, action))


def deliver(github: GitHub, night: Night, owners: Owners, accepted: Why, folder: Folder) -> None:
    """Opens, updates and closes issues, and prints a line for each. Raises NotDelivered, once, for all that failed."""
    failed = []
    for i, message in enumerate(planned(night, _opened(github, night, owners, accepted, folder), owners, accepted), 1):
        try:
            number = folder.told(f"{i}-{message.what}", message.body, functools.partial(_sent, github, message, owners))
            print(f"{message.what}{f', number {number}' if message.action.number is None else ''}: {message.title}")
        except NotDelivered as error:
            failed.append(str(error))
    for note in github.notes:
        print(f"note: {note}")
    if failed:
        raise NotDelivered("; ".join(failed))


def _opened(github: GitHub, night: Night, owners: Owners, accepted: Why, folder: Folder) -> dict[int, Marker]:
    """The open issues. If they can't be had, what would be said if there were none is kept at least."""
    try:
        return github.opened()
    except NotDelivered as error:
        kept = [folder.keep(f"{i}-{message.what}", message.body)
                for i, message in enumerate(planned(night, {}, owners, accepted), 1)]
        where = f"; the messages lie in {folder.path}" if kept else ""
        raise NotDelivered(f"{error}{where}") from None


def _sent(github: GitHub, message: Message, owners: Owners, body: str) -> int:
    about, number = message.action.about, message.action.number
    if number is None:
        assert about is not None
        return github.create(message.title, body, issue.assignees(about, owners))
    if about is None:
        github.close(number, body)
    else:
        github.update(number, message.title, body)
    return number
