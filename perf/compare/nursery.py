"""Forks the workers of a GPU's pairs from a process that has imported what is slow to import: they are fresh, and ready
within milliseconds instead of 4 to 15 seconds.

    with Nursery() as nursery:
        with Pair(base, head, "cuda", nursery=nursery) as pair: ...

It imports torch, its compiler, and what other packages a worker had to import besides (`learn`). It never imports
attention/ or models/: each worker imports its own side's after the fork, and so it does with what of perf/ uses them.
PYTORCH_NVML_BASED_CUDA_CHECK=1 keeps an import that counts devices from touching the driver, without which a fork can
use no GPU; a probe sees whether one can, and its answer is given to an import that asks for a GPU's properties. A
worker makes its own CUDA context, hence its own placement in GPU memory.

What a fork does not inherit is threads: of the parent's none has any work that a worker waits for, as importing starts
no OpenMP region (perf/tests/test_nursery.py runs one in a worker) and inductor compiles in its own thread. What it does
inherit is the layout of the parent's memory and the seed of its hashes. On a CPU times depend on that layout, and every
pair must draw another: so there workers are started afresh.
"""
from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

WORKER = "perf.compare.worker"
FIRST = ("torch", "torch._inductor.compile_fx", "torch.profiler", WORKER)
OF_A_SIDE = ("attention", "models")  # and what of perf/ uses them
STARTING = 120.0  # seconds after which one that imports has hung
SAFE = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
AVAILABLE = hasattr(os, "fork") and hasattr(socket, "send_fds")
MESSAGE = 2 ** 20  # bytes
PROPERTIES: list[dict[str, Any]] = []  # of each GPU, once a fork has looked


class Nursery:
    """Starts the process and asks it for workers. Raises ValueError, in one line, where it can't be started."""

    def __init__(self, root: Path, variables: Mapping[str, str] = os.environ, *, probe: bool = True) -> None:
        self.root, self.variables, self.probe = root, {**variables, **SAFE}, probe
        self.known: set[str] = set()  # modules
        self.refused: str | None = None
        self._start(FIRST)

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it. Workers that are alive end with their pair."""
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
        self._process.kill()
        self._process.wait()

    def worker(self, arguments: Sequence[str], folder: Path, variables: Mapping[str, str], errors: int,
               module: str = WORKER) -> Forked:
        """Forks a worker whose stderr is `errors`; it calls the `main` of `module`."""
        (in_child, to_child), (from_child, out_child) = os.pipe(), os.pipe()
        answer = self._ask({"worker": list(arguments), "folder": str(folder), "variables": dict(variables),
                            "module": module}, (in_child, out_child, errors))
        os.close(in_child)
        os.close(out_child)
        return Forked(self, answer["pid"], to_child, from_child)

    def learn(self, modules: Sequence[str]) -> None:
        """Imports what a worker had to import, so that the next need not. Where no fork could use the GPU any more,
        it is started again without, and `refused` says so."""
        new = [name for name in modules if name not in self.known]
        if not new or self.refused:
            return
        self.known.update(new)
        if reason := self._ask({"import": new, "probe": self.probe}).get("spoiled"):
            self.refused = reason
            self.close()
            self._start(FIRST)

    def wait(self, pid: int, limit: float) -> int | None:
        """Says how a worker ended, as `subprocess` says it; None where it is alive after `limit` seconds."""
        return self._ask({"wait": pid, "limit": limit})["status"]

    def _start(self, modules: Sequence[str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "perf.compare.nursery", str(theirs.fileno())], cwd=self.root,
                env=self.variables, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                start_new_session=True)
        try:
            answer = self._ask({"import": list(modules), "probe": self.probe})
            if "spoiled" in answer:
                raise ValueError(f"workers can't be forked here: {answer['spoiled']}")
        except BaseException:
            self.close()
            raise

    def _ask(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        self._socket.settimeout(STARTING)
        message = json.dumps(request).encode()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, max(MESSAGE, 2 * len(message)))
        socket.send_fds(self._socket, [message], list(descriptors))
        answer = self._socket.recv(MESSAGE)
        if not answer:
            raise ValueError("the process that forks workers ended by itself; what it printed stands above")
        return json.loads(answer)


class Forked:
    """Is a worker as `subprocess.Popen` shows a process, as far as perf/compare/process.py asks."""

    def __init__(self, nursery: Nursery, pid: int, to_child: int, from_child: int) -> None:
        self._nursery, self.pid = nursery, pid
        self.returncode: int | None = None
        self.stdin, self.stdout = os.fdopen(to_child, "wb"), os.fdopen(from_child, "rb", buffering=0)

    def poll(self) -> int | None:
        return self._wait(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        if self._wait(STARTING / 2 if timeout is None else timeout) is None:
            raise subprocess.TimeoutExpired(f"worker {self.pid}", timeout or STARTING / 2)
        assert self.returncode is not None
        return self.returncode

    def _wait(self, limit: float) -> int | None:
        if self.returncode is None:
            self.returncode = self._nursery.wait(self.pid, limit)
        return self.returncode


def serve(control: socket.socket) -> NoReturn:
    """Answers until nobody is left to ask. Raises nothing that an import raises: the worker will."""
    while True:
        message, descriptors, *_ = socket.recv_fds(control, MESSAGE, 3)
        if not message:
            os._exit(0)
        request = json.loads(message)
        if "import" in request:
            answer = _imported(request["import"], probe=request["probe"])
        elif "worker" in request:
            answer = {"pid": _forked(request, descriptors, control)}
        else:
            answer = {"status": _ended(request["wait"], request["limit"])}
        control.send(json.dumps(answer).encode())


def _imported(names: Sequence[str], *, probe: bool) -> dict[str, Any]:
    culprit = ", ".join(names[:3])
    with _properties_as_probed():
        import torch

        for name in names:
            before = torch.cuda.is_initialized()
            with contextlib.suppress(Exception):  # what is made when it runs is no module that can be imported
                importlib.import_module(name)
            if torch.cuda.is_initialized() and not before:
                culprit = name
    if mine := [name for name in OF_A_SIDE if name in sys.modules]:
        return {"spoiled": f"{mine[0]}/ of one side was imported before the fork"}
    if probe and (status := _probe()) != 0:
        return {"spoiled": f"a fork can't use the GPU (status {status}) after importing {culprit}"}
    return {"threads": threading.active_count()}


def _probe() -> int | None:
    """Forks a process that makes a CUDA context, if it can, and tells each GPU's properties. Returns how it ended; None
    where it hung, and was killed."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            import torch

            torch.zeros(1, device="cuda").item()
            known = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
            os.write(into, json.dumps([_plain(properties) for properties in known]).encode())
            status = 0
        os._exit(status)
    os.close(into)
    with os.fdopen(out) as answer:
        ended = _ended(pid, STARTING)
        if ended == 0:
            PROPERTIES[:] = json.load(answer)
    if ended is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return ended


def _plain(properties: object) -> dict[str, Any]:
    values = {name: getattr(properties, name) for name in dir(properties) if not name.startswith("_")}
    return {name: value for name, value in values.items() if isinstance(value, int | float | str)}


@contextlib.contextmanager
def _properties_as_probed() -> Iterator[None]:
    """Answers imports that ask what a GPU is, as torchao does: torch would start the driver for it."""
    if not PROPERTIES:
        yield
        return
    from unittest.mock import patch

    import torch
    from torch._dynamo import device_interface as inductor

    known = [SimpleNamespace(**properties) for properties in PROPERTIES]
    with patch.multiple(torch.cuda, current_device=lambda: 0,
                        get_device_properties=lambda device=None: known[_index(device)]), \
            patch.dict(inductor.caching_worker_device_properties), patch.dict(inductor.caching_worker_current_devices):
        yield


def _index(device: Any) -> int:
    """Takes what torch.cuda.get_device_properties takes."""
    digits = str(device).rpartition(":")[2]
    return int(digits) if digits.isdigit() else 0


def _forked(request: Mapping[str, Any], descriptors: Sequence[int], control: socket.socket) -> int:
    pid = os.fork()
    if pid:
        for descriptor in descriptors:
            os.close(descriptor)
        return pid
    try:
        control.close()
        os.setsid()
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
            os.close(descriptor)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["variables"])
        sys.path[:] = [request["folder"], *(path for path in sys.path[1:] if path != request["folder"])]
        importlib.invalidate_caches()
        random.seed()
        importlib.import_module(request["module"]).main(request["worker"])
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(1)


def _ended(pid: int, limit: float) -> int | None:
    end, pause = time.monotonic() + limit, 0.001
    while True:
        child, status = os.waitpid(pid, os.WNOHANG)
        if child:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore", r"This process .*is multi-threaded", DeprecationWarning)  # as said above
    serve(socket.socket(fileno=int(sys.argv[1])))
