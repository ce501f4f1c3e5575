"""Backends declare the kernels they run. Tests in perf/ profile calls and check that these kernels ran."""
from __future__ import annotations

import re

import pytest
import torch

import attention
from attention.backends import base, sdpa
from attention.backends.base import Backend, Case
from attention.registry import variant

# This package's own: one that is tried out from another need not say what it runs, and is not held to it.
BACKENDS = {variant(name).backend.name: variant(name).backend for name in attention.names()
            if type(variant(name).backend).__module__.startswith("attention.")}
CPU = torch.device("cpu")


def case(**changes: object) -> Case:
    plain = {"device": "cuda", "dtype": torch.bfloat16, "heads": 4, "kv_heads": 4, "head_dim": 64, "n": 64, "m": 64,
             "causal": True, "grad": True, "key_mask": False}
    return Case(**{**plain, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_every_backend_declares_its_kernels_wherever_it_runs(backend: Backend) -> None:
    """The test needs neither a GPU nor the backend's package."""
    assert backend.kernels.keys() >= ({"cuda"} if backend.missing(CPU) else {"cpu", "cuda"})
    for declared in backend.kernels.values():
        assert declared.forward
        for pattern in (*declared.forward, *declared.backward, *declared.never):
            assert re.compile(pattern).search("") is None, "it matches anything"


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_a_backend_with_a_backward_pass_declares_that_too(backend: Backend) -> None:
    for device, declared in backend.kernels.items():
        assert declared.backward or backend.refuses(case(device=device))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_two_patterns_of_what_kernels_do_meet(device: str) -> None:
    """A name is a product, a softmax or a fused kernel, also where one's template arguments speak of another."""
    names = {"cpu": {"PRODUCT": ["aten::bmm", "aten::mm", "aten::addmm"],
                     "SOFTMAX": ["aten::_softmax", "aten::_softmax_backward_data"],
                     "FUSED": ["aten::_scaled_dot_product_flash_attention_for_cpu", "CompiledFxGraph"]},
             "cuda": {"PRODUCT": ["nvjet_sm90_tst_64x64_64x13_1x2_h_bz_NNT", "cutlass::Kernel2<cutlass_80_simt_sgemm>",
                                  "sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize64x64x8_stage3"],
                      "SOFTMAX": ["(anonymous namespace)::softmax_warp_forward<float, float>",
                                  "at::native::(anonymous namespace)::cunn_SoftMaxForward<4, float>"],
                      "FUSED": ["pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, cutlass::bfloat16_t>>",
                                "fmha_cutlassF_bf16_aligned_64x64_rf_sm80(AttentionKernel<cutlass::bfloat16_t>)",
                                "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16",
                                "triton_tem_fused_flex_attention_0"]}}[device]
    for what, examples in names.items():
        for pattern in names:
            matches = [re.search(getattr(base, pattern)[device], name) is not None for name in examples]
            assert matches == [pattern == what] * len(examples), (what, pattern)


@pytest.mark.parametrize(("changes", "dense_is_fine"), [
    ({}, False), ({"dtype": torch.float64}, True), ({"dtype": torch.float32}, False), ({"head_dim": 59}, True),
    ({"head_dim": 40}, False), ({"kv_heads": 2}, False), ({"kv_heads": 2, "dtype": torch.float32}, True),
    ({"device": "cpu", "dtype": torch.float64}, False)], ids=str)
def test_sdpa_may_be_dense_only_where_no_fused_kernel_takes_the_call(changes: dict, dense_is_fine: bool) -> None:
    expected, forced = sdpa.sdpa.expects(case(**changes)), sdpa.flash.expects(case(**changes))
    assert expected is not None
    assert ("isneginf_kernel" in expected.forward) == dense_is_fine
    assert forced == sdpa.flash.kernels[str(changes.get("device", "cuda"))]


def test_a_backend_need_not_declare_anything() -> None:
    assert Backend().expects(case()) is None
