"""GPT-2: phases and positions."""
from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

import models
from attention.backends import compiling
from models import gpt2
from models.tests import cases

TINY = "gpt2-tiny"


def test_decode_equals_a_forward_over_all_tokens_and_leaves_the_cache():
    model = cases.create(TINY, "softmax:sdpa")
    x = gpt2.decode_inputs(model, TINY, batch=2, m=13)
    read = gpt2.inputs(TINY, batch=2, n=13)["input_ids"]
    with torch.no_grad():
        whole = model(torch.cat([read, x["input_ids"]], dim=1)).logits[:, -1:]
        before = [layer.keys[:, :, :13].clone() for layer in x["past_key_values"].layers]
        first, again = gpt2.decode(model, x), gpt2.decode(model, x)
    assert all(map(torch.equal, before, (layer.keys[:, :, :13] for layer in x["past_key_values"].layers)))
    assert x["past_key_values"].get_seq_length() == 13
    assert torch.equal(first, again)
    assert torch.allclose(first, whole, rtol=0, atol=2e-5)


def test_a_prefill_fills_a_cache_and_gives_the_last_logits():
    out = cases.create(TINY)(**gpt2.inputs(TINY, batch=2, n=9))
    assert out.past_key_values.get_seq_length() == 9
    assert out.logits.shape == (2, 1, 101)


def test_a_cache_copies_what_it_gets_and_grows_as_transformers_own():
    model, random = cases.create(TINY, "softmax:sdpa"), torch.Generator().manual_seed(0)
    tokens = torch.randint(101, (2, 9), generator=random)
    own: Any = None
    theirs: Any = transformers.DynamicCache()
    with torch.no_grad():
        for part in tokens.split((5, 1, 3), 1):
            one, other = (model(part, past_key_values=cache, use_cache=True) for cache in (own, theirs))
            own = one.past_key_values
            assert torch.equal(one.logits, other.logits)
    for mine, his in zip(own.layers, theirs.layers, strict=True):
        assert type(mine) is gpt2._Layer
        assert torch.equal(mine.keys, his.keys)
        assert torch.equal(mine.values, his.values)
        assert mine.keys.is_contiguous()


def test_loss_is_the_one_of_transformers():
    model = cases.create(TINY)
    x = gpt2.inputs(TINY, batch=2, n=9)
    expected = model(input_ids=x["input_ids"], labels=x["input_ids"]).loss
    assert torch.allclose(gpt2.loss(model, x), expected, rtol=1e-6, atol=0)


def test_a_loss_over_words_of_an_even_number_is_the_same():
    random = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, 16, generator=random, dtype=torch.float64) for rows in (9, 101))
    words = torch.randint(101, (9,), generator=random)
    gradients = []
    for logits in (torch.nn.functional.linear, gpt2.aligned):
        leaves = [x.clone().requires_grad_() for x in (hidden, weight)]
        loss = torch.nn.functional.cross_entropy(logits(*leaves), words)
        gradients.append((loss, *torch.autograd.grad(loss, leaves)))
    assert gpt2.aligned(hidden, weight).shape == (9, 104)
    for plain, even in zip(*gradients, strict=True):
        assert torch.allclose(even, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [2, 8, 11])
def test_logits_by_columns_are_the_same(rows: int) -> None:
    random = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 16, generator=random, dtype=torch.float64) for n in (rows, 101))
    torch.testing.assert_close(gpt2.by_columns(x, weight), torch.nn.functional.linear(x, weight))
    assert gpt2.by_columns(x, weight).is_contiguous()


@pytest.mark.slow
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_compiled_loss_is_the_same(monkeypatch: pytest.MonkeyPatch, smoothing: float) -> None:
    random = torch.Generator().manual_seed(0)
    words = (4 * torch.randn(40, 257, generator=random)).bfloat16()
    if not smoothing:
        words = torch.nn.functional.pad(words, (0, 7), value=-torch.inf)  # as `aligned` gives them
    targets = torch.randint(257, (40, 1), generator=random)
    targets[3] = targets[39] = -100
    results = []
    for compiled in (False, True):
        monkeypatch.setattr(compiling, "pays", lambda x, compiled=compiled: compiled)
        leaf = words.clone().requires_grad_()
        loss = gpt2.cross_entropy(leaf, targets, smoothing)
        results.append((loss, *torch.autograd.grad(loss, leaf)))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-8)


def test_the_gelu_is_gpt2s():
    from transformers.activations import ACT2FN

    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    ours = cases.create(TINY).transformer.h[0].mlp.act
    assert type(ours) is not type(ACT2FN["gelu_new"])
    assert torch.allclose(ours(x), ACT2FN["gelu_new"](x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", ["softmax:sdpa", "alibi:eager"])
def test_a_training_step_reaches_every_trainable_weight(variant):
    model = cases.create(TINY, variant, dropout=0.0)
    gpt2.loss(model.train(), gpt2.inputs(TINY, batch=2, n=9)).backward()
    reached = {name for name, weight in model.named_parameters() if weight.grad is not None}
    positions = "transformer.wpe.weight"
    assert (positions in reached) == (variant != "alibi:eager")
    assert reached | {positions} == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(("variant", "choice", "learned"), [
    ("softmax:eager", "auto", True), ("alibi:eager", "auto", False), ("alibi:sdpa", "auto", False),
    ("alibi:eager", "learned", True), ("softmax:eager", "none", False),
])
def test_alibi_takes_the_place_of_learned_positions(variant, choice, learned):
    model = cases.create(TINY, variant, position_embedding=choice)
    tokens = gpt2.inputs(TINY, batch=1, n=9)["input_ids"]
    here = torch.arange(9)[None]
    with torch.no_grad():
        moved = not torch.equal(model(tokens, position_ids=here).logits, model(tokens, position_ids=here + 7).logits)
    assert moved == learned
    assert model.transformer.wpe.weight.requires_grad == learned


def test_functions_differ():
    """So that agreement of two variants of one function says something."""
    x = gpt2.inputs(TINY, batch=1, n=17)
    with torch.no_grad():
        softmax, alibi, window = (cases.create(TINY, f"{name}:eager", position_embedding="learned")(**x).logits
                                  for name in ("softmax", "alibi", "sliding-window"))
    assert min((a - b).abs().max() for a, b in ((softmax, alibi), (softmax, window), (alibi, window))) > 0.1


def test_inputs_repeat_for_a_seed():
    first, again, other = (gpt2.inputs(TINY, batch=2, n=9, seed=seed)["input_ids"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_dtype_and_mode():
    model = models.create(TINY, dtype=torch.bfloat16)
    assert not model.training
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
