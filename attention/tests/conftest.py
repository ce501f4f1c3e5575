"""The attention tests run on the GPU if there is one, else on the CPU; ATTENTION_DEVICE names another device."""
from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

# Compiling takes seconds and many cells of the matrix can't run: neither is a fault of a test.
# Nor does a failure shrink: shrinking a call to a kernel takes longer than finding it, and the seeds are fixed.
settings.register_profile("attention", deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
                          suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
settings.load_profile("attention")


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device(os.environ.get("ATTENTION_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu"))
