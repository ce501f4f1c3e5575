"""The registry refuses wrong names and inputs in one line that says what, why and the choices."""
from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import attention
from attention import registry
from attention.backends.base import Backend
from attention.backends.eager import attend, eager
from attention.testing import inputs
from attention.tests.options import fixed


def line(error: pytest.ExceptionInfo[ValueError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(("call", "message"), [
    (lambda: attention.create("softmax:egaer", heads=1, head_dim=8), "did you mean 'softmax:eager'?"),
    (lambda: attention.create("softmax", heads=1, head_dim=8), "unknown attention variant 'softmax'"),
    (lambda: attention.names(function="sofmax"), "did you mean 'softmax'? Choices: alibi, "),
    (lambda: attention.names(backend="gpu"), "unknown attention backend 'gpu' Choices:"),
    (lambda: attention.why_not("softmax:eager", windw=3), "unknown option 'windw'; its options: none"),
    (lambda: attention.create("sliding-window:eager", heads=1, head_dim=8, windw=3), "its options: window"),
    (lambda: attention.create("sliding-window:eager", heads=1, head_dim=8, window=0), "window=0 must be a whole"),
    (lambda: attention.create("softmax:eager", heads=6, kv_heads=4, head_dim=8), "heads=6 must be a multiple of"),
    (lambda: attention.create("softmax:eager", heads=0, head_dim=8), "heads=0 must be a whole number >= 1"),
    (lambda: attention.create("softmax:eager", heads=1, head_dim=-8), "head_dim=-8 must be"),
    (lambda: attention.create("softmax:eager", heads=1, head_dim=8, seq_len=0), "seq_len=0"),
    (lambda: attention.oracle("nothing", *inputs(batch=1, heads=1, n=2, head_dim=4)), "unknown attention function"),
])
def test_what_cannot_be_is_refused_in_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        call()
    line(error)


def wrong_inputs() -> dict[str, tuple[tuple[torch.Tensor, ...], str]]:
    q, k, v = inputs(batch=2, heads=4, kv_heads=2, n=6, head_dim=16)
    mask = torch.ones(2, 5, dtype=torch.bool)
    return {
        "three dimensions": ((q[0], k, v), "expected (B, H, N, D)"),
        "other batch": ((q, k[:1], v[:1]), "expected (B, H, N, D)"),
        "k and v differ": ((q, k, v[:, :, :3]), "expected (B, H, N, D)"),
        "other heads": ((q[:, :2], k, v), "built for 4 query heads, 2 key/value heads"),
        "other head_dim": ((q[..., :8], k[..., :8], v[..., :8]), "head_dim 16"),
        "no query": ((q[:, :, :0], k, v), "at least one query"),
        "mixed dtypes": ((q, k.half(), v), "give them one dtype and one device"),
        "mixed devices": ((q, k.to("meta"), v), "give them one dtype and one device"),
        "mask of another length": ((q, k, v, mask), "expected bool (2, 6)"),
        "mask of numbers": ((q, k, v, torch.ones(2, 6)), "expected bool (2, 6)"),
    }


@pytest.mark.parametrize("case", wrong_inputs())
def test_wrong_inputs_are_refused_before_any_kernel(case: str) -> None:
    arguments, message = wrong_inputs()[case]
    module = attention.create("softmax:eager", heads=4, kv_heads=2, head_dim=16)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        module(*arguments)
    assert line(error).startswith("softmax:eager: ")


def test_what_a_backend_cannot_do_is_its_own_reason() -> None:
    reason = attention.why_not("softmax:flex", dtype=torch.float64)
    assert reason == "softmax:flex: compiled FlexAttention has no float64"
    module = attention.create("softmax:flex", heads=1, head_dim=16)
    with pytest.raises(ValueError, match=re.escape(reason)):
        module(*inputs(batch=1, heads=1, n=4, head_dim=16, dtype=torch.float64))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", attention.names())
def test_a_gpu_that_is_not_there_is_the_reason(name: str) -> None:
    reason = attention.why_not(name, device="cuda")
    assert reason is not None
    assert reason.startswith(f"{name}: ")
    assert "\n" not in reason


def test_names_lists_what_the_device_can_run() -> None:
    able = attention.names(device="cpu")
    assert "softmax:eager" in able
    assert "softmax:fa2" not in able
    assert set(able) < set(attention.names())
    assert attention.names(function="alibi", backend="fa2") == ["alibi:fa2"]


def test_a_kernel_is_asked_what_it_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that probes needs no list of its own: what its kernel raises is the reason."""
    class Picky(Backend):
        name, probes = "picky", True

        def attend(self):
            def kernel(q, k, v, **arguments):
                if q.shape[-1] > 32:
                    raise RuntimeError("head dims up to 32 only\nand a stack of C++ frames")
                return attend(q, k, v, **arguments)
            return kernel

    monkeypatch.setattr(registry, "_variants", dict(registry._variants))
    registry.register("softmax", backends=[Picky()])(registry.variant("softmax:eager").compute)
    assert attention.why_not("softmax:picky", head_dim=32) is None
    assert attention.why_not("softmax:picky", head_dim=64) == "softmax:picky: head dims up to 32 only"


def test_names_are_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = registry.variant("softmax:eager").compute
    with pytest.raises(ValueError, match="registered already"):
        registry.register("softmax", backends=[eager])(compute)
    with pytest.raises(ValueError, match="registered already"):
        registry.register("softmax", kind="exact", paper="-", pairs=lambda n, m, causal: n)(compute)
    with pytest.raises(ValueError, match="needs paper="):
        registry.register("new")(compute)
    with pytest.raises(ValueError, match="before its variants"):
        registry.register("new", backends=[eager])(compute)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (5, 5), (3, 9), (9, 3), (40, 40)])
@pytest.mark.parametrize("function", [name for name, f in registry.functions().items() if f.pairs and not f.flops])
def test_pairs_counts_what_the_oracle_sees(function: str, n: int, m: int, causal: bool) -> None:
    """Constant scores give each visible key the same weight, and one-hot values show which keys are visible."""
    described = registry.function(function)
    options: dict[str, Any] = described.complete(fixed(function))
    if (causal and not described.causal) or (n != m and not described.cross):
        pytest.skip(f"{function} has no such call")
    q, k = torch.zeros(1, 1, n, m), torch.zeros(1, 1, m, m)
    weights = attention.oracle(function, q, k, torch.eye(m).expand(1, 1, m, m), causal=causal, **options)
    assert described.pairs is not None
    assert described.pairs(n, m, causal, **options) == int((weights > 0).sum())


def test_peak_bytes_tells_quadratic_from_linear() -> None:
    def growth(name: str) -> float:
        small, large = (attention.peak_bytes(name, batch=1, heads=2, n=n, head_dim=64, dtype=torch.float32)
                        for n in (2048, 8192))
        return large / small

    assert growth("softmax:eager") > 12
    assert growth("softmax:tiled") < 5
    eager_16k = attention.peak_bytes("softmax:eager", batch=1, heads=16, n=16384, head_dim=128, dtype=torch.bfloat16)
    assert 20e9 < eager_16k < 45e9
