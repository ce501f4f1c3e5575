"""GitHub's client and the webhook share one error, and the care for secret addresses."""
from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LONGEST_WAIT = 300  # seconds that an answer may ask to wait


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
