"""Figures without noise: which of them gate, which are told, and how."""
from __future__ import annotations

import math
from dataclasses import replace

import pytest

from perf.tests.sides import CPU, GPU, ON_CPU, SIDE, around, decided, with_counter
from perf.verdict import exact
from perf.verdict.verdict import Side, Thresholds, decide
from perf.verdict.words import NAMES, short

COPY = ("void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<at::native::"
        "direct_copy_kernel_cuda(at::TensorIteratorBase&)::{lambda()#3}")


@pytest.mark.parametrize("name", ["launches", "memcpys", "memsets", "host_syncs", "graph_breaks", "recompiles",
                                  "compiled_regions"])
def test_one_more_of_these_is_a_regression_whatever_the_time(name):
    more = with_counter(**{name: GPU[name] + 1})
    assert decided(more).word == "regressed"
    assert decided(more, around(0.03, 0.2)).word == "regressed"
    assert "1 more " in decided(more).why


@pytest.mark.parametrize("name", ["operators", "autograd_nodes"])
def test_of_these_a_gpu_is_told(name):
    result = decided(with_counter(**{name: GPU[name] + 2}))
    assert result.word == "ok"
    assert "2 more " in result.why


def test_every_exact_counter_is_compared_and_none_is_made_up():
    known = {*exact.DEVICE, *exact.ANY, exact.REGIONS, *exact.SIZES, *exact.NO_GATE, "operators"}
    assert known == NAMES.keys()
    for name in known:
        one, other = (replace(SIDE, counters={**GPU, name: value}, peak_bytes=None) for value in (5, 9))
        assert exact.changes(one, other, Thresholds()), name
        assert not exact.changes(one, one, Thresholds()), name


@pytest.mark.parametrize(("old", "new", "word"), [
    (20.0, 41.0, "regressed"), (20.0, 29.0, "ok"), (1.0, 3.0, "ok"), (41.0, 20.0, "improved"), (None, 90.0, "ok")])
def test_compile_seconds_gate_apart_from_run_time(old, new, word):
    base, head = replace(SIDE, compile_seconds=old), replace(SIDE, compile_seconds=new)
    result = decide(around(0.0), base, head, Thresholds())
    assert result.word == word
    assert ("compiles in" in result.why) == (word != "ok")
    if word == "regressed":
        assert result.why.endswith("compiles in 41.0 s, was 20.0 s (2.05x)")
        assert decide(around(-0.5), base, head, Thresholds()).word == "regressed"  # no faster run pays for it
        assert decide(around(0.0), base, head, Thresholds(compile_factor=3.0)).word == "ok"


def test_fewer_is_an_improvement_once_the_time_is_known_to_be_no_worse():
    fused = with_counter(launches=1)
    assert decided(fused).word == "improved"
    assert decided(fused).why.endswith("3 fewer kernel launches")
    assert decided(fused, around(0.03, 0.04)).word == "inconclusive"
    assert decided(fused, around(0.1)).word == "regressed"


def test_what_is_worse_outweighs_what_is_better():
    result = decided(with_counter(launches=3, host_syncs=1))
    assert result.word == "regressed"
    assert result.why.index("1 more wait of the host") < result.why.index("1 fewer kernel launch")


def test_a_copy_instead_of_a_launch_is_no_more_work():
    assert decided(with_counter(launches=3, memcpys=1)).word == "ok"
    assert decided(with_counter(launches=3, memcpys=2)).word == "regressed"
    assert decided(with_counter(launches=2, memcpys=1)).word == "improved"


def test_more_work_that_pays_is_forgiven_and_nothing_else_is():
    faster = around(-0.2)
    assert decided(with_counter(launches=5), faster).word == "improved"
    assert "1 more kernel launch" in decided(with_counter(launches=5), faster).why
    assert decided(with_counter(host_syncs=1), faster).word == "regressed"
    assert decided(replace(SIDE, peak_bytes=20_000_000), faster).word == "regressed"


def test_compiled_regions():
    def of(base: int, head: int) -> str:
        return decided(with_counter(compiled_regions=head), base=with_counter(compiled_regions=base)).word

    assert of(1, 2) == "regressed"  # a graph break
    assert of(0, 1) == "ok"  # newly compiled
    assert of(2, 1) == "ok"
    assert of(1, 0) == "ok"  # by hand now: launches and time judge it


@pytest.mark.parametrize(("bytes_", "word", "why"), [
    (10_050_000, "ok", "peak memory 1.005x (50.0 kB more)"), (10_100_000, "regressed", "1.01x (100.0 kB more)"),
    (12_500_000, "regressed", "peak memory 1.25x (2.5 MB more)"),
    (5_000_000, "improved", "peak memory 0.5x (5.0 MB less)"), (9_990_000, "ok", "10.0 kB less")])
def test_memory_gates_from_one_percent(bytes_, word, why):
    result = decided(replace(SIDE, peak_bytes=bytes_))
    assert result.word == word
    assert why in result.why


def test_memory_where_there_was_none():
    result = decided(replace(SIDE, peak_bytes=512), base=replace(SIDE, peak_bytes=0))
    assert result.word == "regressed"
    assert "peak memory: 512 B more" in result.why


def test_model_bytes_and_flops_gate_too():
    base = with_counter(kept_bytes=10 ** 9, flops=10 ** 12)
    assert decided(with_counter(base, kept_bytes=2 * 10 ** 9), base=base).word == "regressed"
    result = decided(with_counter(base, flops=15 * 10 ** 11), base=base)
    assert (result.word, result.why[-25:]) == ("regressed", "FLOPs 1.5x (500.0 G more)")


def test_what_only_one_side_counted_is_not_compared():
    assert decided(with_counter(kept_bytes=9)).word == "ok"
    assert decided(replace(SIDE, error=None, peak_bytes=None)).why == decided(SIDE).why


@pytest.mark.parametrize(("base", "head", "word"), [
    (1e-3, 1.49e-3, "ok"), (1e-3, 1.51e-3, "regressed"), (1e-3, 2e-4, "ok"), (0.0, 1e-9, "regressed"), (0.0, 0.0, "ok"),
    (1e-3, math.nan, "regressed"), (1e-3, math.inf, "regressed")])
def test_the_error_gates_from_half_as_much_again(base, head, word):
    result = decided(replace(SIDE, error=head), base=replace(SIDE, error=base))
    assert result.word == word


def test_the_error_is_told():
    assert "error 2x: 0.002" in decided(replace(SIDE, error=2e-3)).why
    assert "error 0.2x: 0.0002" in decided(replace(SIDE, error=2e-4)).why
    assert "error 1e-09, was exactly 0" in decided(replace(SIDE, error=1e-9), base=replace(SIDE, error=0.0)).why


def on_cpu(**kernels: int) -> Side:
    names = {**ON_CPU.kernels, **{f"aten::{name}": count for name, count in kernels.items()}}
    return replace(ON_CPU, counters={**CPU, "operators": sum(names.values())}, kernels=names)


def test_a_needless_clone_on_a_cpu():
    result = decided(on_cpu(clone=1, copy_=1, empty_like=1), base=ON_CPU)
    assert result.word == "regressed"
    assert result.why.endswith("1 more operator: aten::clone, aten::copy_")


def test_views_take_no_time():
    result = decided(on_cpu(view=13, transpose=2), base=ON_CPU)
    assert result.word == "ok"
    assert "kernels: aten::transpose x2, aten::view x3" in result.why


def test_fewer_operators_that_work_are_an_improvement():
    assert decided(ON_CPU, base=on_cpu(clone=1, copy_=1)).word == "improved"


def test_without_names_every_operator_counts():
    base, head = (Side({"operators": count}, None, None) for count in (12, 13))
    assert decided(head, base=base).word == "regressed"
    assert decided(base, base=head).word == "improved"


def test_other_kernels_are_named():
    result = decided(replace(SIDE, kernels={"flash_fwd": 2, "cutlass_gemm": 2}))
    assert result.word == "ok"
    assert result.why.endswith("other kernels: cutlass_gemm x2 for gemm x2")


def test_only_a_few_kernels_are_named():
    names = {f"kernel_{i}": 1 for i in range(9)}
    result = decided(replace(with_counter(launches=13), kernels={**SIDE.kernels, **names}))
    assert result.why.endswith("9 more kernel launches: kernel_0, kernel_1, kernel_2 and 6 more")


@pytest.mark.parametrize(("name", "said"), [
    ("aten::clone", "aten::clone"), ("CompiledFxGraph", "CompiledFxGraph"), (COPY, "direct_copy_kernel_cuda"),
    ("flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64>, true>(Params)", "flash_fwd_kernel"),
    ("at::native::vectorized_elementwise_kernel<4, at::native::BinaryFunctor<float, float, float, "
     "at::native::binary_internal::MulFunctor<float> >, std::array<char*, 3ul> >", "MulFunctor"),
    ("at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, std::array<", "CUDAFunctor_add"),
    ("at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::func_wrapper_t<float, at::native::"
     "MaxNanFunctor<float> >, unsigned int", "MaxNanFunctor"),
    ("void (anonymous namespace)::softmax_warp_forward<float, float>(float*)", "softmax_warp_forward"),
    ("triton_poi_fused_add_0", "triton_poi_fused_add_0")])
def test_short_names_of_kernels(name, said):
    assert short(name) == said
