"""Posts JSON to a webhook; chat services show its "text" (Slack, Mattermost, Discord's /slack address).

The address is a secret: it is never printed.
"""
from __future__ import annotations

import html
from typing import Any
from urllib.parse import urlsplit

from perf.alerts.comment import verdict
from perf.alerts.deliver import LONGEST_WAIT, LOOPBACK, NotDelivered, cause, unlogged
from perf.alerts.markdown import plain
from perf.alerts.sets import Why, alarms
from perf.compare.record import Comparison, Finding
from perf.report.units import change_in_percent
from perf.verdict.words import many

NAMED = 10
AGAIN = (429, *range(500, 600))  # answers after which a message is sent again


def payload(comparison: Comparison, accepted: Why) -> dict[str, Any]:
    """Puts the worst alarms into "text", and all of them into "alarms", for a program."""
    worst = alarms(comparison, accepted)
    title = f"Performance, {comparison.date}, {comparison.hardware}: {verdict(comparison, accepted)}"
    more = [f"and {len(worst) - NAMED} more"] if len(worst) > NAMED else []
    lines = [title, *map(_line, worst[:NAMED]), *more]
    text = "\n".join(html.escape(plain(line), quote=False) for line in lines)  # to Slack "<" begins a mention or a link
    return {"text": text, "machine": comparison.machine, "base": comparison.base,
            "head": comparison.head,
            "alarms": [{"benchmark": f.benchmark, "figure": f.figure, "word": f.word, "ratio": f.ratio,
                        "since": f.since} for f in worst]}


def send(url: str, message: dict[str, Any], *, timeout: float = 20, attempts: int = 3, pause: float = 2.0) -> None:
    """Posts `message`, up to `attempts` times; `timeout` and `pause`, which is doubled each time, are seconds.

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
    retries = Retry(attempts - 1, backoff_factor=pause, status_forcelist=AGAIN, allowed_methods={"POST"},
                    raise_on_status=False, retry_after_max=LONGEST_WAIT)
    with requests.Session() as session, unlogged():
        session.mount(f"{address.scheme}://", requests.adapters.HTTPAdapter(max_retries=retries))
        try:
            status = session.post(url, json=message, timeout=timeout, allow_redirects=False).status_code
        except requests.RequestException as error:
            why, times = f"it can't be reached ({cause(error)})", attempts
        else:
            if status < 300:
                return
            why, times = f"it answered {status}", attempts if status in AGAIN else 1
    raise NotDelivered(f"the webhook did not take it: {why}, {many(times, 'time')}")


def _line(f: Finding) -> str:
    change = f", {change_in_percent(f.ratio)} %" if f.ratio is not None else ""
    since = f", since {f.since}" if f.since else ""
    return f"{f.word}: {f.benchmark}{change}{since}"
