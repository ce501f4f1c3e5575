"""Runs a whole GPT-2 or ViT without padding: the sequences of a batch lie end to end in one row, and only attention
knows where they end (Zhai et al., ByteTransformer, arXiv 2210.03052; images of many sizes in one row: Dehghani et al.,
NaViT, arXiv 2307.06304).

    model = packed.unpadded(models.create("gpt2"), "fa2")
    logits = packed.read(model, [tokens_of_one_text, tokens_of_another])
"""
from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

from attention import Attention, create


def unpadded(model: Any, backend: str = "sdpa") -> Any:
    """Gives a GPT-2 or ViT, in place, the attention `varlen` on this backend for `read` and `see`; the model is given
    back. Raises ValueError for a backend that varlen does not have."""
    create(variant := f"varlen:{backend}", heads=1, head_dim=1)
    name = f"packed-{backend}"
    AttentionInterface.register(name, functools.partial(_attend, variant))
    AttentionMaskInterface.register(name, lambda *_, **__: None)
    model.set_attn_implementation(name)
    return model


def read(model: Any, texts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Computes the logits (N, vocabulary) that an unpadded GPT-2 has for each text of tokens (N,)."""
    lengths = tuple(map(len, texts))
    positions = torch.cat([torch.arange(length, device=model.device) for length in lengths])
    out = model(input_ids=torch.cat(list(texts))[None], position_ids=positions[None], use_cache=False, lengths=lengths)
    return list(out.logits[0].split(lengths))


def see(model: Any, images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Computes the logits (images, classes) that an unpadded ViT has for images (3, height, width) of any sizes that
    its patches divide; positions between those that it has learnt are interpolated."""
    tokens = embedded(model, images)
    x, lengths = torch.cat(tokens)[None], tuple(map(len, tokens))
    for layer in model.vit.layers:
        x = layer(x, lengths=lengths)
    firsts = torch.tensor(lengths, device=x.device).cumsum(0) - torch.tensor(lengths, device=x.device)
    return model.classifier(model.vit.layernorm(x[0, firsts]))


def embedded(model: Any, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Makes the tokens (N, width) of each image, the class token first."""
    return [model.vit.embeddings(image[None], interpolate_pos_encoding=True)[0] for image in images]


@functools.lru_cache(64)
def _core(variant: str, lengths: tuple[int, ...], **shape: Any) -> Attention:
    return create(variant, lengths=lengths, **shape)


def _attend(variant: str, module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
            attention_mask: torch.Tensor | None, *, lengths: tuple[int, ...] | None = None, dropout: float = 0.0,
            scaling: float | None = None, **kwargs: Any) -> tuple[torch.Tensor, None]:
    """Computes attention of query, key and value (1, H, N, D) -> ((1, N, H, D), None).

    Raises ValueError where a call says no lengths, or wants dropout or a mask: then padding would be attended to.
    """
    if lengths is None or attention_mask is not None or dropout:
        raise ValueError("this model reads packed sequences by models.packed, without mask and dropout of attention: "
                         "call set_attn_implementation to have another attention")
    core = _core(variant, lengths, heads=query.shape[1], kv_heads=key.shape[1], head_dim=query.shape[3],
                 causal=getattr(module, "is_causal", True), scale=scaling)
    return core(query, key, value).transpose(1, 2).contiguous(), None
