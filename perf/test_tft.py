"""Temporal fusion transformers: forward and a training step; `perf.workloads` says which."""
from __future__ import annotations

import pytest


@pytest.mark.workloads("tft")
def test_tft(measure):
    measure()
