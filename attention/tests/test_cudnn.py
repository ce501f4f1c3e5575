"""The cudnn backend on a stand-in for its package: what it says, what it refuses, and why it is absent."""
from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator

import pytest
import torch

import attention
from attention import registry
from attention.backends import cudnn as backend
from attention.backends.base import Case
from attention.backends.cudnn import CuDNN, cudnn_frontend
from attention.testing import gradients, inputs
from attention.tests import properties
from attention.tests.cudnn_fake import Package
from attention.tests.properties import Call

CPU = torch.device("cpu")


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """The stand-in, on the CPU and in float32."""
    fake = Package()
    monkeypatch.setitem(sys.modules, "cudnn", fake.module)
    monkeypatch.setattr(CuDNN, "missing", lambda self, device: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: types.SimpleNamespace(cuda_stream=0))
    refuses = CuDNN.refuses
    monkeypatch.setattr(CuDNN, "refuses", lambda self, case: refuses(self, Case(**{**vars(case), "dtype": torch.half})))
    backend._handle.cache_clear()
    registry._probe.cache_clear()
    yield fake
    backend._handle.cache_clear()
    registry._probe.cache_clear()


CALLS = {
    "softmax": Call("softmax"),
    "softmax causal": Call("softmax", causal=True),
    "softmax cached": Call("softmax", causal=True, n=10),
    "softmax blind": Call("softmax", causal=True, n=30),
    "softmax one query": Call("softmax", causal=True, n=1),
    "softmax scaled": Call("softmax", scale=0.1),
    "alibi": Call("alibi", causal=True, heads=6),
    "alibi full": Call("alibi"),
    "rope-alibi": Call("rope-alibi", causal=True),
    "sliding-window": Call("sliding-window", causal=True, options={"window": 5}),
    "sliding-window cached": Call("sliding-window", causal=True, n=10, options={"window": 5}),
    "sliding-window full": Call("sliding-window", options={"window": 6}),
    "sinks": Call("sinks"),
    "sinks causal": Call("sinks", causal=True),
}


@pytest.mark.parametrize("call", CALLS)
def test_the_graphs_say_the_function(call: str, package: Package) -> None:
    properties.is_right(CALLS[call], CALLS[call].build("cudnn"), CPU, grad=True)


def test_a_shape_has_one_plan_forward_and_one_backward(package: Package) -> None:
    module = attention.create("alibi:cudnn", heads=2, head_dim=8, causal=True)
    for seed in range(3):
        gradients(module, inputs(batch=1, heads=2, n=16, head_dim=8, seed=seed), torch.ones(1, 2, 16, 8))
    assert len(module._attend.plans) == 2  # type: ignore[attr-defined]
    gradients(module, inputs(batch=1, heads=2, n=17, head_dim=8), torch.ones(1, 2, 17, 8))
    assert len(module._attend.plans) == 4  # type: ignore[attr-defined]


def test_strided_inputs_and_expanded_gradients_are_taken(package: Package) -> None:
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs(batch=2, heads=2, n=9, head_dim=8))
    ones = torch.ones(()).expand(q.shape)
    results = [gradients(attention.create(f"softmax:{name}", heads=2, head_dim=8), (q, k, v), ones)
             for name in ("cudnn", "eager")]
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=1e-4, atol=1e-5)


def test_determinism_reaches_the_graph(package: Package) -> None:
    for wanted in (True, False):
        module = attention.create("softmax:cudnn", heads=1, head_dim=8, deterministic=wanted)
        gradients(module, inputs(batch=1, heads=1, n=8, head_dim=8), torch.ones(1, 1, 8, 8))
        assert package.calls[-1] == {"deterministic": wanted}


def test_alibi_of_a_cache_is_refused(package: Package) -> None:
    assert attention.why_not("alibi:cudnn", n=4, m=8, causal=True) == (
        "alibi:cudnn: the cudnn backend's ALiBi takes as many queries as keys")


def test_what_cudnn_has_no_plan_for_is_one_line(package: Package) -> None:
    package.refuses = True
    assert attention.why_not("softmax:cudnn", n=8) == (
        "softmax:cudnn: cudnn: no plan for q (1, 1, 8, 64), k (1, 1, 8, 64): No valid engine configs")


@pytest.mark.parametrize(("changes", "part"), [
    ({"dtype": torch.float32}, "not float32"), ({"key_mask": True}, "no padding mask"),
    ({"n": 20, "causal": False, "options": (("window", 4),)}, "no windows where queries outnumber keys"), ({}, None)])
def test_what_it_refuses(changes: dict, part: str | None) -> None:
    plain = {"device": "cuda", "dtype": torch.bfloat16, "heads": 4, "kv_heads": 2, "head_dim": 64, "n": 8, "m": 8,
             "causal": True, "grad": True, "key_mask": False}
    reason = cudnn_frontend.refuses(Case(**{**plain, **changes}))
    assert (reason is None) == (part is None)
    assert part is None or part in str(reason)


def test_an_absent_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cudnn_frontend.missing(CPU) == "cuDNN runs on CUDA GPUs only, not on cpu"
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    assert cudnn_frontend.missing(torch.device("cuda")) == (
        "nvidia-cudnn-frontend is not installed; pip install nvidia-cudnn-frontend==1.23.0")
