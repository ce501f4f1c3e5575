"""The cause of a slowdown is ranked first for eleven of twelve planted faults: nine run here, three are made-up records
of a GPU."""
from __future__ import annotations

import gzip
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from perf.compare.inject import wrap
from perf.measure import memory
from perf.measure.counters import count
from perf.tests.sides import SIDE, T, around, decided, with_counter
from perf.verdict.causes import unclear
from perf.verdict.exact import changes
from perf.verdict.verdict import Side, Verdict

CPU = torch.device("cpu")
Call = Callable[[], Any]
X = torch.randn(256, 256)
WIDE = X.double()
KERNEL = {"kernel": "triton_tem_fused_0", "grid": [32, 8, 1], "block": [128, 1, 1], "registers": 128, "shared": 65536,
          "code": "aa", "stages": 3, "occupancy": 50}
GPU = replace(SIDE, launches=(KERNEL,), mhz=1980.0)


def attend(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x @ x, -1) @ x


def side(call: Call, profiles: int = 5) -> Side:
    """Counts a call as a worker does; of each kernel it takes the least seconds of some profiles, for tests run beside
    others."""
    call()
    counts = [count(call, CPU) for _ in range(profiles)]
    least = {kernel: min(each.shares.seconds.get(kernel, math.inf) for each in counts)
             for kernel in counts[0].shares.seconds}
    return Side(counts[0].counters, None, memory.peak(call, CPU).allocated, kernels=counts[0].kernels, seconds=least)


def seconds(call: Call) -> float:
    def once() -> float:
        start = time.process_time()
        call()
        return time.process_time() - start

    return min(once() for _ in range(15))


def broken(split: bool) -> Call:
    def step(x: torch.Tensor) -> torch.Tensor:
        x = x @ x
        if split:
            torch._dynamo.graph_break()
        return x.sin()

    compiled = torch.compile(step, backend="eager")
    return lambda: compiled(X)


def faulty(spec: str) -> tuple[Call, Call]:
    return lambda: attend(X), wrap(lambda: attend(X), spec)


LIVE = {
    "a needless copy": (lambda: faulty("clone"), "launches"),
    "a lost fusion": (lambda: faulty("unfused"), "launches"),
    "a wait for a value": (lambda: faulty("sync"), "the host"),
    "as much Python again": (lambda: faulty("slow:100%"), "the host"),
    "twice the width": (lambda: (lambda: attend(X), lambda: attend(WIDE)), "bytes"),
    "a slow power": (lambda: (lambda: X.pow(2), lambda: X.pow(2.7)), "instructions"),
    # Nothing counted says how memory is read, so this is the one that is called otherwise: aten::add takes longer.
    "reading across rows": (lambda: (lambda: X + X, lambda: X.t() + X), "bytes"),
}
COMPILED = {
    "a compilation in each call": (lambda: faulty("recompile"), "compile"),
    "a graph break": (lambda: (broken(False), broken(True)), "compile"),
}
RECORDED = {
    "more registers": (replace(GPU, launches=({**KERNEL, "registers": 255, "occupancy": 25, "code": "bb"},)),
                       "occupancy"),
    "one pipeline stage": (replace(GPU, launches=({**KERNEL, "stages": 1, "code": "bb"},)), "instructions"),
    "a throttled clock": (replace(GPU, mhz=1410.0), "the clock"),
}


READ = {"nanoseconds": 1e6, "instructions": 1e8, "dram": 1e9, "l2": 4e9, "dram_busy": 30.0, "l2_busy": 40.0,
        "occupancy": 30.0, "l2_hits": 80.0}
MEASURED = {  # what a GPU's counters say of the head, which takes 1.3 times as long, beside other code and more memory
    "nothing": ({}, "instructions", "stages 1 (was 3)"),
    "twice the instructions": ({"instructions": 2e8}, "instructions", "2x the instructions"),
    "bytes that keep DRAM busy": ({"dram": 3e9, "dram_busy": 70.0, "l2_hits": 41.0}, "bytes",
                                  "3x the bytes of DRAM (L2 hits 41 %, was 80 %)"),
    "bytes beside which nothing waits": ({"l2": 6e9, "l2_busy": 33.0, "instructions": 1.2e8}, "instructions",
                                         "1.2x the instructions"),
    "half the occupancy": ({"occupancy": 15.0, "dram_busy": 23.0}, "occupancy",
                           "15 % of the warps that the GPU can hold (was 30 %)"),
}


@pytest.mark.parametrize("name", MEASURED)
def test_the_gpu_s_own_counters_come_before_guesses(name):
    changes, cause, words = MEASURED[name]
    base = replace(GPU, metrics=READ)
    head = replace(GPU, launches=({**KERNEL, "stages": 1, "code": "bb"},), peak_bytes=12_000_000,
                   metrics=READ | {"nanoseconds": 1.3e6} | changes)
    result = decided(head, around(0.3, 0.01), base)
    assert (result.word, result.cause) == ("regressed", cause)
    assert f"likely from {cause}: " in result.why
    assert words in result.why.partition("likely from")[2].partition(";")[0], result.why


def test_counters_of_no_longer_call_say_nothing():
    head = replace(GPU, metrics=READ | {"instructions": 9e9})
    assert decided(head, around(0.3, 0.01), replace(GPU, metrics=READ)).cause is None


@pytest.mark.parametrize(("head", "slower", "asked"), [
    (GPU, 0.3, True), (GPU, 0.0, False), (with_counter(GPU, launches=9), 0.3, False),
    (with_counter(GPU, host_syncs=1), 0.3, False), (replace(GPU, mhz=1410.0), 0.3, False),
    (replace(GPU, launches=({**KERNEL, "stages": 1, "code": "bb"},)), 0.3, True),
    (replace(GPU, peak_bytes=20_000_000), 0.3, True), (with_counter(GPU, launches=5), 3.0, True)])
def test_what_kernels_do_or_explains_too_little_is_unclear(head, slower, asked):
    assert unclear(changes(GPU, head, T), GPU, head, slower) == asked


def judged(name: str) -> Verdict:
    if name in RECORDED:
        return decided(RECORDED[name][0], around(0.3, 0.01), GPU)
    base, head = LIVE[name][0]()
    slower = seconds(head) / seconds(base) - 1
    return decided(side(head), around(max(slower, 0.05), 0.01), side(base))


@pytest.mark.parametrize("name", [*LIVE, *RECORDED])
def test_nine_of_ten_planted_faults_have_their_cause_first(name):
    result, truth = judged(name), (LIVE | RECORDED)[name][1]
    assert result.word == "regressed"
    assert result.cause == ("instructions" if name == "reading across rows" else truth), result.why


@pytest.mark.slow  # imports the compiler
@pytest.mark.parametrize("name", COMPILED)
def test_two_more_faults_are_the_compiler_s(name):
    base, head = COMPILED[name][0]()
    result = decided(side(head, 1), around(1.0, 0.01), side(base, 1))
    assert (result.word, result.cause) == ("regressed", COMPILED[name][1]), result.why


def test_the_cause_stands_first():
    head = replace(with_counter(launches=7), kernels={**SIDE.kernels, "aten::clone": 3}, peak_bytes=20_000_000)
    slower = decided(head, around(0.3, 0.01))
    assert "12 pairs; likely from launches: 3 more kernel launches: aten::clone x3; peak memory 2x" in slower.why
    assert (slower.word, slower.cause) == ("regressed", "launches")


def test_what_explains_too_little_is_no_first_cause():
    many = Side({"launches": 1000, "flops": 100}, None, None)
    more = Side({"launches": 1001, "flops": 200}, None, None)
    assert decided(more, around(1.0, 0.01), many).cause == "instructions"
    assert decided(more, around(0.0), many).cause == "launches"  # no time says otherwise


@pytest.mark.parametrize(("head", "cause"), [
    (with_counter(host_syncs=1, memcpys=1), "the host"), (with_counter(recompiles=1, launches=9), "compile"),
    (replace(SIDE, compile_seconds=90.0), "compile"), (replace(SIDE, kernels={"math": 4}), "instructions"),
    (replace(SIDE, peak_bytes=30_000_000), "bytes"), (SIDE, None)])
def test_counters_name_their_cause(head, cause):
    result = decided(head, around(0.4, 0.01), base=replace(SIDE, compile_seconds=9.0))
    assert (result.word, result.cause) == ("regressed", cause)
    assert ("nothing that is counted moved" in result.why) == (cause is None)


def test_what_did_not_regress_has_no_cause():
    assert decided(with_counter(operators=40)).cause is None
    assert decided(with_counter(launches=7), around(-0.3, 0.01)).cause is None


def test_two_that_fit_only_one_by_one_have_a_cause_too():
    missing = "out of memory"
    result = decided(replace(with_counter(launches=5), missing=missing), [], replace(SIDE, missing=missing))
    assert (result.why, result.cause) == ("not timed; likely from launches: 1 more kernel launch; out of memory",
                                          "launches")


# What a GPU launched, of thirteen faults planted on an H200: base, head. The records have their seconds and what ncu
# read; the rules were made with the first seven at hand, and asked of the others as they were.
PLANTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an operand that lies across": ({}, {}),
    "a pipeline so deep that one block fits": ({"shared": 24576, "occupancy": 31.2},
                                               {"shared": 139264, "occupancy": 6.2}),
    "registers that spill": ({"registers": 255, "spills": 0, "occupancy": 12.5},
                             {"registers": 40, "spills": 690, "occupancy": 15.6}),
    "blocks of one head far apart": ({"code": "aa"}, {"code": "bb"}),
    "products in float32": ({"registers": 82, "shared": 24576, "occupancy": 31.2},
                            {"registers": 166, "shared": 57344, "occupancy": 18.8}),
    "the hidden half not skipped": ({"registers": 82}, {"registers": 94}),
    "one pipeline stage": ({"stages": 3, "shared": 114688}, {"stages": 1, "shared": 32768}),
    "an operand in float32": ({}, {}),
    "tiles half as wide": ({"registers": 82, "shared": 24576, "occupancy": 31.2},
                           {"registers": 72, "shared": 16384, "occupancy": 43.8}),
    "exponentials in more steps": ({"registers": 82}, {"registers": 96}),
    "a mask that is read across": ({"registers": 90, "shared": 28672, "occupancy": 31.2},
                                   {"registers": 139, "shared": 32768, "occupancy": 18.8}),
    "a mask in float32": ({"registers": 90, "shared": 28672}, {"registers": 96, "shared": 32768}),
    "small tiles": ({"registers": 255, "shared": 114688, "occupancy": 12.5},
                    {"registers": 80, "shared": 13312, "occupancy": 37.5}),
}
# These have bytes for a cause and are taken for instructions, the second two only where ncu was not asked.
MISSED = {"an operand in float32", "a mask that is read across"}
UNREAD = MISSED | {"a mask in float32", "blocks of one head far apart"}
FOLDER = Path(__file__).parents[1] / "records/h200-2026-12-01"
RECORDS = [FOLDER / "causes.jsonl.gz", FOLDER / "causes-2.jsonl.gz"]


def of_record(seconds: dict[str, float], facts: dict[str, Any], metrics: dict[str, float]) -> Side:
    kernels = dict.fromkeys((name for name in seconds if not name.startswith("Mem")), 1)
    launches = tuple({"kernel": name, **facts} for name in kernels)
    return Side({"launches": len(kernels)}, None, None, kernels=kernels, launches=launches, seconds=seconds,
                metrics=metrics)


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("name", PLANTED)
def test_eleven_of_thirteen_faults_recorded_on_an_h200_are_ranked_right(name, asked):
    lines = [json.loads(line) for record in RECORDS for line in gzip.decompress(record.read_bytes()).splitlines()]
    [line] = [line for line in lines if line.get("fault") == name and line["ncu"] == asked]
    base, head = map(of_record, line["kernels"], PLANTED[name], (line["base"], line["head"]))
    result = decided(head, around(line["ratio"] - 1, 0.001), base)
    missed = name in (MISSED if asked else UNREAD)
    assert result.cause == ("instructions" if missed else line["truth"]), result.why
    assert missed == (result.cause != line["truth"])
    assert unclear(changes(base, head, T), base, head, line["ratio"] - 1)  # so ncu would be asked


def launched(**microseconds: float) -> Side:
    return replace(SIDE, counters={"launches": len(microseconds)}, kernels=dict.fromkeys(microseconds, 1),
                   seconds={name: value * 1e-6 for name, value in microseconds.items()})


EAGER = launched(bf16_product=100, softmax=50)
SPLIT = launched(triton_poi_fused_add_0=40, triton_poi_fused_mul_1=40, triton_per_fused_sum_2=10)


@pytest.mark.parametrize(("base", "head", "slower", "cause"), [
    (EAGER, launched(cast=5, fp32_product=900, softmax=50), 5.3, "instructions"),  # its cast is no cause
    (EAGER, launched(bf16_product=100, softmax=50, copy=60), 0.4, "launches"),
    (launched(triton_poi_fused_add_mul_0=40, triton_per_fused_sum_1=10), SPLIT, 0.8, "launches")])
def test_a_slower_kernel_in_place_of_another_is_no_launch_more(base, head, slower, cause):
    result = decided(head, around(slower, 0.01), base)
    assert (result.word, result.cause) == ("regressed", cause), result.why


def profiled(**microseconds: float) -> Side:
    return replace(SIDE, counters={"operators": 4}, kernels=dict.fromkeys(microseconds, 2),
                   seconds={name: value * 1e-6 for name, value in microseconds.items()})


@pytest.mark.parametrize(("head", "slower", "why"), [
    (profiled(bmm=200, add=50), 0.6, "likely from instructions: bmm takes 2x as long"),
    (profiled(bmm=105, add=52), 0.6, "likely from the host: the operators take the same time"),
    (profiled(bmm=112, add=52), 0.1, "nothing that is counted moved")])  # profiles differ by as much
def test_profiles_tell_kernels_from_the_rest_of_a_call(head, slower, why):
    assert why in decided(head, around(slower, 0.01), profiled(bmm=100, add=50)).why
    assert decided(head, around(math.expm1(0.01), 0.01), profiled(bmm=100, add=50)).word == "ok"
