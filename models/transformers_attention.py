"""Every registered attention variant as an attention implementation of transformers.

Importing this module registers all variants, under `hf_name(variant)`, with transformers'
AttentionInterface and AttentionMaskInterface, so that `model.set_attn_implementation(hf_name("alibi:flex"))`
works on any model that uses both (GPT-2, ViT and most others).

Who masks what: a variant does causality itself, its queries aligned to the end of the keys, so one rule
serves prefill, chunked prefill and decoding. Only padding comes from outside. The mask function therefore
gives a bool key mask (B, M), or None when nothing is padded; being two-dimensional, it is not mistaken for a
mask of queries by keys that a user made. Whatever these two can't express raises ValueError.
"""
from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function
from transformers.utils.import_utils import is_tracing

import attention
from attention import registry
from models.registry import Preset

# Arguments with which some models change what attention computes; none of the variants knows them.
UNKNOWN = ("head_mask", "position_bias", "softcap", "s_aux", "sliding_window", "cache")

_registered: dict[str, tuple[str, dict[str, Any]]] = {}
_cores: dict[int, dict[tuple, attention.Attention]] = {}


def hf_name(variant: str, **options: Any) -> str:
    """The name of a variant in transformers, which takes any name with "flash" for its own flash attention
    and one with a slash for a kernel to download: `softmax:sdpa-flash` is `softmax:sdpa-fa`. Options that
    are not the function's defaults stand behind it: `sliding-window:fa2(window=64)`."""
    name = variant.replace("flash", "fa").replace("/", "-")
    given = ",".join(f"{option}={value}" for option, value in sorted(options.items()))
    return f"{name}({given})" if given else name


def register(variant: str, **options: Any) -> str:
    """Makes a variant with these options known to transformers; returns its name there. Doing it again
    changes nothing.

    Raises ValueError for an unknown variant or option, or if another variant has that name already.
    """
    if variant not in attention.names():
        raise ValueError(f"unknown attention variant {variant!r}; choices: {', '.join(attention.names())}")
    registry.function(variant.partition(":")[0]).complete(options)  # raises for an unknown option
    name = hf_name(variant, **options)
    known = _registered.setdefault(name, (variant, options))
    if known != (variant, options):
        raise ValueError(f"{variant} and {known[0]} are both {name!r} in transformers; rename one")
    if name not in AttentionInterface():
        AttentionInterface.register(name, _forward(variant, options))
        AttentionMaskInterface.register(name, key_mask)
    return name


def attach(model: Any, preset: Preset, variant: str, options: dict[str, Any]) -> None:
    """Puts the model of a preset on a variant, and builds that now, which torch.compile could not do.
    (After `set_attn_implementation` alone, call the model once before compiling it.)"""
    model.set_attn_implementation(register(variant, **options))
    core(model.config, variant, options, heads=preset.heads, kv_heads=preset.kv_heads,
         head_dim=preset.head_dim, causal=preset.causal, scale=preset.head_dim ** -0.5)


def core(config: Any, variant: str, options: dict[str, Any], **shape: Any) -> attention.Attention:
    """The built variant, one for all alike layers of the model that `config` belongs to: what it compiles and
    the masks it keeps are shared by them, and gone with the model.

    Raises ValueError for a variant with weights, which would be shared as well.
    """
    cores = _cores.get(id(config))
    if cores is None:
        cores = _cores[id(config)] = {}
        weakref.finalize(config, _cores.pop, id(config), None)
    key = (variant, *options.items(), *shape.items())
    if key not in cores:
        built = attention.create(variant, **shape, **options)
        if next(built.parameters(), None) is not None:
            raise ValueError(f"{variant} has weights, for which transformers' attention has no place; "
                             "use attention.create in a model of your own")
        cores[key] = built
    return cores[key]


def key_mask(batch_size: int, q_length: int, kv_length: int, q_offset: int | torch.Tensor = 0,
             kv_offset: int = 0, mask_function: Callable = causal_mask_function,
             attention_mask: torch.Tensor | None = None, **unused: Any) -> torch.Tensor | None:
    """transformers' mask function: which keys are not padding, bool (B, M), or None for all.

    `attention_mask` is (B, all tokens so far). Raises ValueError for a mask that is more than
    causality, or none, and padding; and for queries that do not stand at the end of the keys.
    """
    if mask_function not in (causal_mask_function, bidirectional_mask_function):
        raise ValueError("attention variants know padding, not packed sequences, sliding windows or custom "
                         "masks (compiling or capturing without a cache, transformers always assumes packed "
                         "sequences: pass use_cache=True)")
    if isinstance(q_offset, torch.Tensor) or q_offset + q_length != kv_offset + kv_length:
        raise ValueError(f"attention variants align queries to the end of the keys, but {q_length} queries at "
                         f"{q_offset} meet {kv_length} keys at {kv_offset} here: use a DynamicCache")
    if attention_mask is None:
        return None
    if attention_mask.shape != (batch_size, kv_offset + kv_length):
        raise ValueError(f"attention_mask {tuple(attention_mask.shape)} must cover all tokens, cached ones "
                         f"too: expected ({batch_size}, {kv_offset + kv_length})")
    # Whether anything is padded can't be read while a graph is recorded; then the mask stays.
    if not is_tracing(attention_mask) and attention_mask.all():
        return None
    return attention_mask[:, kv_offset:]


def _forward(variant: str, options: dict[str, Any]) -> Callable[..., tuple[torch.Tensor, None]]:
    def attend(module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
               attention_mask: torch.Tensor | None, dropout: float = 0.0, scaling: float | None = None,
               is_causal: bool | None = None, **kwargs: Any) -> tuple[torch.Tensor, None]:
        """query (B, H, N, D), key and value (B, G, M, D) -> ((B, N, H, D), no weights)."""
        if dropout:
            raise ValueError(f"{variant} has no dropout of attention weights: set the model's from {dropout} to 0")
        for name in UNKNOWN:
            if (given := kwargs.get(name)) is not None and given is not False:
                raise ValueError(f"{variant} can't take {name}: use attn_implementation='eager'")
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(f"{variant} takes padding (B, M), not a mask {tuple(attention_mask.shape)} of "
                             "queries by keys: use attn_implementation='sdpa'")
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        built = core(module.config, variant, options, heads=query.shape[1], kv_heads=key.shape[1],
                     head_dim=query.shape[3], causal=causal, scale=scaling)
        return built(query, key, value, attention_mask).transpose(1, 2).contiguous(), None

    return attend


for _name in attention.names():
    register(_name)
