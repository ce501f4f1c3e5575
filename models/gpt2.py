"""GPT-2 (Radford et al. 2019) and DistilGPT-2: transformers' own class with any attention variant.

Positions: GPT-2 adds a learned position embedding. ALiBi (arXiv 2108.12409) takes its place: "we do not add
position embeddings at any point". So a model built with an ALiBi variant has its position embedding set to
zero and frozen (`position_embedding="auto"`); "learned" keeps it under ALiBi, "none" drops it under any
function. `set_attn_implementation` on a built model changes only the attention, not this choice.

Attention dropout is 0 (GPT-2: 0.1), because fused kernels have none; the other dropouts are GPT-2's. GELU is GPT-2's
own, by tanh, in one kernel: transformers' `gelu_new` is eight, and fourteen backward.
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

from models import transformers_attention
from models.registry import Preset, get, require

REPLACES_POSITIONS = ("alibi",)


class GPT2LMHeadModel(transformers.GPT2LMHeadModel):
    """transformers' own, which also gives the loss of the tokens that follow."""

    @functools.wraps(transformers.GPT2LMHeadModel.forward)  # its signature is read by `generate`
    def forward(self, *args: Any, following: torch.Tensor | None = None,  # type: ignore[override]
                **kwargs: Any) -> Any:
        """As transformers' own; with `following` (B, n) the mean cross-entropy of those tokens, -100 left out."""
        if following is None:
            return super().forward(*args, **kwargs)
        hidden, head = self.transformer(*args, **kwargs).last_hidden_state.flatten(0, 1), self.lm_head
        words = aligned(hidden, head.weight) if type(head) is nn.Linear and hidden.is_cuda else head(hidden)
        return functional.nll_loss(functional.log_softmax(words, -1, dtype=torch.float32), following.flatten())


def build(preset: str | Preset, *, attention: str = "softmax:eager", seed: int = 0,
          dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu",
          attention_options: Mapping[str, Any] | None = None) -> GPT2LMHeadModel:
    """A preset with random weights from `seed`, the same on every device, in eval mode.

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
    """Seeded tokens (B, n) and the options of a prefill: fill a cache, logits of the last token only.

    `dtype` is that of the model; tokens have none. Raises ValueError for more tokens than positions.
    """
    tokens = _tokens(get(preset), batch, n, before=0, device=device, seed=seed)
    return {"input_ids": tokens, "use_cache": True, "logits_to_keep": 1}


def decode_inputs(model: GPT2LMHeadModel, preset: str | Preset, *, batch: int, m: int,
                  seed: int = 0) -> dict[str, Any]:
    """One token (B, 1) and a cache of the `m` tokens before it, which the model read here."""
    device = model.device
    with torch.no_grad():
        cache = model(**inputs(preset, batch=batch, n=m, device=device, seed=seed)).past_key_values
    cache.layers = [_OneMore(layer) for layer in cache.layers]
    token = _tokens(get(preset), batch, 1, before=m, device=device, seed=seed + 1)
    return {"input_ids": token, "past_key_values": cache}


def decode(model: GPT2LMHeadModel, inputs: dict[str, Any]) -> torch.Tensor:
    """Logits (B, 1, vocabulary) of the token after `decode_inputs`, whose cache stays as it was."""
    return model(**inputs, use_cache=True).logits


class _OneMore(DynamicLayer):
    """A layer of a cache and one place behind it, which each token takes in turn. transformers' own layer copies all
    keys and values to add a token; a server's cache does not."""

    keys: Any
    values: Any

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.length = layer.keys.shape[2]
        self.keys, self.values = (functional.pad(x, (0, 0, 0, 1)) for x in (layer.keys, layer.values))

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any,
               **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        for kept, new in ((self.keys, key_states), (self.values, value_states)):
            kept[:, :, self.length:] = new
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.length


class _KeepNothing(DynamicCache):
    """Without a cache transformers reads position_ids back from the device, to look for packed sequences:
    that waits for the device, and neither CUDA graphs nor torch.compile can record it."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any,
               **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return key_states, value_states


def loss(model: GPT2LMHeadModel, inputs: dict[str, Any]) -> torch.Tensor:
    """Mean cross-entropy of every next token of `input_ids` (B, n), n > 1."""
    tokens = inputs["input_ids"]
    following = functional.pad(tokens[:, 1:], (0, 1), value=-100)  # nothing follows the last
    return model(tokens, past_key_values=_KeepNothing(), use_cache=False, following=following)


def aligned(x_RF: torch.Tensor, weight_VF: torch.Tensor) -> torch.Tensor:
    """Logits (R, V and up to 7 more, which are -inf): the width is a multiple of 8.

    GPT-2 has 50,257 words. For rows of an odd length cuBLAS has no kernel of Hopper's, only one of Turing's.
    """
    more = -len(weight_VF) % 8
    bias = functional.pad(x_RF.new_zeros(len(weight_VF)), (0, more), value=-torch.inf)
    return functional.linear(x_RF, functional.pad(weight_VF, (0, 0, 0, more)), bias)


def logits(model: GPT2LMHeadModel, tokens: torch.Tensor) -> torch.Tensor:
    """Of every position: (B, n) -> (B, n, vocabulary)."""
    return model(input_ids=tokens, past_key_values=_KeepNothing(), use_cache=False).logits


def _tokens(preset: Preset, batch: int, n: int, *, before: int, device: str | torch.device,
            seed: int) -> torch.Tensor:
    positions = preset.sizes["positions"]
    if before + n > positions:
        raise ValueError(f"{preset.name} has {positions} positions, not {before + n}: change its positions")
    random = torch.Generator().manual_seed(seed)
    return torch.randint(preset.sizes["vocabulary"], (batch, n), generator=random).to(device)
