"""The registry inside transformers' models: names, padding, caches, refusals, compilation."""
from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AttentionMaskInterface, DynamicCache, StaticCache

import attention
import models
from models import gpt2, transformers_attention
from models.tests import cases
from models.transformers_attention import hf_name

GPT2, VIT = "gpt2-tiny", "vit-tiny"


def logits(model: Any, **x: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**x).logits


def stock(model: Any, **x: Any) -> torch.Tensor:
    """Builds the model with the same weights and transformers' eager attention."""
    name = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        return logits(model, **x)
    finally:
        model.set_attn_implementation(name)


def padding_error(model: Any) -> float:
    """Computes the largest relative difference from stock transformers at the tokens of a left-padded batch."""
    x = cases.left_padded(3, 17, model.config.vocab_size)
    real = x["attention_mask"].bool()
    expected = stock(model, **x)[real]
    return ((logits(model, **x)[real] - expected).abs().max() / expected.abs().max()).item()


def test_names_are_distinct_and_none_that_transformers_takes_for_its_own():
    names = {hf_name(variant) for variant in attention.names()}
    assert len(names) == len(attention.names())
    assert not any("flash" in name or "/" in name for name in names)
    assert hf_name("softmax:sdpa-flash") == "softmax:sdpa-fa"
    assert hf_name("sliding-window:sdpa", window=5) == "sliding-window:sdpa(window=5)"


@pytest.mark.parametrize("preset", [GPT2, VIT])
def test_a_built_model_switches_to_any_registered_variant(preset):
    model = cases.create(preset)
    for variant in attention.names():
        model.set_attn_implementation(hf_name(variant))
        assert model.config._attn_implementation == hf_name(variant)


def test_two_variants_may_not_share_a_name(monkeypatch):
    monkeypatch.setattr(attention, "names", lambda: ["softmax:sdpa-flash", "softmax:sdpa-fa"])
    transformers_attention.register("softmax:sdpa-flash")
    with pytest.raises(ValueError, match="are both 'softmax:sdpa-fa' in transformers"):
        transformers_attention.register("softmax:sdpa-fa")


@pytest.mark.parametrize("preset", [GPT2, VIT])
def test_softmax_eager_equals_stock_transformers(preset):
    model = cases.create(preset)
    x = models.family(preset).inputs(preset, batch=2, n=17)
    x.pop("logits_to_keep", None)
    expected = stock(model, **x)
    assert (logits(model, **x) - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("variant", ["softmax:eager", "softmax:sdpa", "softmax:tiled"])
def test_left_padding_equals_stock_transformers(variant):
    assert padding_error(cases.create(GPT2, variant)) < 2e-6


def test_right_padding_equals_stock_transformers():
    model = cases.create(GPT2, "softmax:sdpa")
    x = {name: value.flip(1) for name, value in cases.left_padded(3, 17, 101).items() if name != "position_ids"}
    real = x["attention_mask"].bool()
    assert torch.allclose(logits(model, **x)[real], stock(model, **x)[real], rtol=0, atol=2e-5)


def test_a_bidirectional_call_equals_stock_transformers():
    model = cases.create(GPT2, "softmax:sdpa")
    x = cases.left_padded(3, 17, 101)
    real = x["attention_mask"].bool()
    both = logits(model, **x, is_causal=False)[real]
    assert torch.allclose(both, stock(model, **x, is_causal=False)[real], rtol=0, atol=2e-5)
    assert (both - logits(model, **x)[real]).abs().max() > 0.1


def test_the_padding_test_notices_a_missing_mask_function(monkeypatch):
    """transformers passes no mask at all without a mask function, and says nothing."""
    model = cases.create(GPT2, "softmax:sdpa")
    mapping = dict(AttentionMaskInterface._global_mapping)
    del mapping[hf_name("softmax:sdpa")]
    monkeypatch.setattr(AttentionMaskInterface, "_global_mapping", mapping)
    assert padding_error(model) > 0.1


@pytest.mark.parametrize(("variant", "device"), cases.variants())
@pytest.mark.parametrize("preset", [GPT2, VIT])
def test_every_variant_is_as_exact_as_eager(variant, device, preset):
    dtype = cases.serve(variant, device, heads=4, head_dim=16, n=17, causal=preset == GPT2)

    def run(model):
        x = models.family(preset).inputs(preset, batch=2, n=17, device=model.device, dtype=model.dtype)
        x.pop("logits_to_keep", None)
        return model(**x).logits

    cases.assert_as_exact(run, cases.create(preset, variant, dtype=dtype, device=device), preset, variant, dtype)


@pytest.mark.parametrize(("variant", "device"), cases.variants())
def test_every_variant_knows_padding(variant, device):
    dtype = cases.serve(variant, device, heads=4, head_dim=16, n=17, causal=True, key_mask=True)
    x = cases.left_padded(3, 17, 101)
    real = x["attention_mask"].bool()

    def run(model):
        return model(**{name: value.to(model.device) for name, value in x.items()}).logits[real.to(model.device)]

    cases.assert_as_exact(run, cases.create(GPT2, variant, dtype=dtype, device=device), GPT2, variant, dtype)


@pytest.mark.parametrize(("variant", "device"), cases.variants())
def test_chunked_prefill_and_decoding_equal_one_forward(variant, device):
    """Queries of 9, 7 and 1 tokens on keys of 9, 16 and 17: all aligned to the end of the cache."""
    for n, m in ((9, 9), (7, 16), (1, 17)):
        dtype = cases.serve(variant, device, heads=4, head_dim=16, n=n, m=m, causal=True)

    def run(model):
        tokens = gpt2.inputs(GPT2, batch=2, n=17, device=model.device)["input_ids"]
        if model is not chunked:
            return model(tokens).logits
        cache = DynamicCache()
        return torch.cat([model(chunk, past_key_values=cache, use_cache=True).logits
                          for chunk in tokens.split([9, 7, 1], dim=1)], dim=1)

    chunked = cases.create(GPT2, variant, dtype=dtype, device=device)
    cases.assert_as_exact(run, chunked, GPT2, variant, dtype)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("variant", [name for name in attention.names("softmax", device="cpu")
                                     if not name.endswith(":flex")])
def test_generation_equals_stock_transformers(variant, padded, beams):
    if reason := attention.why_not(variant, heads=4, head_dim=16, n=11, causal=True, key_mask=padded):
        pytest.skip(reason)
    model = cases.create(GPT2, variant)
    x = cases.left_padded(2, 11, 101)
    x = {"input_ids": x["input_ids"], "attention_mask": x["attention_mask"] if padded else torch.ones(2, 11).long()}
    settings = {"max_new_tokens": 6, "num_beams": beams, "do_sample": False, "pad_token_id": 0, "use_cache": True}
    ours = model.generate(**x, **settings)
    model.set_attn_implementation("eager")
    assert torch.equal(ours, model.generate(**x, **settings))


def refusals() -> dict[str, tuple]:
    tokens = torch.zeros(2, 6, dtype=torch.long)
    packed = torch.tensor([[0, 1, 2, 0, 1, 2]] * 2)

    def trained(model):
        model.train()
        for block in model.transformer.h:
            block.attn.attn_dropout.p = 0.1
        return model(tokens)

    def short_mask(model):
        cache = model(tokens).past_key_values
        return model(tokens, attention_mask=torch.ones(2, 6), past_key_values=cache)

    def several(model):
        cache = StaticCache(model.config, max_cache_len=19)
        model(tokens, past_key_values=cache)
        return model(tokens, past_key_values=cache)

    return {
        "packed sequences": (lambda model: model(tokens, position_ids=packed, use_cache=False), "packed sequences"),
        "several tokens on a static cache": (several, "one query at a time from a static cache that holds tokens"),
        "queries by keys": (lambda model: model(tokens, attention_mask=torch.ones(2, 1, 6, 6, dtype=torch.bool)),
                            r"not a mask \(2, 1, 6, 6\) of queries by keys"),
        "keys for all queries": (lambda model: model(tokens, attention_mask=torch.ones(2, 1, 1, 6)),
                                 r"not a mask \(2, 1, 1, 6\)"),
        "dropout": (trained, "no dropout of attention weights"),
        "head mask": (lambda model: model(tokens, head_mask=torch.ones(4)), "can't take head_mask"),
        "mask of new tokens only": (short_mask, r"must cover all tokens, cached ones too: expected \(2, 12\)"),
    }


@pytest.mark.parametrize("case", refusals())
def test_what_it_cannot_express_it_refuses_in_one_line(case):
    call, line = refusals()[case]
    with pytest.raises(ValueError, match=line) as error:
        call(cases.create(GPT2, "softmax:sdpa"))
    assert "\n" not in str(error.value)


def test_a_variant_with_weights_is_refused(monkeypatch):
    monkeypatch.setattr(attention, "create", lambda *args, **options: nn.Linear(2, 2))
    with pytest.raises(ValueError, match="softmax:eager has weights"):
        cases.create(GPT2)


def test_what_a_variant_keeps_is_gone_with_the_model():
    model = cases.create(GPT2, "alibi:sdpa")
    logits(model, input_ids=torch.zeros(1, 5, dtype=torch.long))
    owner = id(model.config)
    assert owner in transformers_attention._cores
    del model
    gc.collect()
    assert owner not in transformers_attention._cores


@pytest.mark.parametrize(("preset", "variant"), [
    (VIT, "softmax:sdpa"), pytest.param(GPT2, "alibi:sdpa", marks=pytest.mark.slow),
    pytest.param(GPT2, "softmax:sdpa", marks=pytest.mark.slow),
    pytest.param(GPT2, "sliding-window:eager", marks=pytest.mark.slow)])
def test_compiles_into_one_graph(preset, variant):
    family, model = models.family(preset), cases.create(preset, variant, dropout=0.0, layers=1)
    x = family.inputs(preset, batch=2, n=17)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(logits(compiled, **x), logits(model, **x))
    if preset == GPT2:  # while a graph is recorded, a mask can't be looked at and is always passed on
        x = cases.left_padded(3, 17, 101)
        real = x["attention_mask"].bool()
        assert torch.equal(logits(compiled, **x)[real], logits(model, **x)[real])
    x = family.inputs(preset, batch=2, n=17)
    loss = torch.compile(family.loss, backend="eager", fullgraph=True)
    assert torch.equal(loss(model.train(), x), family.loss(model, x))
