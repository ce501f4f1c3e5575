"""fa2, fa3, fa4 and their KV caches: what they say to their packages, on stand-ins, and why they are absent."""
from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import attention
from attention import registry
from attention.backends import fa3 as fa3_module
from attention.backends import fa4 as fa4_module
from attention.backends.base import Case
from attention.backends.fa2 import fa2, paged
from attention.backends.fa3 import fa3
from attention.backends.fa4 import fa4
from attention.backends.flash_package import PAGE, FlashPackage
from attention.testing import gradients, inputs
from attention.tests import fa4_fakes, properties
from attention.tests.flash_fakes import Packages
from attention.tests.properties import Call

CPU = torch.device("cpu")


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Packages]:
    fakes = Packages()
    kernels = fa4_fakes.Kernels()
    for name, module in (fakes.modules() | kernels.modules()).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(attention.backends, "_fa4_scores", sys.modules["attention.backends._fa4_scores"], raising=False)
    monkeypatch.setattr(fa3_module, "operators", lambda: fakes)
    fakes.kernels = kernels
    monkeypatch.setattr(FlashPackage, "missing", lambda self, device: None)
    monkeypatch.setattr(fa4_module, "BACKWARD", (8, 16, 64))  # the fakes' gradients are right at any
    registry._probe.cache_clear()
    yield fakes
    registry._probe.cache_clear()


CALLS = {
    "softmax": Call("softmax"),
    "softmax causal": Call("softmax", causal=True, n=10),
    "softmax blind": Call("softmax", causal=True, n=30),
    "softmax scaled": Call("softmax", scale=0.1),
    "alibi": Call("alibi", causal=True),
    "alibi full": Call("alibi"),
    "alibi cached": Call("alibi", causal=True, n=10),
    "alibi of many blocks": Call("alibi", causal=True, batch=1, n=300, m=300),
    "alibi of many blocks, full": Call("alibi", batch=1, kv_heads=4, n=300, m=300),
    "rope": Call("rope", causal=True),
    "rope-alibi": Call("rope-alibi", causal=True),
    "primer": Call("primer", causal=True),
    "kv-quantised": Call("kv-quantised", causal=True, options={"group": 8}),
    "sliding-window": Call("sliding-window", causal=True, options={"window": 5}),
    "sliding-window full": Call("sliding-window", options={"window": 6}),
    "softcap": Call("softcap", causal=True, options={"cap": 1.5}),
    "varlen": Call("varlen"),
    "varlen causal": Call("varlen", causal=True, options={"lengths": (5, 1, 18)}),
    "document": Call("document", causal=True, options={"length": 7}),
    "sinks": Call("sinks"),
    "sinks causal": Call("sinks", causal=True, n=30),
    "document batch": Call("document", causal=True, kv_heads=4, options={"length": 8}),
}
DECODE = {"decode": Call("decode", n=1, m=300), "decode few": Call("decode", n=5, m=512, causal=True)}


def variants(calls: dict[str, Call], *backends: str) -> list[tuple[str, str]]:
    return [(call, backend) for call in calls for backend in backends
            if f"{calls[call].function}:{backend}" in attention.names()]


@pytest.mark.parametrize(("call", "backend"), variants(CALLS, "fa2", "fa3", "fa4"))
def test_the_packages_get_the_function(call: str, backend: str, packages: Packages) -> None:
    """Output and gradients are right when the package does what it documents."""
    properties.is_right(CALLS[call], CALLS[call].build(backend), CPU, grad=True)
    assert packages.calls or packages.kernels.calls
    assert {name.split()[0] for name, _ in packages.calls} <= {backend}


@pytest.mark.parametrize(("call", "backend"), variants(DECODE, "fa2", "fa2-paged", "fa3", "fa3-paged"))
def test_the_cache_kernel_gets_the_function(call: str, backend: str, packages: Packages) -> None:
    properties.is_right(DECODE[call], DECODE[call].build(backend), CPU, grad=False)
    tables = {arguments["page_table"] is not None for _, arguments in packages.calls}
    assert tables == {backend.endswith("paged")}
    if backend.startswith("fa3"):
        assert {arguments["num_splits"] for _, arguments in packages.calls} == {0}, "as many splits as suit"


@pytest.mark.parametrize("apart", [True, False], ids=["BGMD", "BMGD"])
@pytest.mark.parametrize("backend", ["fa2-paged", "fa3-paged"])
def test_a_cache_in_whole_pages_is_not_copied(backend: str, apart: bool, packages: Packages) -> None:
    """Each head is a sequence of its own where the heads lie apart."""
    q, k, v = inputs(batch=2, heads=4, kv_heads=2, n=1, m=2 * PAGE, head_dim=8)
    if not apart:
        k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
    attention.create(f"decode:{backend}", heads=4, kv_heads=2, head_dim=8)(q, k, v)
    k_pages = packages.calls[-1][1]["k"]
    assert k_pages.shape == ((2 * 2 * 2, PAGE, 1, 8) if apart else (2 * 2, PAGE, 2, 8))
    assert k_pages.data_ptr() == k.data_ptr()


@pytest.mark.parametrize("backend", ["fa2", "fa3"])
def test_the_cache_kernel_has_no_backward(backend: str, packages: Packages) -> None:
    module = attention.create(f"decode:{backend}", heads=1, head_dim=8)
    with pytest.raises(ValueError, match="no backward pass"):
        module(*inputs(batch=1, heads=1, n=1, m=9, head_dim=8, grad=True))
    assert not packages.calls


@pytest.mark.parametrize("backend", ["fa2", "fa3", "fa4"])
@pytest.mark.parametrize("function", ["softmax", "varlen"])
def test_determinism_reaches_the_kernel(function: str, backend: str, packages: Packages) -> None:
    q, k, v = inputs(batch=1, heads=1, n=8, head_dim=8)
    for wanted in (True, False):
        module = attention.create(f"{function}:{backend}", heads=1, head_dim=8, deterministic=wanted)
        gradients(module, (q, k, v), q)
        assert packages.calls[-1][1]["deterministic"] == wanted


def test_what_the_package_raises_is_the_reason(packages: Packages) -> None:
    """flash-attn 2 has one head dimension; 3 and 4 take values of another."""
    wide: dict[str, Any] = {"head_dim": 192, "value_dim": 128}
    reason = attention.why_not("softmax:fa2", **wide)
    assert reason == "softmax:fa2: one head dimension"
    assert attention.why_not("softmax:fa3", **wide) is None
    assert attention.why_not("softmax:fa4", **wide) is None


def test_documents_of_a_cache_are_refused(packages: Packages) -> None:
    assert attention.why_not("document:fa2", n=4, m=8) == (
        "document:fa2: packed sequences have a query for every key; pass as many queries as keys")


@pytest.mark.parametrize("name", ["fa2", "fa3", "fa4"])
def test_an_absent_package_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = {"fa2": fa2, "fa3": fa3, "fa4": fa4}[name]
    assert backend.missing(CPU) == f"{backend.title} runs on CUDA GPUs only, not on cpu"
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    assert backend.missing(torch.device("cuda")) == f"{backend.title} is not installed; {backend.install}"


@pytest.mark.parametrize(("backend", "able"), [(fa2, (8, 9, 10)), (fa3, (9,)), (fa4, (9, 10))], ids=["2", "3", "4"])
def test_a_gpu_of_another_generation_is_the_reason(backend: FlashPackage, able: tuple[int, ...],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(backend), "installed", lambda self: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for major in (8, 9, 10):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, major=major: (major, 0))
        reason = backend.missing(torch.device("cuda"))
        assert (reason is None) == (major in able)
        if reason:
            assert reason.endswith(f"this one has {major}.0")


@pytest.mark.parametrize("backend", [fa2, fa3, fa4, paged], ids=lambda x: x.name)
def test_padding_is_refused(backend: FlashPackage) -> None:
    case = Case("cuda", torch.bfloat16, 4, 4, 64, 8, 64, True, False, True)
    assert backend.refuses(case) == (f"{backend.title} takes no padding mask; use a backend that does, or pass "
                                     "sequences of one length")


def test_fa4_leaves_out_blocks_that_alibi_makes_small(packages: Packages) -> None:
    q, k, v = inputs(batch=1, heads=4, n=640, head_dim=8)
    gradients(attention.create("alibi:fa4", heads=4, head_dim=8, causal=True), (q, k, v), q)
    forward, backward = [call["pairs"] for call in packages.kernels.calls if "pairs" in call][-2:]  # after the probe's
    assert forward == backward
    assert forward < 4 * 640 * 768 / 2


def test_fa4_has_no_deterministic_alibi(packages: Packages) -> None:
    reason = attention.why_not("alibi:fa4", n=8, causal=True, grad=True, deterministic=True)
    assert reason == ("alibi:fa4: the blocks that ALiBi keeps add gradients in any order; pass deterministic=False")
    assert attention.why_not("alibi:fa4", n=8, causal=True, deterministic=True) is None


def test_fa4_gives_no_gradients_at_head_dims_where_they_were_wrong(packages, monkeypatch):
    monkeypatch.setattr(fa4_module, "BACKWARD", (64, 128))
    for backend in ("fa4", "flex-fa4"):
        arguments: dict[str, Any] = {"device": "cpu", "dtype": torch.bfloat16, "head_dim": 40}
        reason = attention.why_not(f"softmax:{backend}", grad=True, **arguments)
        assert reason is not None
        assert "known to be right at head dims 64 and 128 only, not 40" in reason
    assert attention.why_not("softmax:fa4", grad=False, **arguments) is None
