"""Code around kernels is compiled for its first shapes as they are, and computes the same."""
from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import attention
from attention.backends import compiling
from attention.backends.compiling import compiled, compiled_on_gpu
from attention.testing import check, inputs


def test_each_copy_compiles_its_first_shape_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second and third copies would get a symbol for the length if they had no names of their own."""
    sizes: list[list[Any]] = []

    def record(graph: Any, tensors: list[Any]) -> Any:
        sizes.append([x for x in tensors if not isinstance(x, torch.Tensor)])
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=record))
    for n in (4, 5, 6):
        compiled(lambda x: 2 * x, dynamic=None)(torch.zeros(2, n))
    assert sizes == [[], [], []]


def test_one_copy_serves_all_lengths_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[Any] = []

    def add(function: Any, *, dynamic: None) -> Any:
        copies.append(function)
        return function

    @compiled_on_gpu
    def double(x: torch.Tensor, times: int) -> torch.Tensor:
        return times * x

    x = torch.ones(1, 2, 5, 4)
    double(x, 2)
    assert not copies, "a CPU compiles nothing"
    monkeypatch.setattr(compiling, "pays", lambda x: True)
    monkeypatch.setattr(compiling, "compiled", add)
    for n in (5, 3, 1):
        assert torch.equal(double(x[:, :, :n].contiguous(), 2), 2 * x[:, :, :n])
    assert len(copies) == 1
    for args in ((x, 3), (x.half(), 2), (x.mT, 2), (x.clone().requires_grad_(), 2), (x[:, :1], 2)):
        double(*args)
    assert len(copies) == 6
    with torch.no_grad():
        double(x, 2)
    assert len(copies) == 7


@pytest.mark.slow
@pytest.mark.parametrize("function", ["rope", "primer", "kv-quantised"])
def test_it_is_right_compiled(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """A CPU stands for a GPU: the compiler's choices of what to round are the same."""
    monkeypatch.setattr(compiling, "pays", lambda x: True)
    torch._dynamo.utils.counters.clear()
    module = attention.create(f"{function}:sdpa", heads=2, head_dim=16, causal=True, dtype=torch.bfloat16)
    for n in (40, 56):
        report = check(module, *inputs(batch=2, heads=2, n=n, head_dim=16, dtype=torch.bfloat16), grad=True)
        assert report.ok, report.message
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


@pytest.mark.parametrize(("module", "lookup", "install"), [("shutil", "which", r"g\+\+"),
                                                           ("sysconfig", "get_path", "python3-dev")])
def test_what_a_bare_machine_lacks_is_a_reason(module: str, lookup: str, install: str, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    answer = None if module == "shutil" else str(tmp_path)
    monkeypatch.setattr(getattr(compiling, module), lookup, lambda *args: answer)
    reason = attention.why_not("softmax:flex", device="cpu", dtype=torch.float32, head_dim=64)
    assert re.fullmatch(rf"softmax:flex: torch\.compile needs .*; install {install}", str(reason))
