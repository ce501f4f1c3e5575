"""The device that an option names, for every option that names one."""
from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

HELP = "device to measure on (default: cuda if there is one, else cpu)"


def device(name: str | None) -> torch.device:
    """Returns the named device, or the best one here if none is named.

    Raises ValueError, in one line, for a device that this machine lacks.
    """
    # Torch reads it when it is loaded. A thread that waits by spinning takes its core from the thread that it waits for
    # where another process has the other core: the CPU grid then takes 2.4 times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    count = torch.cuda.device_count()  # asks NVML: a process forked later may still use the GPU
    choices = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    if name is None:
        return torch.device("cuda" if count else "cpu")
    if name not in choices:
        raise ValueError(f"no device {name!r} here; choose from {', '.join(choices)}")
    return torch.device(name)
