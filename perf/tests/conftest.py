"""Keeps tests that share a whole run on one worker of pytest-xdist."""
from __future__ import annotations

import pytest

RUNS = {"first", "outputs"}  # fixtures of a module that start a run of many seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts those tests first: workers steal from the end, and a test that is stolen starts its run again."""
    items.sort(key=lambda item: RUNS.isdisjoint(getattr(item, "fixturenames", ())))
