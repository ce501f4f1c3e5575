"""A pytest item that measures has a workload: its fields are the item's parameters, one by one."""
from __future__ import annotations

from typing import Any

import pytest

from perf.workloads.workload import FIELDS, Workload


def workload_of(item: pytest.Item) -> Workload | None:
    """Gives what a test measures; None for a test that measures nothing."""
    if not isinstance(item, pytest.Function) or item.get_closest_marker("workloads") is None:
        return None
    fields: dict[str, Any] = {name: item.callspec.params[name] for name in FIELDS}
    return Workload(**fields)
