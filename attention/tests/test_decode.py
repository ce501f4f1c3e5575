"""decode and checkpointed: softmax by other means."""
from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import attention
from attention.functions.decode import QUERIES
from attention.testing import gradients, inputs
from attention.tests import costs


@pytest.mark.parametrize("n", [1, 4, QUERIES])
@pytest.mark.parametrize("backend", ["oracle", "eager", "sdpa"])
def test_decoding_is_the_end_of_softmax(backend: str, n: int) -> None:
    """The newest queries on the whole cache give the last rows of stock attention over all tokens."""
    q, k, v = inputs(batch=2, heads=4, kv_heads=2, n=40, head_dim=8, dtype=torch.float64)
    whole = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    if backend == "oracle":
        out = attention.oracle("decode", q[:, :, -n:], k, v, causal=True)
    else:
        module = attention.create(f"decode:{backend}", heads=4, kv_heads=2, head_dim=8, causal=True)
        out = module(q[:, :, -n:], k, v)
    torch.testing.assert_close(out, whole[:, :, -n:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(17, 64), (3, 2)])
def test_more_queries_are_refused_in_one_line(n: int, m: int) -> None:
    message = f"decode:eager: n={n} queries on m={m} keys: decoding takes 1 to 16, and no more than keys"
    assert attention.why_not("decode:eager", n=n, m=m) == message
    with pytest.raises(ValueError, match=f"^{message}$"):
        attention.create("decode:eager", heads=1, head_dim=8)(*inputs(batch=1, heads=1, n=n, m=m, head_dim=8))


def test_checkpointed_is_eager_to_the_last_bit() -> None:
    q, k, v = inputs(batch=2, heads=4, kv_heads=2, n=24, head_dim=16)
    results = []
    for backend in ("eager", "checkpointed"):
        module = attention.create(f"softmax:{backend}", heads=4, kv_heads=2, head_dim=16, causal=True)
        results.append({"out": module(q, k, v), **gradients(module, (q, k, v), q)})
    for name in results[0]:
        assert torch.equal(results[0][name], results[1][name]), name


def test_checkpointed_keeps_nothing_quadratic_for_the_backward_pass() -> None:
    """Between forward and backward only the output stays alive beyond the inputs, while eager stores n x n matrices."""
    def stored_bytes(backend: str, n: int) -> int:
        module = attention.create(f"softmax:{backend}", heads=2, head_dim=32)
        q, k, v = inputs(batch=1, heads=2, n=n, head_dim=32, grad=True)
        with costs._Storages() as storages:
            out = module(q, k, v)
            now = storages.now
        del out
        return now

    assert costs.exponent(lambda n: stored_bytes("checkpointed", n), (256, 1024)) < 1.1
    assert costs.exponent(lambda n: stored_bytes("eager", n), (256, 1024)) > 1.8
    assert stored_bytes("checkpointed", 1024) < 0.7 * stored_bytes("eager", 1024)


@pytest.mark.parametrize("n", [1024])
def test_checkpointed_does_not_lower_the_peak_of_one_layer(n: int) -> None:
    """The peak of one layer's training step stays eager's: the claim of 30 % less holds for what is kept, not here."""
    def peak(backend: str) -> int:
        module = attention.create(f"softmax:{backend}", heads=2, head_dim=32)
        q, k, v = inputs(batch=1, heads=2, n=n, head_dim=32, grad=True)
        return costs.peak_bytes(lambda: module(q, k, v).sum().backward())

    assert 0.9 < peak("checkpointed") / peak("eager") < 1.2
