"""Carries masks between transformers and the attention variants: the keys that are visible, apart from causality.

A variant applies the causal mask itself, with its queries aligned to the end of the keys. Only padding comes from
outside. `key_mask` gives transformers one of these, and every layer passes it to `read`:

    None         every key is visible
    (B, L) bool  padding is False; if there are more keys than L, the rest is the empty part of a static cache
    (B, 1, M)    the same for one query on a static cache: False for padding and for all keys after the query

None of them can be mistaken for a user's mask (B, H, N, M) of queries by keys. Such a mask is read too, if it is only
padding and causality.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function
from transformers.utils.import_utils import is_tracing

from attention import registry

Mask = torch.Tensor | None

def key_mask(batch_size: int, q_length: int, kv_length: int, q_offset: int | torch.Tensor = 0,
             kv_offset: int = 0, mask_function: Callable = causal_mask_function,
             attention_mask: Mask = None, **unused: Any) -> Mask:
    """Makes the mask of a call; it is the mask function that transformers calls for all variants.

    `attention_mask` is (B, all tokens so far), True = no padding. Raises ValueError for a mask other than causal or
    full with padding, and for queries that are not the last tokens.
    """
    if mask_function not in (causal_mask_function, bidirectional_mask_function):
        raise ValueError("attention variants know padding, not packed sequences, sliding windows or custom "
                         "masks (compiling or capturing without a cache, transformers always assumes packed "
                         "sequences: pass use_cache=True)")
    if isinstance(q_offset, torch.Tensor):
        return _one_query(batch_size, q_length, kv_length, q_offset, attention_mask)
    tokens = q_offset + q_length
    if tokens > kv_offset + kv_length or (tokens < kv_offset + kv_length and kv_offset):
        raise ValueError(f"attention variants align queries to the end of the keys, but {q_length} queries at "
                         f"{q_offset} meet {kv_length} keys at {kv_offset} here: use a DynamicCache")
    if attention_mask is not None and attention_mask.shape != (batch_size, tokens):
        raise ValueError(f"attention_mask {tuple(attention_mask.shape)} must cover all tokens, cached ones "
                         f"too: expected ({batch_size}, {tokens})")
    if tokens < kv_length:
        return attention_mask if attention_mask is not None else torch.ones(
            batch_size, tokens, dtype=torch.bool, device=unused.get("device"))
    # While a graph is recorded the mask can't be read to see whether anything is padded, so it stays.
    if attention_mask is None or (not is_tracing(attention_mask) and attention_mask.all()):
        return None
    return attention_mask[:, kv_offset:]


def _one_query(batch: int, n: int, m: int, position: torch.Tensor, attention_mask: Mask) -> torch.Tensor:
    """Makes the mask (B, 1, M) of the query at `position`, a tensor on the device, on a static cache."""
    if n != 1:
        raise ValueError(f"attention variants take one query at a time from a static cache that holds tokens, not {n}: "
                         "use a DynamicCache")
    visible = (torch.arange(m, device=position.device) <= position).expand(batch, m)
    if attention_mask is not None:
        visible = visible & functional.pad(attention_mask, (0, m - attention_mask.shape[1]))
    return visible.unsqueeze(1)


def read(mask: Mask, variant: str, n: int, m: int, *, causal: bool, static_cache: bool) -> tuple[int, Mask]:
    """Reads a layer's mask of `n` queries on `m` keys: the number of keys that hold tokens, and their mask (B, M).

    `static_cache` is that of the variant's function. Raises ValueError for a mask that the variant can't apply.
    """
    if mask is None:
        return m, None
    if mask.dim() == 4:
        return m, _padding(mask, variant, n, m, causal)
    if mask.dim() == 3:
        if not static_cache:
            able = ", ".join(name for name, function in registry.functions().items() if function.static_cache)
            raise ValueError(f"{variant} counts positions from the last key, which in a static cache is an empty one: "
                             f"use a DynamicCache, or one of {able}")
        return m, mask[:, 0]
    tokens = mask.shape[1]
    return tokens, None if tokens < m and not is_tracing(mask) and mask.all() else mask


def _padding(mask: torch.Tensor, variant: str, n: int, m: int, causal: bool) -> torch.Tensor:
    """Reads the key mask from a mask (B, 1, N, M) of True and False, or of 0 and the lowest number."""
    refusal = (f"{variant} takes padding and causality, not a mask {tuple(mask.shape)} of queries by keys that is "
               "more: use attn_implementation='sdpa'")
    if mask.shape[1:] != (1, n, m):
        raise ValueError(refusal)
    visible = mask if mask.dtype == torch.bool else mask == 0
    keep = visible[:, 0, -1]  # causality hides nothing from the last query
    expected = keep[:, None, None]
    if causal:
        expected = expected & torch.ones(n, m, dtype=torch.bool, device=mask.device).tril(m - n)
    right = (visible == expected) | ~expected.any(-1, keepdim=True)  # the mask of a row of padding doesn't matter
    if mask.dtype != torch.bool:
        right = right & (visible | (mask <= torch.finfo(mask.dtype).min))
    if is_tracing(mask):
        torch._assert_async(right.all(), refusal)
    elif not right.all():
        raise ValueError(refusal)
    return keep
