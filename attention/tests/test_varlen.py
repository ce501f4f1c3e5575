"""varlen and document: sequences that do not see each other."""
from __future__ import annotations

import itertools
import re

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import attention
from attention import registry
from attention.functions.document import Documents
from attention.functions.varlen import halves, packed
from attention.testing import check, inputs

CPU = torch.device("cpu")


@pytest.mark.parametrize("n", [1, 2, 3, 10, 63, 64, 200])
def test_halves_fill_every_length(n: int) -> None:
    lengths = halves(n)
    assert sum(lengths) == n
    assert min(lengths) >= 1
    assert all(one >= other for one, other in itertools.pairwise(lengths))
    assert len(lengths) == n.bit_length()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("backend", ["eager", "sdpa", "nested"])
def test_packed_sequences_are_each_attended_alone(backend: str, causal: bool) -> None:
    """Against a stock implementation, sequence by sequence, in float64."""
    lengths = (5, 1, 11, 7)
    q, k, v = inputs(batch=2, heads=4, n=24, head_dim=8, dtype=torch.float64)
    reason = attention.why_not(f"varlen:{backend}", dtype=torch.float64, heads=4, n=24, head_dim=8, causal=causal,
                               lengths=lengths)
    if backend == "nested" and causal:
        assert reason == ("varlen:nested: Nested tensors for query / key are not supported when is_causal=True.")
        return
    assert reason is None
    out = attention.create(f"varlen:{backend}", heads=4, head_dim=8, causal=causal, lengths=lengths,
                           dtype=torch.float64)(q, k, v)
    alone = [scaled_dot_product_attention(q, k, v, is_causal=causal)
             for q, k, v in zip(*(x.split(lengths, 2) for x in (q, k, v)), strict=True)]
    torch.testing.assert_close(out, torch.cat(alone, 2), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(attention.oracle("varlen", q, k, v, causal=causal, lengths=lengths),
                               torch.cat(alone, 2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("function", ["varlen", "document"])
def test_one_sequence_is_softmax(function: str, causal: bool) -> None:
    q, k, v = inputs(batch=1, heads=2, n=13, head_dim=8)
    whole = {"lengths": (13,)} if function == "varlen" else {"length": 13}
    out, softmax = (attention.oracle(name, q, k, v, causal=causal, **options)
                    for name, options in ((function, whole), ("softmax", {})))
    torch.testing.assert_close(out, softmax, rtol=1e-12, atol=1e-12)


def test_starts_count_through_the_rows_of_a_batch() -> None:
    mask = packed((2, 3), CPU)
    assert mask.starts(1).tolist() == [0, 2, 5]
    assert mask.starts(3).tolist() == [0, 2, 5, 7, 10, 12, 15]
    assert mask.starts(3).dtype == torch.int32
    assert packed((2, 3), CPU) is mask


def test_a_mask_is_kept_between_calls() -> None:
    module = attention.create("varlen:sdpa", heads=1, head_dim=8)
    q, k, v = inputs(batch=1, heads=1, n=16, head_dim=8)
    module(q, k, v)
    first = module._attend.mask  # type: ignore[attr-defined]
    module(q, k, v)
    assert first is not None
    assert module._attend.mask is first  # type: ignore[attr-defined]
    assert check(module, *inputs(batch=1, heads=1, n=20, head_dim=8)).ok


@pytest.mark.parametrize("length", [1, 4, 5, 64])
def test_documents_lie_end_to_end(length: int) -> None:
    i = torch.arange(-7, 30)
    visible = Documents(length)(torch.tensor(0), i[:, None], i)
    for query in (0, 3, 11, 29):
        own = [j for j in range(-7, 30) if j // length == query // length]
        assert i[visible[query + 7]].tolist() == own


@pytest.mark.parametrize("name", ["varlen:eager", pytest.param("varlen:nested", marks=pytest.mark.slow),
                                  "document:eager"])
def test_gradients_are_the_derivatives(name: str) -> None:
    options = {"length": 3} if name.startswith("document") else {"lengths": (4, 1, 2)}
    module = attention.create(name, heads=2, kv_heads=2, head_dim=3, dtype=torch.float64, **options)
    q, k, v = inputs(batch=2, heads=2, n=7, head_dim=3, dtype=torch.float64, grad=True)
    assert torch.autograd.gradcheck(module, (q, k, v))


def test_pairs_grow_with_the_documents_not_with_the_square() -> None:
    pairs = registry.function("document").pairs
    assert pairs is not None
    for causal, each in ((True, 256 * 257 // 2), (False, 256 * 256)):
        assert [pairs(n, n, causal, length=256) for n in (512, 4096)] == [2 * each, 16 * each]


@pytest.mark.parametrize(("name", "options", "message"), [
    ("varlen:eager", {"lengths": [3, 4]}, "lengths=[3, 4] must be None or a tuple of whole numbers >= 1"),
    ("varlen:eager", {"lengths": ()}, "lengths=() must be None or a tuple"),
    ("varlen:eager", {"lengths": (3, 0)}, "lengths=(3, 0) must be"),
    ("varlen:eager", {"lengths": (3, 4)}, "lengths sum to 7, but a row holds n=8 tokens"),
    ("document:eager", {"length": 0}, "document: length=0 must be a whole number >= 1"),
    ("document:eager", {"length": 2.5}, "length=2.5 must be"),
])
def test_what_cannot_be_is_refused_in_one_line(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        attention.create(name, heads=1, head_dim=4, **options)(*inputs(batch=1, heads=1, n=8, head_dim=4))
    assert "\n" not in str(error.value)


def test_packed_rows_have_as_many_queries_as_keys() -> None:
    assert attention.why_not("varlen:eager", n=3, m=8) == (
        "varlen:eager: it attends within one sequence: n=3 queries on m=8 keys; pass as many of both")
