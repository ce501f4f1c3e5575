"""Tests where the time of a call goes: shares of kernels, attention's part of a step, and which names are matrix
products."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

import attention
from attention.testing import inputs
from perf.bench.prepare import Preparer
from perf.measure import counters
from perf.measure.counters import count
from perf.measure.shares import ATTENTION, NODE, annotate, largest, product, shares, stands_out
from perf.tests.profiler_events import Event
from perf.workloads.workload import Workload

CPU = torch.device("cpu")
MODEL = Workload("gpt2-tiny", "softmax", "eager", "train-step", True, 2, 4, 4, 64, 64, 16, "fp32")


def event(called: str, start: int, took: int, **fields: Any) -> Event:
    return Event(called, start=start, took=took, **fields)


def operator(one: Any) -> str | None:
    return one.called if one.called.startswith("aten::") else None


def kernel(one: Any) -> str | None:
    return one.called if one.device == DeviceType.CUDA and not one.annotation else None


def test_an_operator_has_the_time_that_those_it_calls_leave():
    result = shares([event("aten::linear", 0, 100), event("aten::mm", 10, 80), event("aten::add", 100, 100)], operator)
    assert result.kernels == {"aten::add": 0.5, "aten::mm": 0.4, "aten::linear": 0.1}
    assert result.nanoseconds == 200
    assert result.attention is None


def test_operators_of_two_threads_do_not_call_one_another():
    result = shares([event("aten::mm", 0, 100), event("aten::add", 10, 100, thread=2)], operator)
    assert result.kernels == {"aten::mm": 0.5, "aten::add": 0.5}


def test_of_a_call_without_kernels_nothing_is_known():
    assert shares([], operator).kernels == {}
    assert shares([event(ATTENTION, 0, 5, annotation=True)], operator).attention is None


def test_a_forward_pass_has_attentions_share():
    events = [event("aten::mm", 0, 60), event(ATTENTION, 60, 30, annotation=True), event("aten::bmm", 65, 20),
              event("aten::add", 90, 20)]
    assert shares(events, operator).attention == 0.2


def test_the_backward_nodes_of_attention_are_attentions():
    """Numbers 1 and 2 are given within attention; the operator after it peeks at number 3."""
    events = [event("aten::linear", 0, 10, sequence=0), event(ATTENTION, 10, 20, annotation=True),
              event("aten::bmm", 10, 10, sequence=1), event("aten::softmax", 20, 10, sequence=2),
              event("aten::view", 31, 0, sequence=3), event("aten::linear", 31, 9, sequence=3)]
    for i, number in enumerate((3, 2, 1, 0)):
        start = 100 + 10 * i
        events += [event(f"{NODE}X", start, 10, sequence=number, forward_thread=1),
                   event("aten::mm", start, 10)]
    assert shares(events, operator).attention == round((20 + 20) / (39 + 40), 4)


def test_a_gpus_kernel_belongs_to_where_it_was_launched():
    gpu = DeviceType.CUDA
    events = [event(ATTENTION, 0, 10, annotation=True), event(ATTENTION, 500, 10, device=gpu, annotation=True),
              event("cudaLaunchKernel", 5, 1, correlation=7), event("cuLaunchKernel", 20, 1, correlation=8),
              event("cudaMemcpyAsync", 25, 1, correlation=9), event("aten::mm", 4, 3, correlation=8),
              event("flash_fwd", 900, 30, device=gpu, correlation=7),
              event("nvjet", 930, 60, device=gpu, correlation=8),
              event("Memcpy DtoD", 990, 10, device=gpu, correlation=9)]
    result = shares(events, kernel)
    assert result.kernels == {"nvjet": 0.6, "flash_fwd": 0.3, "Memcpy DtoD": 0.1}
    assert result.attention == 0.3


@pytest.mark.parametrize("name", [
    "aten::mm", "aten::addmm", "aten::bmm", "aten::_int_mm", "aten::_weight_int8pack_mm", "aten::mkldnn_convolution",
    "aten::_scaled_dot_product_flash_attention_for_cpu", "aten::mkldnn_rnn_layer", "quantized::linear_dynamic",
    "nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_NNT", "sm90_xmma_gemm_bf16bf16", "fmha_cutlassF_f32_aligned_64x64",
    "flash_fwd_kernel", "triton_tem_fused_0", "cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "CompiledFxGraph"])
def test_matrix_products_are_known_by_name(name):
    assert product(name)
    assert not stands_out({name: 0.9})


@pytest.mark.parametrize("name", [
    "aten::copy_", "aten::_softmax", "aten::native_layer_norm", "aten::masked_fill_", "aten::convert_indices",
    "at::native::upsample_linear1d_out_frame", "aten::upsample_bilinear2d", "triton_poi_fused_add_0",
    "at::native::vectorized_elementwise_kernel", "Memcpy DtoD (Device -> Device)", "bitsandbytes::dequantize_4bit"])
def test_what_is_no_matrix_product_stands_out_above_half(name):
    assert not product(name)
    assert stands_out({name: 0.51, "aten::mm": 0.49})
    assert not stands_out({name: 0.5, "aten::mm": 0.5})


def test_the_largest_is_the_one_that_takes_most():
    assert largest({"a": 0.3, "b": 0.6}) == ("b", 0.6)
    assert largest({}) is None
    assert not stands_out({})


def test_a_model_whose_attention_sleeps_is_mostly_attention(monkeypatch):
    """An operator that takes long within attention makes its share; the same one outside does not."""
    call = Preparer(CPU).prepare(MODEL).call
    call()
    usual = count(call, CPU, model=True).shares
    assert usual.attention is not None
    assert 0.02 < usual.attention < 0.9
    plain, x_NN = attention.Attention.forward, torch.randn(1000, 1000)

    def slow(self, *args, **kwargs):
        for _ in range(20):
            torch.mm(x_NN, x_NN)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(attention.Attention, "forward", slow)
    quietest = min((count(call, CPU, model=True).shares for _ in range(5)), key=lambda shares: shares.nanoseconds)
    assert (quietest.attention or 0) > 0.9
    assert count(call, CPU).shares.attention is None  # nobody asked


def test_attention_is_as_it_was_after_it_was_annotated():
    plain = attention.Attention.forward
    with annotate():
        assert attention.Attention.forward is not plain
    assert attention.Attention.forward is plain
    with pytest.raises(ZeroDivisionError), annotate():
        raise ZeroDivisionError
    assert attention.Attention.forward is plain


def test_annotating_changes_no_count():
    call = Preparer(CPU).prepare(replace(MODEL, phase="prefill")).call
    call()
    plain = count(call, CPU)
    with annotate():
        assert count(call, CPU) == plain


@pytest.mark.slow
def test_annotating_has_nothing_compiled_anew():
    q, k, v = inputs(batch=1, heads=2, kv_heads=2, n=128, m=128, head_dim=16)
    module = attention.create("softmax:flex", heads=2, head_dim=16)
    for _ in range(2):
        module(q, k, v)
    assert count(lambda: module(q, k, v), CPU, model=True).counters["recompiles"] == 0


@pytest.mark.parametrize(("short", "calls"), [(10 ** 12, 3), (0, 1)])
def test_only_a_short_call_is_profiled_again(monkeypatch, short, calls):
    monkeypatch.setattr(counters, "SHORT", short)
    made = []
    count(lambda: made.append(torch.mm(torch.ones(8, 8), torch.ones(8, 8))), CPU)
    assert len(made) == calls
