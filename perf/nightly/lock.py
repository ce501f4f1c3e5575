"""A lock of the whole machine: one night measures at a time, whoever runs it and in whichever clone.

It is `flock`'s, so it goes with the processes that hold it: there is no stale lock. The file names its holder for
people to read.
"""
from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

SHARED = Path("/dev/shm")  # a service's /tmp may be its own (PrivateTmp), this is everyone's
DEFAULT = Path(SHARED if SHARED.is_dir() else tempfile.gettempdir(), "attention-perf.lock")
PATIENCE = 20.0  # seconds: what a killed night had started needs a moment to end


@contextmanager
def hold(path: Path = DEFAULT, patience: float = PATIENCE) -> Iterator[int]:
    """Takes the lock and yields its file descriptor, which a process that measures inherits.

    Raises ValueError, in one line, if after `patience` seconds another still holds it, or the file can't be opened.
    """
    try:
        file = _open(path)
    except OSError as error:
        raise ValueError(f"the lock {path} can't be opened: {error.strerror}; name another file by --lock") from None
    try:
        end = time.monotonic() + patience
        while not _take(file):
            if time.monotonic() >= end:
                raise ValueError(f"{_holder(file)} (lock {path}): wait for it, or end it")
            time.sleep(0.1)
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()} {time.time():.0f}\n".encode(), 0)
        yield file
    finally:
        os.close(file)


def _open(path: Path) -> int:
    """Opens the file so that every account may read and write it. A file that another account made is opened without
    O_CREAT: Linux refuses that in folders that are everyone's (fs.protected_regular)."""
    try:
        return os.open(path, os.O_RDWR)
    except FileNotFoundError:
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.fchmod(file, 0o666)
        return file


def _take(file: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _holder(file: int) -> str:
    pid, _, since = os.pread(file, 100, 0).decode(errors="replace").partition(" ")
    try:
        start = datetime.fromtimestamp(float(since), UTC).strftime("%Y-%m-%d %H:%M UTC")
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return f"what process {pid}, now gone, had started at {start} is still measuring"
    except PermissionError:
        pass
    except ValueError:
        return "another process is measuring"
    return f"process {pid} is measuring, since {start}"
