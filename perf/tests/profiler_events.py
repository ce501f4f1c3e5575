"""Events as PyTorch's profiler records them, made up."""
from __future__ import annotations

from dataclasses import dataclass

from torch.autograd import DeviceType


@dataclass
class Event:
    """Is an event as the profiler gives it; times in nanoseconds."""

    called: str
    device: DeviceType = DeviceType.CPU
    annotation: bool = False
    start: int = 0
    took: int = 0
    correlation: int = 0
    sequence: int = -1
    thread: int = 1
    forward_thread: int = 0

    def name(self) -> str:
        return self.called

    def device_type(self) -> DeviceType:
        return self.device

    def is_user_annotation(self) -> bool:
        return self.annotation

    def start_ns(self) -> int:
        return self.start

    def duration_ns(self) -> int:
        return self.took

    def correlation_id(self) -> int:
        return self.correlation

    def sequence_nr(self) -> int:
        return self.sequence

    def start_thread_id(self) -> int:
        return self.thread

    def fwd_thread_id(self) -> int:
        return self.forward_thread
