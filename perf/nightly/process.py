"""Runs the processes of a night, each with its output in a log, under a lock of the whole machine.

One night measures at a time, whoever runs it and in whichever clone. The lock is `flock`'s, so it goes with the
processes that hold it: there is no stale lock. The file names its holder for people to read.
"""
from __future__ import annotations

import ctypes
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perf.system import tools

SHARED = Path("/dev/shm")  # a service's /tmp may be its own (PrivateTmp), this is everyone's
LOCK = Path(SHARED if SHARED.is_dir() else tempfile.gettempdir(), "attention-perf.lock")
PATIENCE = 20.0  # seconds: what a killed night had started needs a moment to end
HOURS = 4.0  # after which a step has hung
SECRETS = ("GITHUB_TOKEN", "PERF_WEBHOOK_URL")  # for the alert alone
LAST = 2 ** 14  # bytes of a log
PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def run(words: Sequence[str], log: Path, *, root: Path, lock: int | None = None, secrets: bool = False,
        hours: float = HOURS) -> int:
    """Runs a command, appends its output to `log`, and returns its exit status, which is negative for a signal.

    `lock` is inherited, so that it is held as long as anything measures. The process ends with this one, however that
    ends. Raises ValueError after `hours`.
    """
    variables = {name: value for name, value in os.environ.items() if secrets or name not in SECRETS}
    with log.open("ab") as file:
        file.write(f"$ {shlex.join(words)}\n".encode())
        file.flush()
        process = subprocess.Popen(words, cwd=root, env=variables,
                                   stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                                   start_new_session=True, pass_fds=() if lock is None else (lock,),
                                   preexec_fn=_end_with_parent)
        try:
            return process.wait(hours * 3600)
        except subprocess.TimeoutExpired:
            raise ValueError(f"no end in {hours:g} hours; {log} may say why") from None
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def stop(signum: int, frame: Any) -> None:
    """Handles SIGTERM: it ends the process by an exception, so that folders and locks are given back."""
    sys.exit(128 + signum)


def last_line(log: Path) -> str:
    """Returns the last line of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LAST))
        return tools.last_line(file.read().decode(errors="replace"), "it printed nothing").strip(" =")


def _end_with_parent() -> None:
    if _prctl:
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def hold(path: Path, patience: float = PATIENCE) -> Iterator[int]:
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
