"""GPT-2: prefill, decode and a training step; `perf.workloads` says which."""
from __future__ import annotations

import pytest


@pytest.mark.workloads("gpt2")
def test_gpt2(measure):
    measure()
