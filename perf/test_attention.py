"""Bare attention kernels; `perf.workloads` says which."""
from __future__ import annotations

import pytest


@pytest.mark.workloads("attention")
def test_attention(measure):
    measure()
