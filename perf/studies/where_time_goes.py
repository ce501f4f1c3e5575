"""Tells where the time of a call goes: the device's kernels by time, their number, and whether the host is the
limit."""
from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from perf.studies.measuring import stopwatch
from perf.verdict.words import short

CALLS = 5  # under the profiler
SHOWN = 5  # kernels
IDLE = 0.7  # of the time: a device busy for less waits for the host


@dataclass(frozen=True)
class Where:
    """Holds one call's seconds: `wall` by a stopwatch without the profiler, `busy` what the device's kernels take
    (operators of their own, on a CPU), and these by name."""

    wall: float
    busy: float
    launches: float
    syncs: float
    kernels: dict[str, float]

    @property
    def host_bound(self) -> bool:
        """Says whether the device waits for the host."""
        return self.busy < IDLE * self.wall

    def text(self, name: str) -> str:
        """Writes a sentence for people."""
        top = sorted(self.kernels.items(), key=lambda one: -one[1])[:SHOWN]
        text = ", ".join(f"{kernel} {seconds / self.busy:.0%}" for kernel, seconds in top) if self.busy else "nothing"
        bound = ("the device waits for the host" if self.host_bound else "the device is the limit")
        return (f"{name}: {1e3 * self.wall:.2f} ms a call, the device busy for {1e3 * self.busy:.2f} "
                f"({self.busy / self.wall:.0%}) with {self.launches:.0f} kernels, {self.syncs:.0f} waits of the host: "
                f"{bound}. Its kernels by time: {text}.")

    def record(self) -> dict[str, Any]:
        """Gives the figures as a record."""
        return {**asdict(self), "host_bound": self.host_bound}


def where(call: Callable[[], Any], device: torch.device) -> Where:
    """Profiles a warm call."""
    wall, _ = stopwatch(call, device)
    on_gpu = device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(CALLS):
            call()
        if on_gpu:
            torch.cuda.synchronize(device)
    kernels: dict[str, float] = defaultdict(float)
    launches = syncs = 0
    for event in profile.key_averages():
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if on_gpu and event.device_type == torch.autograd.DeviceType.CUDA:
            kernels[short(event.key)] += own / 1e6 / CALLS
            launches += event.count
        elif not on_gpu and "::" in event.key:
            kernels[event.key] += own / 1e6 / CALLS
            launches += event.count
        if re.match(r"cuda(Stream|Device|Event)Synchronize", event.key):
            syncs += event.count
    return Where(wall, sum(kernels.values()), launches / CALLS, max(0, syncs - 1) / CALLS, dict(kernels))
