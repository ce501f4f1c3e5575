"""Names the part of a model that each weight belongs to, by the names of the layers in each family."""
from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import nn

PACKED = r"\b(c_attn|qkv)\b"  # q, k and v beside one another in one weight
PARTS = {"q": r"\b(q_proj|q_layers)\b", "k": r"\b(k_proj|k_layers)\b", "v": r"\b(v_proj|v_layer)\b",
         "attention's output": r"\b(o_proj|w_h|attn\.c_proj)\b", "norms": r"norm\w*\.(weight|bias)$|\bln_",
         "mlp": r"\bmlp\b", "embeddings": r"embedding|\bwte\b|\bwpe\b", "recurrence": r"\blstm_"}
REST = "other layers"
DEVIATION = 1.5  # of q and k after `sharpen`, where the features that they are made of have 1


def shares(name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Cuts a weight, or its gradient, into parts: views of it."""
    if re.search(PACKED, name):
        longest = max(range(weight.dim()), key=weight.shape.__getitem__)
        yield from zip("qkv", weight.chunk(3, longest), strict=True)
    else:
        yield next((part for part, names in PARTS.items() if re.search(names, name)), REST), weight


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """Gives the gradients of all weights by part, flat and in float64; zeros where a weight that learns has none."""
    found: dict[str, list[torch.Tensor]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            for part, share in shares(name, gradient):
                found.setdefault(part, []).append(share.double().flatten())
    return {part: torch.cat(each) for part, each in found.items()}


def sharpen(model: nn.Module) -> nn.Module:
    """Widens the projections of q and k in place, so that scores have a deviation of about 2.

    With GPT-2's initial weights, 0.02 wide, scores have one of 0.3: attention is flat, and its scale, its mask and the
    gradients of q and k hardly show.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            inputs = min(weight.shape) if re.search(PACKED, name) else weight.shape[-1]
            for part, share in shares(name, weight):
                if part in ("q", "k") and weight.dim() == 2:
                    share.mul_(DEVIATION / (share.double().std() * inputs ** 0.5))
    return model
