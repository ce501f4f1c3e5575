"""The processes of a night: each step that measures, tests or publishes runs as one of its own, its output in a log."""
from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

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
    with log.open("ab") as file:
        file.write(f"$ {shlex.join(words)}\n".encode())
        file.flush()
        process = subprocess.Popen(words, cwd=root, env=_environment(os.environ, secrets=secrets),
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
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip(" =") if lines else "it printed nothing"


def status(code: int) -> str:
    """Names an exit status: "exit status 3", "SIGKILL"."""
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _environment(variables: Mapping[str, str], *, secrets: bool) -> dict[str, str]:
    return {name: value for name, value in variables.items() if secrets or name not in SECRETS}


def _end_with_parent() -> None:
    if _prctl:
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
