"""Each backend shows the kernels it declares, and eager in its place does not."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import attention
from attention.backends import sdpa
from attention.backends.base import PLAIN
from attention.backends.eager import eager
from attention.backends.fused import fused
from attention.registry import variant
from attention.testing import inputs
from attention.tests.options import fixed
from perf.bench.kernels import keep_buffers
from perf.measure.counters import count
from perf.measure.evidence import load
from perf.measure.kernels import wrong_kernel
from perf.workloads.workload import Workload

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PHASES = ("forward", "backward", "forward-backward")
RECORD = Path(__file__).parents[1] / "records" / "h100-2026-11-26"  # names that a GPU showed
CELL = Workload("attention", "softmax", "eager", "forward", True, 1, 2, 2, 64, 64, 64,
                "bf16" if DEVICE.type == "cuda" else "fp32")
NAMES = attention.names(device=DEVICE.type)
SAME = {"sdpa-math": ("backward",), "checkpointed": ("forward", "forward-backward")}  # names as eager's


def own(names):
    """Lists the variants that are told from eager by what they run: an approximation, or a function with weights, has
    products of its own."""
    return [name for name in names if variant(name).backend.kernels is not PLAIN
            and variant(name).function.kind != "approximate" and variant(name).function.parameters is None]


OWN, OWN_ON_A_GPU = own(NAMES), own(attention.names())


def each(names):
    return pytest.mark.parametrize("name", [
        pytest.param(name, marks=pytest.mark.slow if variant(name).backend.compiled else ()) for name in names])


def ran(w: Workload, attend=None) -> set[str]:
    """Returns the names that a warm call of `w` shows; `attend` takes the place of its backend's."""
    module = attention.create(w.variant, heads=w.heads, kv_heads=w.kv_heads, head_dim=w.head_dim, seq_len=w.m,
                              causal=w.causal, device=DEVICE, dtype=attention.DTYPES[w.dtype],
                              **fixed(w.function))
    if attend is not None:
        module._attend = attend
    q, k, v = inputs(batch=w.batch, heads=w.heads, kv_heads=w.kv_heads, n=w.n, m=w.m, head_dim=w.head_dim,
                     dtype=attention.DTYPES[w.dtype], device=DEVICE, grad=w.phase != "forward")
    if w.phase == "backward":
        keep_buffers()
        out = module(q, k, v)

        def call():
            return torch.autograd.grad(out, (q, k, v), torch.ones_like(q), retain_graph=True, allow_unused=True)
    elif w.phase == "forward-backward":
        def call():
            return torch.autograd.grad(module(q, k, v), (q, k, v), torch.ones_like(q), allow_unused=True)
    else:
        def call():
            return module(q, k, v)
        call = torch.no_grad()(call)
    call()
    return set(count(call, DEVICE).kernels)


def eager_for(w: Workload):
    """Puts eager's kernel where that of `w` was; `fused` has the whole function in its hands, which then runs as it
    is."""
    if variant(w.variant).backend is fused:
        return lambda compute, inner, *qkv, **told: compute(eager.attend(), *qkv, **told)
    return eager.attend()


def cell(name: str, phase: str) -> Workload:
    """Returns the workload of a variant, or a skip where it can't be."""
    function, _, backend = name.partition(":")
    w = replace(CELL, function=function, backend=backend, phase=phase, n=1 if function == "decode" else CELL.n,
                causal=attention.registry.function(function).causal)
    if reason := attention.why_not(name, device=DEVICE, dtype=attention.DTYPES[w.dtype], heads=w.heads,
                                   head_dim=w.head_dim, n=w.n, causal=w.causal, grad=phase != "forward",
                                   **fixed(function)):
        pytest.skip(reason)
    return w


@pytest.mark.parametrize("phase", PHASES)
@each(NAMES)
def test_a_backend_shows_the_kernels_it_declares(name, phase):
    w = cell(name, phase)
    assert wrong_kernel(ran(w), w, DEVICE.type) is None


def test_every_backend_with_names_of_its_own_is_swapped():
    assert {name.partition(":")[2] for name in OWN} == {
        name.partition(":")[2] for name in NAMES if variant(name).backend.kernels is not PLAIN}


@pytest.mark.parametrize("phase", PHASES)
@each(OWN)
def test_eager_in_its_place_is_an_error(name, phase):
    w = cell(name, phase)
    if phase in SAME.get(w.backend, ()):
        pytest.skip("it is made of the same operators as eager's")
    result = wrong_kernel(ran(w, eager_for(w)), w, DEVICE.type)
    assert result is not None
    assert result.startswith(f"{name} ({phase}) ran ")
    assert "softmax" in result
    assert "\n" not in result


def test_a_fused_kernel_in_eager_s_place_is_an_error():
    result = ran(CELL, sdpa.flash.attend())
    assert wrong_kernel(ran(CELL), CELL, DEVICE.type) is None
    assert "flash" in (wrong_kernel(result, CELL, DEVICE.type) or "")


@pytest.mark.parametrize(("asked", "other"), [(sdpa.flash, sdpa.math), (sdpa.math, sdpa.flash), (sdpa.sdpa, sdpa.math)],
                         ids=["flash", "math", "own choice"])
def test_an_sdpa_call_that_lands_on_another_kernel_is_an_error(asked, other):
    w = replace(CELL, backend=asked.name)
    assert wrong_kernel(ran(w), w, DEVICE.type) is None
    result = wrong_kernel(ran(w, other.attend()), w, DEVICE.type) or ""
    assert result.startswith(f"softmax:{asked.name} (forward) ran ")
    assert "attention" in result or "softmax" in result


@pytest.mark.slow
def test_flex_past_its_recompile_limit_is_caught_by_its_names():
    """Compiled without `fullgraph`, as the documentation shows it, FlexAttention goes dense without a word."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)

    def call(n):
        return torch.no_grad()(lambda: compiled(*inputs(batch=1, heads=2, n=n, head_dim=32, device=DEVICE)))

    w = replace(CELL, backend="flex")
    with torch._dynamo.config.patch(recompile_limit=1):
        for n, fine in ((32, True), (64, False)):
            call(n)()
            result = wrong_kernel(count(call(n), DEVICE).kernels, w, DEVICE.type)
            assert (result is None) == fine
    ran, _, expected = (result or "").partition("; expected a kernel matching ")
    assert ran.startswith("softmax:flex (forward) ran ")
    assert "softmax" in ran
    assert expected == variant("softmax:flex").backend.kernels[DEVICE.type].forward[0]


# Names in a forward pass on an H200 (torch 2.11, causal softmax, head_dim 64, bf16), and those that a backward pass
# adds, cut short; what they have in common (copies, elementwise kernels) is left out.
RECORDED: dict[str, tuple[list[str], list[str]]] = {
    "eager": (
        ["nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_TNT",
         "(anonymous namespace)::softmax_warp_forward<float, float, float, 10, false, fals"],
        ["nvjet_sm90_tst_64x64_64x13_1x2_h_bz_NTT",
         "(anonymous namespace)::softmax_warp_backward<float, float, float, 10, false, fal"]),
    "sdpa-math": (
        ["sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize64x64x8_stage3_warpsize1x4x1_ffma_",
         "(anonymous namespace)::softmax_warp_forward<float, float, float, 10, false, fals",
         "at::native::vectorized_elementwise_kernel<4, at::native::(anonymous namespace)::isneginf_kernel_impl(at:"],
        ["cutlass::Kernel2<cutlass_80_simt_sgemm_64x64_8x5_nt_align1>(cutlass_80_simt_sgem",
         "(anonymous namespace)::softmax_warp_backward<float, float, float, 10, false, fal"]),
    "sdpa-flash": (
        ["pytorch_flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<64, 64, 256, 4, ",
         "pytorch_flash::flash_fwd_splitkv_combine_kernel<Flash_fwd_kernel_traits<64, 64, "],
        ["pytorch_flash::flash_bwd_dot_do_o_kernel<true, Flash_bwd_kernel_traits<64, 128, ",
         "pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<Flash_bwd_kernel_tra"]),
    "sdpa-efficient": (
        ["fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel"],
        ["fmha_cutlassB_bf16_aligned_64x64_k64_seqaligned_sm80(PyTorchMemEffAttention::Att"]),
    "sdpa-cudnn": (
        ["cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x64_4x1"],
        ["cudnn::fusion::compute_dot_do_o_specialized<true, 64>(void const*, void const*, ",
         "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26_64x64x64_1x4",
         "cudnn::fusion::convert_dq_to_16bits<true>(void const*, void*, unsigned int, unsi"]),
    "fa2": (
        ["flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<64, 64, 256, 4, false, f",
         "flash::flash_fwd_splitkv_combine_kernel<Flash_fwd_kernel_traits<64, 64, 256, 4, "],
        ["flash::flash_bwd_dot_do_o_kernel<true, Flash_bwd_kernel_traits<64, 128, 128, 8, ",
         "flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<Flash_bwd_kernel_traits<64, "]),
    "flex": (
        ["triton_tem_fused_flex_attention_0"],
        ["triton_per_fused_flex_attention_backward_0",
         "triton_tem_fused_flex_attention_backward_1"]),
    "tiled": (
        ["nvjet_sm90_tss_128x128_64x6_2x1_v_bz_TNT",
         "at::native::vectorized_elementwise_kernel<4, at::native::exp_kernel_cuda(at::Ten",
         "nvjet_sm90_tss_64x48_64x15_1x4_h_bz_NNT"],
        ["nvjet_sm90_tss_32x64_64x16_2x1_v_bz_NTN"]),
}
TORCH_FUSED = {"sdpa-flash", "sdpa-efficient", "sdpa-cudnn"}
COMMON = ["at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>, std::array<char*, 1ul> >"]


def recorded(backend: str, phase: str) -> set[str]:
    forward, backward = RECORDED[backend]
    return {"forward": {*COMMON, *forward}, "backward": {*COMMON, *backward},
            "forward-backward": {*COMMON, *forward, *backward}}[phase]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("asked", ["sdpa", *RECORDED])
def test_on_a_gpu_no_backend_passes_for_another(asked, phase):
    w = replace(CELL, backend=asked, phase=phase, dtype="bf16")
    accepted = {other for other in RECORDED if wrong_kernel(recorded(other, phase), w, "cuda") is None}
    if asked == "sdpa":
        assert accepted == TORCH_FUSED
    elif asked == "eager":  # plain products, whoever makes them
        assert accepted == {"eager", "sdpa-math", "tiled"}
    elif (asked, phase) == ("sdpa-math", "backward"):
        assert accepted == {"sdpa-math", "eager"}
    else:
        assert accepted == {asked}


@pytest.mark.parametrize(("kind", "dense_is_fine"), [
    ({}, False), ({"dtype": "fp64"}, True), ({"dtype": "fp32"}, False), ({"head_dim": 59}, True),
    ({"head_dim": 40}, False), ({"kv_heads": 1}, False), ({"kv_heads": 1, "dtype": "fp32"}, True)], ids=str)
def test_sdpa_may_be_dense_only_where_no_fused_kernel_takes_the_call(kind, dense_is_fine):
    w = replace(CELL, **{"backend": "sdpa", "dtype": "bf16", **kind})
    assert (wrong_kernel(recorded("sdpa-math", "forward"), w, "cuda") is None) == dense_is_fine
    assert wrong_kernel(recorded("sdpa-efficient", "forward"), w, "cuda") is None
    assert wrong_kernel(recorded("eager", "forward"), w, "cuda") is not None


def test_half_a_fallback_is_an_error():
    """The forward pass fused and the backward dense, or dense kernels beside the fused one."""
    w = replace(CELL, backend="fa2", phase="forward-backward", dtype="bf16")
    half = recorded("fa2", "forward") | recorded("eager", "backward")
    assert "expected a kernel matching (?<!pytorch_)flash::flash_bwd" in (wrong_kernel(half, w, "cuda") or "")
    beside = recorded("fa2", "forward-backward") | recorded("eager", "forward")
    assert "expected none matching" in (wrong_kernel(beside, w, "cuda") or "")


def test_a_model_has_products_of_its_own():
    result = recorded("fa2", "forward") | recorded("eager", "forward")
    w = replace(CELL, backend="fa2", dtype="bf16")
    assert wrong_kernel(result, w, "cuda") is not None
    model = replace(w, model="distilgpt2", phase="prefill")
    assert wrong_kernel(result, model, "cuda") is None
    assert wrong_kernel(recorded("eager", "forward"), model, "cuda") is not None
    training = replace(model, phase="train-step")
    assert wrong_kernel(result, training, "cuda") is not None
    assert wrong_kernel(result | recorded("fa2", "backward"), training, "cuda") is None


def test_the_message_names_both_in_one_line():
    w = replace(CELL, backend="flex", dtype="bf16")
    assert wrong_kernel(recorded("eager", "forward"), w, "cuda") == (
        "softmax:flex (forward) ran nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_TNT, softmax_warp_forward; "
        r"expected a kernel matching triton_tem\w*flex_attention(?!_backward)")
    assert "ran nothing that the profiler saw" in (wrong_kernel([], w, "cuda") or "")


def test_many_names_are_cut_short():
    result = wrong_kernel({f"nvjet_{i}" for i in range(9)}, replace(CELL, backend="flex"), "cuda") or ""
    assert "nvjet_4 and 4 more; expected" in result


def test_a_backend_that_declares_nothing_is_left_alone(monkeypatch):
    monkeypatch.setattr(type(eager), "kernels", {})
    assert wrong_kernel(["anything"], CELL, DEVICE.type) is None


def test_what_a_gpu_ran_is_told_from_its_eager():
    """The names in the record of an H100, each row's own and eager's in its place, flash-attn's kernels included."""
    rows = [row for name in ("default-grid", "field-3") for row in load(RECORD / f"{name}.jsonl.gz")
            if row.outcome == "ok" and row.workload.bare and row.workload.variant != "sinks:fa2"]  # which is no more
    eagers = {(row.workload.function, row.workload.phase): set(row.kernels) for row in rows
              if row.workload.backend == "eager"}
    swapped = set()
    for row in rows:
        w, names = row.workload, eagers.get((row.workload.function, row.workload.phase))
        assert wrong_kernel(set(row.kernels), w, "cuda") is None
        if names and w.variant in OWN_ON_A_GPU and w.phase not in SAME.get(w.backend, ()):
            assert wrong_kernel(names, w, "cuda") is not None, w.id
            swapped.add(w.backend)
    assert swapped >= {"sdpa", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "sdpa-math", "flex", "fa2", "fa2-paged",
                       "tiled", "nested", "fused"}
