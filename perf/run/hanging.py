"""A row that hangs is ended: by an alarm, where Python still runs, else with the whole process.

The interpreter looks at an alarm between two of its own steps. A call that never comes back from C or from the GPU (an
endless kernel, a deadlock in a library) can't be interrupted: `GRACE` seconds later the stacks are written to standard
error and the process exits with 1. The rows before it are kept, and --perf-resume goes on with those that are missing.
An import is left to end first; one that does not, ends the process likewise.
"""
from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE = 60.0  # seconds from the alarm to the end of the process
TIMES, LEAST, UNKNOWN = 20.0, 600.0, 1800.0  # what a row took before; seconds, for a compiler may start cold
IMPORT = "<frozen importlib._bootstrap>"
AGAIN = 5.0  # seconds to the next alarm, for code that catches everything, or imports


def patience(before: float | None) -> float:
    """Returns the seconds after which a row is taken to hang that took `before` seconds, None if that is not known."""
    return UNKNOWN if before is None else max(LEAST, TIMES * before)


class Hung(BaseException):
    """Tells that a row was ended. The message names the line that it stood at; `stacks` holds those of all threads.

    It is no Exception, so that the code that is measured doesn't catch it by chance.
    """

    def __init__(self, seconds: float, frame: FrameType | None) -> None:
        last = traceback.extract_stack(frame)[-1]
        where = f"{last.filename}:{last.lineno} in {last.name}: {last.line}"
        super().__init__(f"hung: ended after {seconds:g} s at {where}")
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        frames = {**sys._current_frames(), threading.get_ident(): frame}  # this thread's is now in the alarm
        self.stacks = "\n".join(f"Thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(one))}"
                                for ident, one in frames.items())


def _imports(frame: FrameType | None) -> bool:
    """Tells whether a module is being imported: half of it would stay behind, and all later rows would fail."""
    while frame is not None and frame.f_code.co_filename != IMPORT:
        frame = frame.f_back
    return frame is not None


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raises Hung in what runs `seconds` later. Must be entered in the main thread, which alone is told of signals."""
    def ring(_: int, frame: FrameType | None) -> None:
        if not _imports(frame):
            raise Hung(seconds, frame)

    stderr = os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2)
    before = signal.signal(signal.SIGALRM, ring)
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=stderr)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
        os.close(stderr)
