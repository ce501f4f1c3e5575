"""Tests how kernels were launched and what code they are, from made-up records: no GPU is needed."""
from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from perf.measure.compiled_code import launches, with_code, with_occupancy
from perf.policy.thresholds import Thresholds
from perf.tests.sides import SIDE, around, decided
from perf.verdict.exact import changes

FLASH = {"kernel": "flash_fwd_kernel<64>", "grid": [64, 8, 1], "block": [128, 1, 1], "registers": 168, "shared": 49152,
         "occupancy": 18.8}
FLEX = {"kernel": "triton_tem_fused_0", "grid": [32, 8, 1], "block": [128, 1, 1], "registers": 168, "shared": 65536,
        "code": "aa", "spills": 0, "stages": 3, "warps": 4, "tile": {"BLOCK_M": 128, "BLOCK_N": 64}}
METADATA: dict[str, Any] = {"registers per thread": 168, "shared memory": 49152, "grid": [64, 8, 1],
                            "block": [128, 1, 1], "stream": 7, "correlation": 42}
H200 = SimpleNamespace(warp_size=32, max_threads_per_multi_processor=2048, multi_processor_count=132,
                       shared_memory_per_multiprocessor=228 * 1024)


class Record:
    """Stands for what the profiler gives, with a trace of these events."""

    def __init__(self, *events: dict[str, Any]) -> None:
        self.events = events

    def save(self, path: str) -> None:
        Path(path).write_text(json.dumps({"traceEvents": self.events}))


def event(name: str, at: float, category: str = "kernel", **facts: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": category, "name": name, "ts": at, "args": facts}


def test_kernels_are_read_in_the_order_in_which_they_ran() -> None:
    record = Record({"ph": "M", "name": "process_name"}, event("void second", 20.5, **METADATA),
                    event("void flash_fwd_kernel<64>", 10.0, **METADATA), event("Memcpy DtoD", 1.0, "gpu_memcpy"),
                    event("aten::mm", 2.0, "cpu_op"), event("unknown", 4.0))
    assert with_occupancy(launches(record), H200) == [FLASH, {**FLASH, "kernel": "second"}]
    unknown = [{"kernel": "of a trace without facts", "grid": [1, 1, 1]}]
    assert with_occupancy(unknown, H200) == unknown


@pytest.mark.parametrize(("registers", "shared", "threads", "grid", "percent"), [
    (82, 24576, 128, 2048, 31), (255, 20480, 32, 4096, 13), (40, 20480, 32, 4096, 16), (255, 32768, 128, 2048, 13),
    (24, 512, 128, 1024, 48), (16, 64, 64, 4096, 97),
    (82, 139264, 128, 2048, 6), (166, 57344, 128, 2048, 19)])  # these two were 0 to the profiler
def test_occupancy_is_what_the_profiler_told_on_an_h200(registers, shared, threads, grid, percent) -> None:
    launch = {"registers": registers, "shared": shared, "block": [threads, 1, 1], "grid": [grid, 1, 1]}
    [one] = with_occupancy([launch], H200)
    assert one["occupancy"] == pytest.approx(percent, abs=0.5)


def test_the_trace_of_this_torch_is_read() -> None:
    with torch.autograd.profiler.profile(use_kineto=True) as profile:
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert launches(profile.kineto_results) == []  # a CPU launches no kernels


class CompiledKernel:
    """Stands for Triton's class of the same name."""

    def __init__(self, name: str, code: str, **facts: Any) -> None:
        self.name, self.hash, self.n_regs, self.n_spills = name, code, facts.get("registers"), facts.get("spills")
        self.metadata = SimpleNamespace(name=name, num_stages=2, num_warps=8)


class TritonCompileResult:
    """Stands for the class of the same name in inductor's tuner."""

    def __init__(self, kernel: CompiledKernel, **tile: int) -> None:
        self.kernel, self.config = kernel, SimpleNamespace(num_stages=3, num_warps=4, kwargs=tile)


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace())


def test_the_code_of_a_kernel_is_found_by_its_name_and_its_registers(triton: None) -> None:
    alive = [TritonCompileResult(CompiledKernel("triton_tem_fused_0", "aa", registers=168, spills=0), BLOCK_M=128,
                                 BLOCK_N=64),
             TritonCompileResult(CompiledKernel("triton_tem_fused_0", "bb", registers=255, spills=12), BLOCK_M=128,
                                 BLOCK_N=128)]
    bare = {name: FLEX[name] for name in ("kernel", "grid", "block", "registers", "shared")}
    result = with_code([bare, FLASH])
    assert {**result[0], "tile": FLEX["tile"], "stages": 3, "warps": 4} == FLEX
    assert result[1] == FLASH
    assert alive


def test_two_codes_that_look_alike_are_not_told_apart(triton: None) -> None:
    alive = [CompiledKernel("fused", code, registers=168) for code in ("aa", "bb")]
    assert with_code([{"kernel": "fused", "registers": 168}]) == [{"kernel": "fused", "registers": 168}]
    assert alive


def test_without_triton_nothing_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    assert with_code([FLASH]) == [FLASH]


@pytest.mark.parametrize(("change", "words"), [
    ({}, "kernels of the same names, launched alike"),
    ({"stages": 1, "code": "bb"}, "triton_tem_fused_0: stages 1 (was 3)"),
    ({"spills": 12, "registers": 255, "code": "bb"},
     "triton_tem_fused_0: spilled registers 12 (was 0), registers 255 (was 168)"),
    ({"tile": {"BLOCK_M": 64, "BLOCK_N": 64}, "grid": [64, 8, 1], "code": "bb"},
     "triton_tem_fused_0: tile BLOCK_M=64 BLOCK_N=64 (was BLOCK_M=128 BLOCK_N=64), grid 64 x 8 x 1 (was 32 x 8 x 1)"),
    ({"warps": 8, "block": [256, 1, 1], "code": "bb"},
     "triton_tem_fused_0: warps 8 (was 4), block 256 x 1 x 1 (was 128 x 1 x 1)"),
    ({"shared": 131072, "code": "bb"}, "triton_tem_fused_0: shared bytes 131072 (was 65536)"),
    ({"code": "bb"}, "triton_tem_fused_0: other code")])
def test_how_two_launches_differ_is_told_and_does_not_gate(change: dict[str, Any], words: str) -> None:
    base, head = replace(SIDE, launches=(FLASH, FLEX)), replace(SIDE, launches=(FLASH, {**FLEX, **change}))
    [result] = changes(base, head, Thresholds())
    assert (result.words, result.sign) == (words, 0)
    assert decided(head, around(0, 0.001), base).word == "ok"
    slower = decided(head, around(0.2), base)
    assert slower.word == "regressed"
    assert slower.why.endswith(words)


def test_only_kernels_whose_code_was_compared_are_the_same() -> None:
    side = replace(SIDE, launches=(FLEX,))
    assert [one.words for one in changes(side, side, Thresholds())] == [
        "the same kernels, launched alike"]


def test_what_came_and_went_is_told_by_name_alone() -> None:
    base, head = replace(SIDE, launches=(FLASH,)), replace(SIDE, launches=(FLEX,))
    assert changes(base, head, Thresholds()) == []
    assert changes(SIDE, head, Thresholds()) == []  # one of them told nothing
