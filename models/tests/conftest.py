"""Float32 means float32 here: cuDNN's LSTM would use TF32 otherwise, ten times the error the tests allow."""
from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
