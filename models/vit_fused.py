"""Gives transformers' ViT fewer and larger products, with the same weights and the same results.

One product instead of three computes queries, keys and values: with 6304 rows (32 images of 197 tokens) a GPU fills its
last wave of tiles better with 3 x 1024 columns. Patches do not overlap, so a product replaces the convolution, for
which cuDNN would first transpose the image.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.models.vit.modeling_vit import (
    ALL_ATTENTION_FUNCTIONS,
    ViTAttention,
    ViTPatchEmbeddings,
    eager_attention_forward,
)


class FusedAttention(nn.Module):
    """This attention stacks the three projections of `separate` in `qkv`: rows of queries, then keys, then values."""

    def __init__(self, separate: ViTAttention) -> None:
        super().__init__()
        self.config, self.head_dim, self.scaling = separate.config, separate.head_dim, separate.scaling
        self.is_causal, self.attention_dropout = separate.is_causal, separate.attention_dropout
        self.o_proj = separate.o_proj
        three = (separate.q_proj, separate.k_proj, separate.v_proj)
        self.qkv = nn.Linear(three[0].in_features, sum(one.out_features for one in three), device="meta",
                             bias=three[0].bias is not None)
        self.qkv.weight = nn.Parameter(torch.cat([one.weight.detach() for one in three]))
        if three[0].bias is not None:
            self.qkv.bias = nn.Parameter(torch.cat([one.bias.detach() for one in three]))

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None,
                **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Computes (B, N, hidden) -> the same shape, and the weights that the attention gives or None."""
        shape = hidden_states.shape[:-1]
        q, k, v = (one.transpose(1, 2) for one in self.qkv(hidden_states).view(*shape, 3, -1, self.head_dim).unbind(-3))
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        out, weights = attend(self, q, k, v, attention_mask, scaling=self.scaling,
                              dropout=self.attention_dropout if self.training else 0.0, **kwargs)
        return self.o_proj(out.reshape(*shape, -1).contiguous()), weights


class PatchProjection(nn.Module):
    """This product replaces `convolution`, whose kernels lie side by side (stride = size)."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.size = convolution.kernel_size
        self.weight = nn.Parameter(convolution.weight.detach().flatten(1))  # (hidden, channels x height x width)
        self.bias = convolution.bias

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Computes (B, channels, H, W) -> (B, hidden, H / height, W / width), as the convolution does."""
        height, width = self.size
        patches = images.unflatten(3, (-1, width)).unflatten(2, (-1, height))  # B C rows height columns width
        rows = patches.permute(0, 2, 4, 1, 3, 5)
        return functional.linear(rows.flatten(3), self.weight, self.bias).permute(0, 3, 1, 2)


def fuse(model: nn.Module) -> None:
    """Replaces each ViTAttention by a FusedAttention and the convolution by a PatchProjection, in place."""
    for module in list(model.modules()):
        if isinstance(module, ViTPatchEmbeddings):
            convolution: Any = module.projection
            module.projection = PatchProjection(convolution)  # type: ignore[assignment]
        for name, child in list(module.named_children()):
            if isinstance(child, ViTAttention):
                setattr(module, name, FusedAttention(child))
