"""Builds GPT-2 (Radford et al. 2019) and DistilGPT-2: the class of transformers with any attention variant.

GPT-2 adds a learned position embedding. ALiBi (arXiv 2108.12409) replaces it: "we do not add position embeddings at any
point". So in a model with an ALiBi variant the position embedding is zero and frozen (`position_embedding="auto"`).
"learned" keeps it with ALiBi, "none" drops it with any function. `set_attn_implementation` on a model changes only the
attention, not this choice.

Attention dropout is 0 (in GPT-2 0.1), because fused kernels have none; the other dropouts are GPT-2's. GELU is GPT-2's
formula by tanh, in one kernel; transformers' `gelu_new` needs eight, and fourteen backward.
"""
from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers import DynamicCache, GPT2Config
from transformers.cache_utils import DynamicLayer

from attention.backends.compiling import compiled_on_gpu
from models import transformers_attention
from models.registry import Preset, get, require

REPLACES_POSITIONS = ("alibi",)
FEW = 256  # rows whose logits take fewer bytes than the weight


class GPT2LMHeadModel(transformers.GPT2LMHeadModel):
    """This is transformers' class; it can also compute the loss of the next tokens."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.lm_head.__class__ = Head

    @functools.wraps(transformers.GPT2LMHeadModel.forward)  # `generate` reads its signature
    def forward(self, *args: Any, targets_BN: torch.Tensor | None = None,  # type: ignore[override]
                **kwargs: Any) -> Any:
        """Computes what transformers' class does or, with `targets_BN`, their mean cross-entropy without -100."""
        if targets_BN is None:
            if len(args) < 2 and kwargs.get("use_cache") and kwargs.get("past_key_values") is None:
                kwargs["past_key_values"] = _new_cache()
            return super().forward(*args, **kwargs)
        hidden, head = self.transformer(*args, **kwargs).last_hidden_state.flatten(0, 1), self.lm_head
        words = aligned(hidden, head.weight) if type(head) is Head and hidden.is_cuda else head(hidden)
        return cross_entropy(words, targets_BN.reshape(-1, 1))


class Head(nn.Linear):
    """This is the layer of the words' logits, with a faster product of the few rows that decoding needs on a GPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, -2)
        if x.is_cuda and x.itemsize == 2 and self.bias is None and 1 < len(rows) <= FEW:
            return by_columns(rows, self.weight).view(*x.shape[:-1], -1)
        return super().forward(x)


def build(preset: str | Preset, *, attention: str = "softmax:eager", seed: int = 0,
          dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu",
          attention_options: Mapping[str, Any] | None = None) -> GPT2LMHeadModel:
    """Builds a preset with random weights from `seed`, the same on every device, in eval mode.

    Raises ValueError for an unknown preset or variant, and a variant that can't serve it.
    """
    preset = get(preset)
    sizes, options = preset.sizes, dict(attention_options or {})
    require(preset, attention, n=sizes["positions"], dtype=dtype, device=device, **options)
    config = GPT2Config(
        vocab_size=sizes["vocabulary"], n_positions=sizes["positions"], n_embd=preset.hidden,
        n_layer=preset.layers, n_head=preset.heads, attn_pdrop=0.0, resid_pdrop=sizes["dropout"],
        embd_pdrop=sizes["dropout"], initializer_range=sizes["initializer_range"],
        activation_function="gelu_pytorch_tanh",
        bos_token_id=sizes["vocabulary"] - 1, eos_token_id=sizes["vocabulary"] - 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = GPT2LMHeadModel(config)
    transformers_attention.attach(model, preset, attention, options)
    if not _learned_positions(sizes["position_embedding"], attention):
        torch.nn.init.zeros_(model.transformer.wpe.weight).requires_grad_(False)
    return model.to(device=device, dtype=dtype).eval()


def _learned_positions(choice: str, variant: str) -> bool:
    if choice not in ("auto", "learned", "none"):
        raise ValueError(f"position_embedding={choice!r} is unknown; choices: auto, learned, none")
    return choice == "learned" or (choice == "auto" and variant.partition(":")[0] not in REPLACES_POSITIONS)


def inputs(preset: str | Preset, *, batch: int, n: int, device: str | torch.device = "cpu",
           dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Any]:
    """Draws tokens (B, n) by `seed` and adds the options of a prefill: fill a cache, give only the last logits.

    `dtype` has no effect on tokens. Raises ValueError for more tokens than positions.
    """
    tokens = _tokens(get(preset), batch, n, before=0, device=device, seed=seed)
    return {"input_ids": tokens, "use_cache": True, "logits_to_keep": 1}


def decode_inputs(model: GPT2LMHeadModel, preset: str | Preset, *, batch: int, m: int,
                  seed: int = 0) -> dict[str, Any]:
    """Draws one token (B, 1) and fills a cache with the `m` tokens before it, which the model reads here."""
    device = model.device
    with torch.no_grad():
        cache = model(**inputs(preset, batch=batch, n=m, device=device, seed=seed)).past_key_values
    cache.layers = [_CacheWithRoom(layer) for layer in cache.layers]
    token = _tokens(get(preset), batch, 1, before=m, device=device, seed=seed + 1)
    return {"input_ids": token, "past_key_values": cache}


def decode(model: GPT2LMHeadModel, inputs: dict[str, Any]) -> torch.Tensor:
    """Computes the logits (B, 1, vocabulary) of the next token; the cache of `decode_inputs` stays as it is."""
    return model(**inputs, use_cache=True).logits


class _Layer(DynamicLayer):
    """This layer of a cache copies the first tokens once.

    transformers' own layer appends them to nothing, by a kernel that reaches a seventh of an H200's bandwidth: a fifth
    of the prefill of 32 x 1024 tokens.
    """

    keys: Any
    values: Any

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any,
               **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if self.is_initialized:
            return super().update(key_states, value_states, *args, **kwargs)
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        self.keys, self.values = (x.clone(memory_format=torch.contiguous_format) for x in (key_states, value_states))
        return self.keys, self.values


def _new_cache() -> DynamicCache:
    cache = DynamicCache()
    cache.layer_class_to_replicate = _Layer
    return cache


class _CacheWithRoom(DynamicLayer):
    """This layer of a cache has room for one more token, and each call writes its token there.

    transformers' own layer copies all keys and values to add a token; a server's cache does not.
    """

    keys: Any
    values: Any

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.length = layer.keys.shape[2]
        self.keys, self.values = (functional.pad(x, (0, 0, 0, 1)) for x in (layer.keys, layer.values))

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any,
               **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        for cache, new in ((self.keys, key_states), (self.values, value_states)):
            cache[:, :, self.length:] = new
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.length


class _EmptyCache(DynamicCache):
    """This cache stores nothing.

    Without any cache transformers reads position_ids back from the device to look for packed sequences. That waits for
    the device, and neither CUDA graphs nor torch.compile can record it.
    """

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any,
               **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return key_states, value_states


def loss(model: GPT2LMHeadModel, inputs: dict[str, Any]) -> torch.Tensor:
    """Computes the mean cross-entropy of every next token of `input_ids` (B, n), n > 1."""
    tokens = inputs["input_ids"]
    targets_BN = functional.pad(tokens[:, 1:], (0, 1), value=-100)  # the last token has no next one
    return model(tokens, past_key_values=_EmptyCache(), use_cache=False, targets_BN=targets_BN)


def by_columns(x_RF: torch.Tensor, weight_VF: torch.Tensor) -> torch.Tensor:
    """Computes logits (R, V) as the columns of W xᵀ, whose rows are filled up to a multiple of 8 numbers.

    It is for few rows: copying the logits is cheaper than copying the weight, as `aligned` does for the same reason.
    """
    columns_VR = weight_VF @ functional.pad(x_RF, (0, 0, 0, -len(x_RF) % 8)).mT
    return columns_VR[:, :len(x_RF)].mT.contiguous()


def aligned(x_RF: torch.Tensor, weight_VF: torch.Tensor) -> torch.Tensor:
    """Computes logits of R rows with -inf for up to 7 extra words, so that the width is a multiple of 8.

    GPT-2 has 50,257 words. For rows of an odd length cuBLAS has no kernel for Hopper, only one for Turing.
    """
    more = -len(weight_VF) % 8
    bias = functional.pad(x_RF.new_zeros(len(weight_VF)), (0, more), value=-torch.inf)
    return functional.linear(x_RF, functional.pad(weight_VF, (0, 0, 0, more)), bias)


@compiled_on_gpu
def cross_entropy(words_RV: torch.Tensor, targets_R1: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Computes the mean over rows whose target is not -100, in float32.

    Uncompiled, the logits in float32, their log-softmax and its gradient are written: 1.6 GB each for 8192 rows.
    """
    return functional.cross_entropy(words_RV.float(), targets_R1[:, 0], label_smoothing=smoothing)


def logits(model: GPT2LMHeadModel, tokens: torch.Tensor) -> torch.Tensor:
    """Computes the logits of every position, (B, n) -> (B, n, vocabulary)."""
    return model(input_ids=tokens, past_key_values=_EmptyCache(), use_cache=False).logits


def _tokens(preset: Preset, batch: int, n: int, *, before: int, device: str | torch.device,
            seed: int) -> torch.Tensor:
    positions = preset.sizes["positions"]
    if before + n > positions:
        raise ValueError(f"{preset.name} has {positions} positions, not {before + n}: change its positions")
    random = torch.Generator().manual_seed(seed)
    return torch.randint(preset.sizes["vocabulary"], (batch, n), generator=random).to(device)
