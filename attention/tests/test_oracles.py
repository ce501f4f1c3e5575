"""Each oracle against numbers of the authors' published code or a stock library, and its independence."""
from __future__ import annotations

import ast
import inspect
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import attention
from attention import reference, registry
from attention.functions.alibi import slopes
from attention.testing import Reference, needles

FROZEN = json.loads(Path(__file__).with_name("frozen.json").read_text())
ROWS = ((0, 0), (4, 3), (11, 5))  # head, position


def wave(shape: tuple[int, ...], phase: float) -> torch.Tensor:
    numbers = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(numbers * 0.7 + phase).reshape(shape) * 2


@pytest.mark.parametrize("case", FROZEN["outputs"])
def test_oracle_gives_the_published_numbers(case: str) -> None:
    function, mask = case.split()
    q, k, v = (wave((1, 12, 6, 4), phase) for phase in (0.0, 1.0, 2.0))
    options: dict[str, Any] = {"window": 3} if function == "sliding-window" else {}
    out = attention.oracle(function, q, k, v, causal=mask == "causal", **options)
    for (head, position), expected in zip(ROWS, FROZEN["outputs"][case], strict=True):
        torch.testing.assert_close(out[0, head, position], torch.tensor(expected, dtype=torch.float64),
                                   rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("heads", FROZEN["slopes"])
def test_alibi_slopes_are_the_authors(heads: str) -> None:
    assert slopes(int(heads)) == pytest.approx(FROZEN["slopes"][heads], rel=1e-14)


def test_twelve_heads_have_the_paper_s_slopes() -> None:
    result = slopes(12)
    assert result[:8] == [2.0 ** -h for h in range(1, 9)]
    assert result[8:] == pytest.approx([0.70711, 0.35355, 0.17678, 0.08839], rel=1e-4)


def test_oracle_is_torch_s_attention_in_float64() -> None:
    """Another implementation, on grouped heads and with a padding mask."""
    q, k, v = (wave((2, h, 7, 8), p) for h, p in ((4, 0.0), (2, 1.0), (2, 2.0)))
    keep = torch.rand(2, 7, generator=torch.Generator().manual_seed(0)) > 0.4
    keep[:, 0] = True
    expected = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=keep[:, None, None, :], scale=0.3, enable_gqa=True)
    out = attention.oracle("softmax", q, k, v, scale=0.3, key_mask=keep)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_queries_stand_at_the_end_of_the_keys() -> None:
    q, k, v = (wave((1, 2, 9, 4), p) for p in (0.0, 1.0, 2.0))
    whole = attention.oracle("softmax", q, k, v, causal=True)
    tail = attention.oracle("softmax", q[:, :, 6:], k, v, causal=True)
    torch.testing.assert_close(tail, whole[:, :, 6:], rtol=0, atol=1e-15)


@pytest.mark.parametrize("window", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("causal", [True, False])
def test_a_window_holds_as_many_keys_as_it_says(window: int, causal: bool) -> None:
    """Constant scores and one-hot values show the weights: 1/W on the W keys around the query."""
    n = 17
    q = k = torch.zeros(1, 1, n, n, dtype=torch.float64)
    v = torch.eye(n, dtype=torch.float64).expand(1, 1, n, n)
    middle = attention.oracle("sliding-window", q, k, v, causal=causal, window=window)[0, 0, 8]
    visible = middle.nonzero().flatten().tolist()
    assert middle[visible].tolist() == pytest.approx([1 / window] * window)
    first = 8 - window + 1 if causal else 8 - window // 2
    assert visible == list(range(first, first + window))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle works through heads and rows in blocks; the blocks must not show, nor in its gradients."""
    def run() -> tuple[torch.Tensor, ...]:
        q, k, v = (wave((2, h, 21, 4), p).requires_grad_() for h, p in ((6, 0.0), (3, 1.0), (3, 2.0)))
        out = attention.oracle("alibi", q, k, v, causal=True)
        return out, *torch.autograd.grad(out.square().sum(), (q, k, v))

    whole = run()
    monkeypatch.setitem(reference._BLOCK, "cpu", 100)
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_the_reference_shares_no_code_with_the_backends() -> None:
    imports = [line for line in inspect.getsource(reference).splitlines() if re.match(r"\s*(import|from) ", line)]
    assert len(imports) >= 4
    assert not [line for line in imports if "attention" in line]


@pytest.mark.parametrize("function", list(registry.functions()))
def test_an_oracle_names_no_mask_and_no_backend(function: str) -> None:
    """An oracle may use from this package only softmax_attention and functions of its own file for it alone."""
    oracle = registry.function(function).oracle
    names = {node.id for node in ast.walk(ast.parse(inspect.getsource(oracle))) if isinstance(node, ast.Name)}
    assert names
    assert not names & {"masks", "band", "Band", "eager", "sdpa", "flex", "fa2", "tiled"}


@pytest.mark.parametrize("function", sorted(registry.functions()))
def test_attention_is_odd_in_its_values(function: str) -> None:
    """A trial of the timed call rests on it (perf/bench/kernels.py)."""
    described = registry.functions()[function]
    options = {name: values[0] for name, values in described.test_values.items()}
    q, k, v = needles(batch=1, heads=4, kv_heads=2 if described.grouped else 4, n=described.queries or 32, m=32,
                      head_dim=16)
    one, other = (Reference(function, q, k, x, causal=described.causal, **options).exact["out"] for x in (v, -v))
    assert torch.allclose(one, -other, rtol=0, atol=1e-12)
