"""A small GPT-2 trained with each of study 003's attentions, and the softmax one's weights with another swapped in."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

import attention
import models
from models import gpt2
from models.data import docstrings, split
from models.quality import evaluate
from models.recipes import recipe
from models.registry import Preset
from models.training import fit
from models.transformers_attention import key_mask

OWN = "own-core"


@dataclass(frozen=True)
class Read:
    """Of held-out text: perplexity, and points of next tokens that are the likeliest one."""

    perplexity: float
    accuracy: float


def create(preset: str | Preset, variant: str, options: Mapping[str, Any], device: torch.device) -> nn.Module:
    """The preset with a variant of its own in every layer: what it learns is the layer's, for which transformers'
    attention functions have no place. All other weights are the same for every variant.

    Raises ValueError, in one line, for a variant that can't serve it.
    """
    preset = models.get(preset)
    shape: dict[str, Any] = {"heads": preset.heads, "head_dim": preset.head_dim, "causal": preset.causal}
    length = preset.sizes["positions"]
    if reason := attention.why_not(variant, device=device, n=length, grad=True, **shape, **options):
        raise ValueError(reason)
    model: Any = models.create(preset, attention="softmax:sdpa", device=device)
    for block in model.transformer.h:
        block.attn.core = attention.create(variant, device=device, seq_len=length, **shape, **options)
    AttentionInterface.register(OWN, _attend)
    AttentionMaskInterface.register(OWN, key_mask)
    model.set_attn_implementation(OWN)
    return model


def _attend(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
            attention_mask: torch.Tensor | None, **unused: Any) -> tuple[torch.Tensor, None]:
    """Scaled by 1/sqrt(head_dim), as GPT-2 is; its dropout of weights is 0 here."""
    return module.core(query, key, value, attention_mask).transpose(1, 2).contiguous(), None


def train(model: nn.Module, preset: str | Preset, steps: int, seconds: float) -> int:
    """In place, by the preset's recipe but for its `steps`; how many were done before the seconds were over."""
    preset = models.get(preset)
    done = [0]
    fit(model, preset, split(preset)[0], replace(recipe(preset), steps=steps), seconds=seconds,
        progress=lambda step, *_: done.append(step))
    return done[-1]


def read(model: nn.Module, preset: str | Preset, limit: int | None = None) -> Read:
    """The first `limit` (all) held-out texts."""
    perplexity = evaluate(model, preset, limit=limit)["perplexity"].value
    _, held_out = split(preset)
    items = torch.arange(len(held_out) if limit is None else min(limit, len(held_out)))
    right = counted = 0
    with torch.no_grad():
        for some in items.split(64):
            inputs, following = held_out.to(next(model.parameters()).device).batch(some)
            real = following != docstrings.IGNORED
            hits = gpt2.logits(model, inputs["input_ids"]).argmax(-1) == following  # type: ignore[arg-type]
            right, counted = right + int((hits & real).sum()), counted + int(real.sum())
    return Read(perplexity, 100 * right / counted)


def swapped(trained: nn.Module, preset: str | Preset, variant: str, options: Mapping[str, Any],
            device: torch.device) -> nn.Module:
    """Another attention under the weights of a trained model: no retraining. Its own parameters are as they start."""
    model = create(preset, variant, options, device)
    own = {name: weight for name, weight in trained.state_dict().items() if ".core." not in name}
    missing = model.load_state_dict(own, strict=False).missing_keys
    assert all(".core." in name for name in missing), missing
    return model.eval()
