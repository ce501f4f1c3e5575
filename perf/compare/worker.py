"""Measures one side of a pair: a fresh process imports its own attention/ and models/, and answers requests.

`python -m perf.compare.worker DEVICE` runs with the side's folder as working directory and first on PYTHONPATH, or is
forked there (perf/compare/nursery.py). A request is a line of JSON on stdin, its answer a line on stdout:

    {"prepare": workload's fields, "check": bool, "changed": [function] in whose bodies alone the sides differ}
        {"ready": true, and if checked "counters", "kernels", "launches", "error", "bound", "peak_bytes", and of a
        compiled model "compile_seconds", cold; and "written", hashes of what the compiler made, if none of
        the changed functions ran}
        {"missing": reason}   it can't be done here: no such variant, no such package, no memory
        {"wrong": reason}     the oracle says otherwise, or the kernel that ran is not the one declared
        {"failed": reason}    anything else that was raised
    {"plan": core or null, "graph": bool}
        {"seconds": of a round, "iterations", "clock"}: warm, its rounds chosen; without `graph` a GPU's are launched
    {"release": true}       {}: gives back the memory of what was prepared, for the other side
    {"rounds": k}           {"seconds": [of one call, in each round]}: all work is done when it answers
    {"state": true}         {"unfit": reason or null, "state": of the machine since the plan, "imports": [module]}: what
                            it had to import of installed packages; or {"wrong": reason}, where it was checked and
                            what was timed computes no result, or took a time that nothing can
    {"quit": true}

A plan and rounds may be "missing" too, where there is no memory for both sides at once, or "failed".

What libraries print goes to stderr. The plan may hold the thread that works to one core.
"""
from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from perf.compare.side import INJECT, installed_modules, own_packages
from perf.system.tools import failure

if TYPE_CHECKING:
    import torch

    from perf.bench.subject import Subject
    from perf.measure.clocks import Plan
    from perf.measure.fitness import Watch

Answer = dict[str, Any]
STATE = "PERF_STATE"  # of the environment: the folder of what is measured once a machine
# Seconds of a round beside which filling the caches anew is nothing. On a CPU an eager call of 8 ms takes 10 after it:
# where every second round did, equal pairs were 10 % apart (rms), and 3 % without.
LONG = {"cpu": 0.05, "cuda": 0.002}


class Worker:
    """Answers requests about one workload at a time. What it measures is imported when it is made; with `seen` it is
    noted from there on which functions ran."""

    def __init__(self, device: torch.device, *, seen: bool = False) -> None:
        self.at_first = set(sys.modules)
        packages = own_packages()
        from perf.measure.compiled_code import FunctionTrace

        self.ran, self.seen = FunctionTrace(packages), seen
        with self.ran if seen else nullcontext():
            from perf.bench.prepare import Preparer
            from perf.measure import clocks
            from perf.measure.clocks import CoreTimer, clock
            from perf.measure.fitness import Watch

        self.device, self.clock, self.watch = device, clock(device), Watch(device)
        self.timer = CoreTimer() if device.type == "cpu" and clocks.TELLS_WAITS else self.clock.timer
        self.preparer = Preparer(device)
        self.cores = _cores()
        self.subject: Subject | None = None
        self.made: Plan | None = None
        self.checked, self.seconds = False, list[float]()

    def answer(self, request: Mapping[str, Any]) -> Answer:
        """Raises what the workload raises, unless that is a lack of memory."""
        import torch

        from perf.bench.subject import Missing, available

        try:
            with available(self.subject.workload) if self.subject else nullcontext():
                return self._answer(request)
        except Missing as reason:
            return {"missing": str(reason)}
        finally:
            if self.device.type == "cuda" and ("prepare" in request or "release" in request):
                torch.cuda.empty_cache()  # the other side may need what lies in this one's cache

    def _answer(self, request: Mapping[str, Any]) -> Answer:
        if "prepare" in request:
            return self.prepare(request["prepare"], bool(request.get("check")), request.get("changed", ()))
        if "release" in request:
            return self.release()
        if "plan" in request:
            return self.plan(request["plan"], graph=request.get("graph", True))
        if "rounds" in request:
            assert self.made is not None, "rounds before a plan"
            seconds = rounds(self.timer, self.made, request["rounds"], self.watch, LONG[self.device.type])
            self.seconds += seconds
            return {"seconds": seconds}
        if "launches" in request:
            return self.launch(request["launches"])
        return self.state()

    def prepare(self, fields: Mapping[str, Any], check: bool, changed: Sequence[str] = ()) -> Answer:
        """Builds what is timed and calls it once; `check` holds it against its oracle and counts it."""
        import attention
        from perf.bench.subject import Missing, Subject, Wrong
        from perf.compare.inject import injected
        from perf.measure.compiling import cold, compiling
        from perf.workloads.workload import Workload

        self.subject = self.made = None
        self.checked = check
        gc.enable()
        _stay_on(self.cores)
        w = Workload(**fields)
        self.seen &= bool(changed)  # for later ones share what is built
        try:
            with self.ran if self.seen else nullcontext():
                if w.variant not in attention.names():
                    return {"missing": f"{w.variant} is not registered"}
                self.subject = subject = Subject(self.preparer, w, around=functools.partial(injected, w.id),
                                                 compiles=cold if w.compiled and check else compiling)
            if not check:
                return {"ready": True}
            answer = _checked(subject)
            return answer | self._written(subject, changed) if self.seen else answer
        except Missing as reason:
            return {"missing": str(reason)}
        except Wrong as reason:
            return {"wrong": str(reason)}

    def _written(self, subject: Subject, changed: Sequence[str]) -> Answer:
        """Tells what the compiler wrote for a call that is warm, where nothing else can differ between the sides. A
        backward pass on a GPU runs in threads that nobody sees into."""
        from perf.measure.compiled_code import code_hashes

        with self.ran:
            subject.call()
        elsewhere = self.device.type == "cuda" and subject.workload.needs_grad
        names = set() if elsewhere or self.ran.generated or INJECT in os.environ else self.ran.names
        if not names or names & set(changed):
            return {}
        return {"written": None if subject.graphs is None else code_hashes(subject.graphs)}

    def release(self) -> Answer:
        """Gives the memory of what was prepared back."""
        self.subject = self.made = None
        self.preparer.release()
        return {}

    def plan(self, core: int | None, *, graph: bool) -> Answer:
        """Warms the call up on one core and chooses its rounds."""
        assert self.subject is not None, "a plan before it is prepared"
        if core is not None:
            _stay_on({core})
        gc.collect()
        gc.disable()
        self.made = self.subject.plan(self.clock, graph=graph)
        self.watch.begin()
        self.seconds.clear()
        return {"seconds": self.made.seconds, "iterations": self.made.iterations, "clock": self.made.clock,
                "host": self.made.host}

    def launch(self, count: int) -> Answer:
        """Times the host while it launches the call, not its graph, `count` times; on a GPU only."""
        import torch

        from perf.measure.clocks import launching

        assert self.subject is not None, "launches before it is prepared"
        return {"seconds": launching(self.subject.call, torch.cuda.synchronize, count)}

    def state(self) -> Answer:
        """Returns the machine's state. On the CPU it leaves out the company of other processes: the sibling is one, and
        whoever started both knows."""
        from perf.measure.fitness import summary, unfit

        if reason := self._disproved():
            return {"wrong": reason}
        states = tuple(replace(state, host=state.host and replace(state.host, foreign_cores=0.0))
                       for state in self.watch.end())
        return {"unfit": unfit(states), "state": summary(states),
                "imports": installed_modules(self.at_first)}

    def _disproved(self) -> str | None:
        """Says what is wrong with the call that was timed, if it was checked: later pairs have the same code."""
        from perf.bench.subject import Wrong
        from perf.measure.roofline import FASTEST, ceilings

        if not (self.checked and self.subject and self.made and self.seconds):
            return None
        try:
            self.subject.prove(self.made, statistics.median(self.seconds),
                               ceilings(self.device, FASTEST, folder=Path(os.environ.get(STATE, ".perf"))))
        except Wrong as wrong:
            return str(wrong)
        return None


def rounds(timer: Callable[[], Any], plan: Plan, count: int, watch: Watch, long: float) -> list[float]:
    """Returns the seconds of one call in each of `count` rounds. A round before them is not counted, unless it takes
    `long` seconds: the other side had the caches."""
    skipped, readings = int(plan.seconds < long), []
    for _ in range(skipped + count):
        if plan.setup:
            plan.setup()
        start = timer()
        for _ in range(plan.iterations):
            plan.call()
        readings.append((start, timer()))
    watch.sample()  # while a GPU works through what is queued
    return [(stop - start) / plan.iterations for start, stop in readings[skipped:]]


def _checked(subject: Subject) -> Answer:
    facts, w = subject.check(), subject.workload
    sizes = {"kept_bytes": facts.kept_bytes, "flops": w.flops, "bytes": w.bytes}
    answer = {"ready": True, "counters": {**facts.counters, **{x: n for x, n in sizes.items() if n is not None}},
              "kernels": facts.kernels, "launches": subject.launches, "kernel_seconds": subject.kernel_seconds,
              "error": facts.error, "bound": facts.bound, "peak_bytes": facts.peak_bytes}
    return answer | ({"compile_seconds": sum(facts.compiled.get(x, 0) for x in ("cold", "warm"))} if w.compiled else {})


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _stay_on(cores: set[int]) -> None:
    if cores:
        os.sched_setaffinity(0, cores)


def serve(device: str, requests: IO[str], answers: IO[str]) -> None:
    """Answers line by line until it is asked to quit, or nobody is left to ask."""
    worker: Worker | None = None
    for text in requests:
        request = json.loads(text)
        if "quit" in request:
            return
        try:
            worker = worker or _start(device, seen=bool(request.get("changed")))
            answer = worker.answer(request)
        except Exception as error:  # of the measured code: any
            answer = {"failed": failure(error)}
        print(json.dumps(answer), file=answers, flush=True)


def _start(device: str, *, seen: bool) -> Worker:
    import torch

    if device == "cpu":
        torch.set_num_threads(1)
    return Worker(torch.device(device), seen=seen)


def stdout_for_answers() -> IO[str]:
    """Keeps stdout for answers: what writes to it from here on, C libraries included, writes to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def main(arguments: Sequence[str]) -> NoReturn:
    """Serves, and ends the process."""
    answers = stdout_for_answers()
    importlib.import_module("torch")  # before it is asked for anything
    serve(arguments[0], sys.stdin, answers)
    leave()


def leave() -> NoReturn:
    """Ends the process at once: the interpreter takes a second to take torch apart."""
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
