"""Forecasters of time series, and models of families that other installed packages add; `perf.workloads` says which."""
from __future__ import annotations

import pytest


@pytest.mark.workloads("other_models")
def test_other_models(measure):
    measure()
