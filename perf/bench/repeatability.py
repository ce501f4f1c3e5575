"""Fresh processes make the same calls; repeatability is how far their medians spread (`python -m perf
repeatability`)."""
from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

import attention
from attention.testing import inputs
from perf.measure.clocks import Clock, CudaClock, Plan, clock
from perf.measure.sampling import one_round

PROBE_CYCLES = 100_000  # 50 us
ROUNDS = {"cuda": 200, "cpu": 30}
STOPWATCH = PROFILED = 20  # calls
PLACEMENTS = 4
FLUSH = "FillFunctor<signed char>"  # the kernel that empties the L2
SPREADS = {"time": "seconds", "stopwatch": "stopwatch", "cycles": "cycles", "time/4": "placed seconds",
           "cycles/4": "placed cycles"}


def controls(device: torch.device) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Makes the calls: attention over n at 16 K tokens, a matrix product, a layer norm, DistilGPT-2 at batch 1; less on
    a CPU.

    Each makes a call on tensors of its own, so that every one lies elsewhere in memory.
    """
    import models

    gpu = device.type == "cuda"
    dtype = torch.bfloat16 if gpu else torch.float32
    lengths, tokens, heads = ((512, 1024, 2048, 4096, 8192, 16384), 16384, 16) if gpu else ((512, 1024), 1024, 4)
    size, rows = (4096, 16384) if gpu else (512, 512)

    def attend(n: int) -> Callable[[], Any]:
        module = attention.create("softmax:sdpa", heads=heads, head_dim=64, causal=True)
        q, k, v = inputs(batch=tokens // n, heads=heads, n=n, head_dim=64, dtype=dtype, device=device)
        return lambda: module(q, k, v)

    def matmul() -> Callable[[], Any]:
        a = torch.randn(size, size, device=device, dtype=dtype)
        return lambda: a @ a

    def layer_norm() -> Callable[[], Any]:
        x = torch.randn(rows, size, device=device, dtype=dtype)
        return lambda: torch.nn.functional.layer_norm(x, (size,))

    def model() -> Callable[[], Any]:
        family, preset = models.family("distilgpt2"), models.get("distilgpt2")
        network = models.create("distilgpt2", attention="softmax:sdpa", dtype=dtype, device=device)
        arguments = family.inputs(preset, batch=1, n=256, device=device, dtype=dtype)
        return lambda: network(**arguments)

    return {**{f"softmax:sdpa n={n}": functools.partial(attend, n) for n in lengths}, f"matmul {size}": matmul,
            f"layer_norm {rows} x {size}": layer_norm, "distilgpt2 1 x 256": model}


def measure(make: Callable[[], Callable[[], Any]], device: torch.device) -> dict[str, float]:
    """Measures seconds of one call: by the clock, by a stopwatch, by the profiler; and, on a GPU, its SM cycles, and
    their mean over some placements of its tensors, all alive at once."""
    timer = clock(device)
    calls = [make() for _ in range(PLACEMENTS)]
    plan = timer.prepare(calls[0])
    figures = {"stopwatch": _stopwatch(calls[0], device), **_by_clock(timer, plan, ROUNDS[device.type])}
    if device.type == "cuda":
        figures |= _kernels(plan, device)
    placed = [figures, *(_by_clock(timer, timer.prepare(call), ROUNDS[device.type]) for call in calls[1:])]
    for figure in ("seconds", "cycles"):
        if figure in figures:
            figures[f"placed {figure}"] = statistics.mean(one[figure] for one in placed)
    return figures


def _by_clock(timer: Clock, plan: Plan, rounds: int) -> dict[str, float]:
    readings, rates = [], []
    for _ in range(rounds):
        start, stop = one_round(timer, plan)
        readings.append((start, stop))
        if isinstance(timer, CudaClock):
            torch.cuda._sleep(PROBE_CYCLES)  # torch's own way to keep a GPU busy for so many cycles
            rates.append((stop, timer.timer()))
    seconds = statistics.median((stop - start) / plan.iterations for start, stop in readings)
    figures = {"seconds": seconds}
    if rates:
        figures["mhz"] = PROBE_CYCLES / statistics.median(stop - start for start, stop in rates) / 1e6
        figures["cycles"] = seconds * figures["mhz"] * 1e6
    return figures


def _stopwatch(fn: Callable[[], Any], device: torch.device) -> float:
    seconds = []
    for _ in range(STOPWATCH):
        start = time.perf_counter()
        fn()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _kernels(plan: Plan, device: torch.device) -> dict[str, float]:
    """Sums the seconds that a call's kernels ran, by the profiler, and counts them."""
    torch.cuda.synchronize(device)
    with torch.autograd.profiler.profile(use_kineto=True, use_device="cuda") as profile:
        for _ in range(PROFILED):
            if plan.setup:
                plan.setup()
            plan.call()
        torch.cuda.synchronize(device)
    ran = [event.duration_ns() for event in (profile.kineto_results.events() if profile.kineto_results else [])
           if event.device_type() == torch.autograd.DeviceType.CUDA and FLUSH not in event.name()]
    return {"kernels": sum(ran) / PROFILED / 1e9, "launches": len(ran) / PROFILED}


def processes(count: int, device: torch.device) -> list[dict[str, dict[str, float]]]:
    """Measures in `count` fresh processes and prints a line of JSON for each. Raises ValueError if one fails.

    All are started at once, so that only measuring takes its turn: each waits for a line before it measures.
    """
    command = [sys.executable, "-m", __name__, str(device)]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ)
               for _ in range(count)]
    figures = []
    for child in started:
        out, _ = child.communicate("go\n")
        if child.returncode:
            raise ValueError(f"a process failed with exit code {child.returncode}; what it printed stands above")
        print(out.strip(), flush=True)
        figures.append(json.loads(out.splitlines()[-1]))
    return figures


def main(device: torch.device) -> None:
    """Runs in a fresh process: prints the figures of each call, as JSON."""
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device))  # the default one can't be captured
    with torch.no_grad():
        calls = controls(device)
        for make in calls.values():
            make()()  # libraries are loaded, plans made
        sys.stdin.readline()
        print(json.dumps({name: measure(make, device) for name, make in calls.items()}))


def table(figures: Sequence[dict[str, dict[str, float]]]) -> str:
    """Writes one row a call: its median, and standard deviations between processes, relative to their mean."""
    line = ("{:<24}{:>12}" + "{:>10}" * 5 + "{:>13}{:>16}").format
    lines = [f"{len(figures)} fresh processes; between their medians, the standard deviations of:",
             "  time; a stopwatch's; SM cycles; time and cycles, the mean of some placements in memory",
             line("call", "median", *SPREADS, "kernels", "more a launch")]
    for name in figures[0]:
        rows = [process[name] for process in figures]
        middle = statistics.median(row["seconds"] for row in rows)
        cells = ["-", "-"]
        if "kernels" in rows[0]:
            kernels = statistics.median(row["kernels"] for row in rows)
            more = statistics.median((row["seconds"] - row["kernels"]) / row["launches"] for row in rows)
            cells = [f"{kernels * 1e6:.2f} us", f"{more * 1e6:+.2f} us {more / kernels:+.1%}"]
        spreads = [_spread(rows, figure) for figure in SPREADS.values()]
        lines.append(line(name, f"{middle * 1e6:.2f} us", *spreads, *cells))
    return "\n".join(lines)


def _spread(rows: Sequence[dict[str, float]], figure: str) -> str:
    if figure not in rows[0]:
        return "-"
    values = [row[figure] for row in rows]
    return f"{statistics.stdev(values) / statistics.mean(values):.2%}"


if __name__ == "__main__":
    main(torch.device(sys.argv[1]))
