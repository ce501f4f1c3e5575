"""A webhook: one POST of JSON whose "text" chat services show (Slack, Mattermost, Discord's /slack address).

The address is a secret: it is never printed.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from perf.alerts.client import LOOPBACK, NotDelivered
from perf.alerts.comment import verdict
from perf.alerts.markdown import plain
from perf.alerts.sets import Why, alarms
from perf.alerts.table import percent
from perf.compare.record import Finding, Night

NAMED = 10


def payload(night: Night, accepted: Why) -> dict[str, Any]:
    """The worst alarms in "text", and all of them for a program."""
    found = alarms(night, accepted)
    lines = [f"Performance, {night.date}, {night.hardware}: {verdict(night, accepted)}", *map(_line, found[:NAMED])]
    if len(found) > NAMED:
        lines.append(f"and {len(found) - NAMED} more")
    return {"text": "\n".join(map(_escaped, lines)), "machine": night.machine, "base": night.base, "head": night.head,
            "alarms": [{"benchmark": f.benchmark, "figure": f.figure, "word": f.word, "ratio": f.ratio,
                        "since": f.since} for f in found]}


def send(url: str, message: dict[str, Any], *, timeout: float = 20, attempts: int = 3, pause: float = 2.0,
         sleep: Callable[[float], None] = time.sleep) -> None:
    """Raises ValueError for what is no address, NotDelivered, in one line without it, if it does not take it."""
    address = urlsplit(url)
    if address.scheme != "https" and not (address.scheme == "http" and address.hostname in LOOPBACK):
        raise ValueError("PERF_WEBHOOK_URL is no https address")
    try:
        import requests
    except ImportError:
        raise ValueError("requests is not installed; pip install 'attention-perf[alerts]'") from None
    for attempt in range(1, attempts + 1):
        try:
            answer = requests.post(url, json=message, timeout=timeout, allow_redirects=False)
            said = f"it answered {answer.status_code}"
            if answer.status_code < 300:
                return
            again = answer.status_code >= 500 or answer.status_code == 429
        except requests.RequestException as error:
            said, again = f"it can't be reached ({type(error).__name__})", True
        if not again or attempt == attempts:
            raise NotDelivered(f"the webhook did not take it: {said}, {attempt} {'time' if attempt == 1 else 'times'}")
        sleep(pause * 2 ** (attempt - 1))


def _line(f: Finding) -> str:
    change = f", {percent(f.ratio)} %" if f.ratio is not None else ""
    since = f", since {f.since}" if f.since else ""
    return f"{f.word}: {f.benchmark}{change}{since}"


def _escaped(text: str) -> str:
    """As Slack asks for: "<" begins a mention or a link there."""
    return plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
