"""Vision transformers: forward and a training step; `perf.workloads` says which."""
from __future__ import annotations

import pytest


@pytest.mark.workloads("vit")
def test_vit(measure):
    measure()
