"""Masks of transformers: static caches, and masks of queries by keys that say only padding and causality."""
from __future__ import annotations

import pytest
import torch
from transformers import StaticCache
from transformers.masking_utils import eager_mask, sdpa_mask

from attention.registry import functions
from models import gpt2, transformers_masks
from models.tests import cases

GPT2 = "gpt2-tiny"
VARIANTS = ["softmax:eager", "softmax:sdpa", "softmax:tiled", "alibi:sdpa"]


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_static_cache_generates_what_a_growing_one_does(variant, padded):
    model = cases.create(GPT2, variant)
    x = cases.left_padded(3, 11, 101)
    x = {"input_ids": x["input_ids"], "attention_mask": x["attention_mask"] if padded else torch.ones(3, 11).long()}
    settings = {"max_new_tokens": 7, "do_sample": False, "pad_token_id": 0, "output_logits": True,
                "return_dict_in_generate": True}
    growing = model.generate(**x, **settings)
    static = model.generate(**x, **settings, cache_implementation="static")
    assert len({tuple(row) for row in growing.sequences[:, 11:].tolist()}) > 1
    assert torch.equal(static.sequences, growing.sequences)
    for ours, theirs in zip(static.logits, growing.logits, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", [pytest.param("softmax:tiled", marks=pytest.mark.slow), "alibi:sdpa"])
def test_decoding_on_a_static_cache_compiles_into_one_graph(variant):
    model, cache = cases.create(GPT2, variant), StaticCache(cases.create(GPT2).config, max_cache_len=16)
    tokens = gpt2.inputs(GPT2, batch=2, n=12)["input_ids"]
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        model(tokens[:, :9], past_key_values=cache, use_cache=True)
        steps = [compiled(token, past_key_values=cache, use_cache=True).logits for token in tokens[:, 9:].split(1, 1)]
        whole = model(tokens).logits[:, 9:]
    assert torch.allclose(torch.cat(steps, 1), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("function", [
    name for name, function in functions().items() if function.static_cache and name != "softmax"])
def test_functions_that_take_a_static_cache_do_not_mind_its_empty_part(function):
    model, cache = cases.create(GPT2, f"{function}:eager"), StaticCache(cases.create(GPT2).config, max_cache_len=30)
    tokens = gpt2.inputs(GPT2, batch=2, n=12)["input_ids"]
    with torch.no_grad():
        steps = [model(part, past_key_values=cache, use_cache=True).logits for part in tokens.split([10, 1, 1], 1)]
        whole = model(tokens).logits
    assert torch.allclose(torch.cat(steps, 1), whole, rtol=0, atol=1e-4)


def test_a_window_on_a_static_cache_is_refused():
    model = cases.create(GPT2, "sliding-window:eager")
    tokens = gpt2.inputs(GPT2, batch=2, n=9)["input_ids"]
    with pytest.raises(ValueError, match="counts positions from the last key") as error:
        model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=3, cache_implementation="static",
                       do_sample=False, pad_token_id=0)
    assert "\n" not in str(error.value)


def queries_by_keys(attention_mask: torch.Tensor, kind: str) -> torch.Tensor:
    """Makes transformers' mask (B, 1, N, N) of True and False, or of 0 and the lowest float32."""
    batch, n = attention_mask.shape
    make = sdpa_mask if kind == "bool" else eager_mask
    mask = make(batch_size=batch, q_length=n, kv_length=n, q_offset=0, kv_offset=0, dtype=torch.float32,
                attention_mask=attention_mask.bool(), allow_is_causal_skip=False, device=torch.device("cpu"))
    assert mask is not None
    return mask


@pytest.mark.parametrize(("variant", "kind"), [
    ("softmax:tiled", "float"), pytest.param("softmax:sdpa", "bool", marks=pytest.mark.slow),
    pytest.param("sliding-window:eager", "bool", marks=pytest.mark.slow)])
def test_a_mask_of_queries_by_keys_is_read_where_it_is_padding_and_causality(variant, kind):
    model, x = cases.create(GPT2, variant), cases.left_padded(3, 11, 101)
    mask = queries_by_keys(x["attention_mask"], kind)
    assert mask.shape == (3, 1, 11, 11)
    real = x["attention_mask"].bool()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        padded = model(**x).logits[real]
        for called in (model, compiled):
            assert torch.equal(called(**{**x, "attention_mask": mask}, use_cache=True).logits[real], padded)


@pytest.mark.parametrize("change", ["another key", "a later key", "a number"])
def test_a_mask_that_is_more_is_refused(change):
    model, x = cases.create(GPT2, "softmax:sdpa"), cases.left_padded(3, 11, 101)
    mask = queries_by_keys(x["attention_mask"], "float")
    least = torch.finfo(torch.float32).min
    place, value = {"another key": ((1, 0, 8, 5), least), "a later key": ((0, 0, 4, 5), 0.0),
                    "a number": ((0, 0, 4, 2), -1.0)}[change]
    assert mask[place] != value
    mask[place] = value
    tokens = {"input_ids": x["input_ids"], "attention_mask": mask}
    with pytest.raises(ValueError, match="padding and causality, not a mask") as error:
        model(**tokens)
    assert "\n" not in str(error.value)
    torch._dynamo.reset()
    with pytest.raises(RuntimeError, match="padding and causality, not a mask"):
        torch.compile(model, backend="eager", fullgraph=True)(**tokens, use_cache=True)


def test_a_sliding_cache_takes_its_part_of_the_mask():
    """Its keys are the last ones, so the rule holds: query 5 on keys 3, 4 and 5 of a mask of six."""
    mask = torch.tensor([[False, True, True, True, False, True]])
    part = transformers_masks.key_mask(1, 1, 3, q_offset=5, kv_offset=3, attention_mask=mask)
    assert part is not None
    assert part.tolist() == [[True, False, True]]
    with pytest.raises(ValueError, match="1 queries at 4 meet 3 keys at 3"):
        transformers_masks.key_mask(1, 1, 3, q_offset=4, kv_offset=3, attention_mask=mask)
