"""Makes every registered attention variant an attention implementation of transformers.

Importing this module registers all variants, under `hf_name(variant)`, with transformers'
AttentionInterface and AttentionMaskInterface, so that `model.set_attn_implementation(hf_name("alibi:flex"))`
works on any model that uses both (GPT-2, ViT and most others).

A variant applies the causal mask itself; `models.transformers_masks` reads transformers' masks for it. Any other mask
raises ValueError.
"""
from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

import attention
from attention import registry
from models.registry import Preset
from models.transformers_masks import key_mask, read

# Arguments with which some models change the attention; no variant has them.
UNKNOWN = ("head_mask", "position_bias", "softcap", "s_aux", "sliding_window", "cache")

_registered: dict[str, tuple[str, dict[str, Any]]] = {}
_cores: dict[int, dict[tuple, attention.Attention]] = {}


def hf_name(variant: str, **options: Any) -> str:
    """Gives the name of a variant in transformers: `softmax:sdpa-flash` is `softmax:sdpa-fa`.

    transformers takes a name with "flash" for its own flash attention and one with a slash for a kernel to download.
    Options follow in brackets: `sliding-window:fa2(window=64)`.
    """
    name = variant.replace("flash", "fa").replace("/", "-")
    settings = ",".join(f"{option}={value}" for option, value in sorted(options.items()))
    return f"{name}({settings})" if settings else name


def register(variant: str, **options: Any) -> str:
    """Registers a variant with these options in transformers and gives its name there; a second time nothing changes.

    Raises ValueError for an unknown variant or option, or if another variant has that name already.
    """
    if variant not in attention.names():
        raise ValueError(f"unknown attention variant {variant!r}; choices: {', '.join(attention.names())}")
    registry.function(variant.partition(":")[0]).complete(options)  # raises for an unknown option
    name = hf_name(variant, **options)
    owner = _registered.setdefault(name, (variant, options))
    if owner != (variant, options):
        raise ValueError(f"{variant} and {owner[0]} are both {name!r} in transformers; rename one")
    if name not in AttentionInterface():
        AttentionInterface.register(name, _forward(variant, options))
        AttentionMaskInterface.register(name, key_mask)
    return name


def attach(model: Any, preset: Preset, variant: str, options: dict[str, Any]) -> None:
    """Sets the variant of a preset's model and builds it now, since torch.compile could not build it later.

    After `set_attn_implementation` alone, call the model once before you compile it.
    """
    model.set_attn_implementation(register(variant, **options))
    core(model.config, variant, options, heads=preset.heads, kv_heads=preset.kv_heads,
         head_dim=preset.head_dim, causal=preset.causal, scale=preset.head_dim ** -0.5)


def core(config: Any, variant: str, options: dict[str, Any], **shape: Any) -> attention.Attention:
    """Gives the module of a variant, one for all layers of the same shape in the model that `config` belongs to.

    The layers share its compiled kernel and its stored masks, which are freed with the model.
    Raises ValueError for a variant with weights, since layers would share them too.
    """
    cores = _cores.get(id(config))
    if cores is None:
        cores = _cores[id(config)] = {}
        weakref.finalize(config, _cores.pop, id(config), None)
    key = (variant, *options.items(), *shape.items())
    if key not in cores:
        module = attention.create(variant, **shape, **options)
        if next(module.parameters(), None) is not None:
            raise ValueError(f"{variant} has weights, for which transformers' attention has no place; "
                             "use attention.create in a model of your own")
        cores[key] = module
    return cores[key]


def _forward(variant: str, options: dict[str, Any]) -> Callable[..., tuple[torch.Tensor, None]]:
    static_cache = registry.function(variant.partition(":")[0]).static_cache

    def attend(module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
               attention_mask: torch.Tensor | None, dropout: float = 0.0, scaling: float | None = None,
               is_causal: bool | None = None, **kwargs: Any) -> tuple[torch.Tensor, None]:
        """Computes attention of query (B, H, N, D), key and value (B, G, M, D) -> ((B, N, H, D), None)."""
        if dropout:
            raise ValueError(f"{variant} has no dropout of attention weights: set the model's from {dropout} to 0")
        for name in UNKNOWN:
            if (argument := kwargs.get(name)) is not None and argument is not False:
                raise ValueError(f"{variant} can't take {name}: use attn_implementation='eager'")
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        tokens, keep = read(attention_mask, variant, query.shape[2], key.shape[2], causal=causal,
                            static_cache=static_cache)
        if tokens < key.shape[2]:
            key, value = key[:, :, :tokens], value[:, :, :tokens]
        attend_core = core(module.config, variant, options, heads=query.shape[1], kv_heads=key.shape[1],
                           head_dim=query.shape[3], causal=causal, scale=scaling)
        return attend_core(query, key, value, keep).transpose(1, 2).contiguous(), None

    return attend


for _name in attention.names():
    register(_name)
