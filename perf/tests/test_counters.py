"""Counts of one call: right where they can be known, and the same every time."""
from __future__ import annotations

import functools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType
from torch.utils.flop_counter import FlopCounterMode

import attention
from attention.testing import inputs
from perf.bench.prepare import Preparer
from perf.measure import counters, evidence
from perf.measure.counters import Counts, count, tally
from perf.tests.profiler_events import Event
from perf.verdict.words import NAMES
from perf.workloads.workload import Workload

ROOT = Path(__file__).parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CELL = Workload("attention", "softmax", "sdpa", "forward", True, 1, 2, 2, 32, 32, 16, "fp32")
PHASES = ("forward", "backward", "forward-backward")


def prepared(w: Workload):
    call = Preparer(CPU).prepare(w).call
    call()
    return call


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("backend", ["eager", "sdpa", "sdpa-math", "tiled",
                                     pytest.param("flex", marks=pytest.mark.slow)])
def test_two_runs_count_the_same(backend, phase):
    if backend == "flex" and phase != "forward":
        pytest.skip("FlexAttention has no backward on the CPU")
    call = prepared(replace(CELL, backend=backend, phase=phase))
    first = count(call, CPU)
    assert first == count(call, CPU) == count(prepared(replace(CELL, backend=backend, phase=phase)), CPU)
    assert first.counters["operators"] == sum(first.kernels.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["prefill", "train-step"])
def test_two_runs_of_a_model_count_the_same(phase):
    w = Workload("gpt2-tiny", "softmax", "sdpa", phase, True, 2, 4, 4, 16, 16, 16, "fp32")
    call = prepared(w)
    first = count(call, CPU)
    assert first == count(call, CPU)
    assert (first.counters["autograd_nodes"] > 50) == (phase == "train-step")


def test_operators_are_counted_by_name_and_in_all():
    x = torch.zeros(4)
    result = count(lambda: (x.add_(1), x.add_(1), x.zero_()), CPU)
    assert result.kernels["aten::add_"] == 2
    assert result.kernels["aten::zero_"] == 1
    assert not any("Backward" in name or " " in name for name in result.kernels)


def test_one_operator_more_shows():
    x = torch.zeros(4)
    less, more = count(lambda: x.mul_(2), CPU), count(lambda: x.mul_(2).neg_(), CPU)
    assert more.counters["operators"] == less.counters["operators"] + 1


def test_autograd_nodes_of_a_result_are_those_that_its_backward_pass_runs_through():
    x = torch.ones(3, requires_grad=True)
    held = count(lambda: {"loss": (x * 2).exp().sum()}, CPU)
    assert held.counters["autograd_nodes"] == 4  # sum, exp, mul, and x's own
    assert count(lambda: torch.autograd.grad((x * 2).exp().sum(), x), CPU).counters["autograd_nodes"] == 4
    with torch.no_grad():
        assert count(lambda: (x * 2).exp(), CPU).counters["autograd_nodes"] == 0


def test_a_node_reached_twice_counts_once():
    x = torch.ones(3, requires_grad=True)
    assert counters.nodes([x * 2, (x * 2, 7)]) == 3
    y = x * 2
    assert counters.nodes([y + 1, y - 1]) == 4
    assert counters.nodes(None) == 0


def test_eager_and_sdpa_differ_in_nodes():
    result = {backend: count(prepared(replace(CELL, backend=backend, phase="forward-backward")), CPU)
              .counters["autograd_nodes"] for backend in ("eager", "sdpa", "tiled")}
    assert result["eager"] > result["sdpa"] >= result["tiled"] > 3


@pytest.mark.parametrize(("function", "batch", "kv_heads", "n", "m"), [
    ("softmax", 1, 4, 32, 32), ("softmax", 3, 2, 16, 48), ("alibi", 1, 4, 32, 32)])
def test_the_formula_of_flops_is_what_eager_code_does(function, batch, kv_heads, n, m):
    """Backward, the formula has the scores computed once more than eager, which keeps them."""
    w = Workload("attention", function, "eager", "forward", False, batch, 4, kv_heads, n, m, 16, "fp32")
    module = attention.create(w.variant, heads=w.heads, kv_heads=w.kv_heads, head_dim=w.head_dim)
    q, k, v = inputs(batch=w.batch, heads=w.heads, kv_heads=w.kv_heads, n=w.n, m=w.m, head_dim=w.head_dim, grad=True)
    with FlopCounterMode(display=False) as counter:
        out = module(q, k, v)
        forward = counter.get_total_flops()
        out.sum().backward()
    assert forward == w.flops
    assert counter.get_total_flops() + forward // 2 == replace(w, phase="forward-backward").flops


def test_a_cpu_counts_nothing_that_only_a_gpu_has():
    assert not {"launches", "memcpys", "memsets", "host_syncs"} & count(lambda: torch.zeros(2), CPU).counters.keys()


def test_counting_does_not_import_the_compiler():
    code = ("import sys, torch; from perf.measure.counters import count; "
            "count(lambda: torch.zeros(2), torch.device('cpu')); print('torch._dynamo' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"


@pytest.mark.slow
def test_graph_breaks_and_recompilations_show():
    def whole(x):
        return (x + 1) * 2

    def broken(x):
        y = x + 1
        torch._dynamo.graph_break()
        return y * 2

    def counted(function):
        compiled = torch.compile(function, backend="eager", dynamic=False)
        cold, warm, other = (count(functools.partial(compiled, torch.ones(n)), CPU).counters for n in (3, 3, 4))
        return cold["graph_breaks"], warm["compiled_regions"], warm["recompiles"], other["recompiles"]

    assert counted(whole) == (0, 1, 0, 1)
    assert counted(broken) == (1, 2, 0, 2)


def on_gpu(*names: str) -> list[Event]:
    return [Event(name, DeviceType.CUDA) for name in names]


def test_a_gpu_s_record_is_sorted():
    softmax = "void (anonymous namespace)::softmax_warp_forward<float, float>(float*, float const*)"
    events = [*on_gpu(softmax, softmax, "nvjet_sm90_tst", "Memcpy DtoD (Device -> Device)", "Memset (Device)"),
              Event("## Call CompiledFxGraph f00 ##", DeviceType.CUDA, annotation=True),
              *map(Event, ("aten::softmax", "aten::_softmax", "cudaLaunchKernel", "cudaMemcpyAsync",
                           "cudaStreamSynchronize", "cuLaunchKernel", "Torch-Compiled Region: 0/0",
                           "autograd::engine::evaluate_function: SoftmaxBackward0", "SoftmaxBackward0",
                           "Activity Buffer Request"))]
    assert tally(events, on_gpu=True) == Counts(
        {"launches": 3, "memcpys": 1, "memsets": 1, "host_syncs": 1, "operators": 2, "autograd_nodes": 1,
         "compiled_regions": 1},
        {softmax.removeprefix("void "): 2, "nvjet_sm90_tst": 1})


@pytest.mark.parametrize(("name", "waits"), [
    ("cudaStreamSynchronize", True), ("cudaDeviceSynchronize", True), ("cudaEventSynchronize", True),
    ("cuCtxSynchronize", True), ("cudaMemcpy", True), ("cudaMemcpy2D", True), ("cudaMemcpyAsync", False),
    ("cudaMemcpy2DAsync", False), ("cudaEventRecord", False), ("cudaStreamWaitEvent", False),
    ("cudaStreamIsCapturing", False), ("cudaGraphLaunch", False)])
def test_what_makes_the_host_wait(name, waits):
    assert tally([Event(name)], on_gpu=True).counters["host_syncs"] == waits


def test_names_too_long_are_cut_and_added_up():
    same = "k" * counters.LONGEST_NAME
    assert tally(on_gpu(f"{same}<1>", f"void {same}<2>"), on_gpu=True).kernels == {same: 2}


def test_waiting_done_by_the_profiler_does_not_count(monkeypatch):
    """The profiler waits for the GPU at its end; a call that reads a number back waits once itself."""
    def profiled(call, device):
        events = [*map(Event, call() or ()), Event("cudaDeviceSynchronize")]
        record = SimpleNamespace(events=lambda: events, save=lambda path: Path(path).write_text('{"traceEvents": []}'))
        return record, None

    monkeypatch.setattr(counters, "_profile", profiled)
    counters._own_syncs.cache_clear()
    try:
        assert count(lambda: ["cudaLaunchKernel"], CUDA).counters["host_syncs"] == 0
        assert count(lambda: ["cudaLaunchKernel", "cudaStreamSynchronize"], CUDA).counters["host_syncs"] == 1
    finally:
        counters._own_syncs.cache_clear()


def test_what_is_compared_is_a_counter_or_a_figure_of_the_evidence():
    result = count(prepared(CELL), CPU).counters.keys() | tally([], on_gpu=True).counters.keys()
    fields = evidence.Evidence.__dataclass_fields__.keys()
    assert result <= NAMES.keys() <= result | fields
