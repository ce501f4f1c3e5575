"""Helpers for the tests of models: variants to run, sharp models, the error-ratio rule for logits."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import attention
import models
from attention.registry import functions
from attention.registry import variant as find
from attention.testing import FLOOR, K
from models.data import docstrings
from models.registry import Preset

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

# A small window, so that it hides something from a few tokens.
OPTIONS: dict[str, dict[str, Any]] = {
    name: {"window": 5} if name == "sliding-window" else {} for name, function in functions().items()}


def options(variant: str) -> dict[str, Any]:
    return OPTIONS[variant.partition(":")[0]]


def variants(function: str | None = None) -> list[Any]:
    """Lists every variant that fits a model, on every device that it can run on.

    Functions with weights of their own, without a causal form or with only one query do not fit. Variants that compile
    for each shape, and functions outside the core, are marked slow.
    """
    return [pytest.param(name, device, marks=[] if _quick(name) else [pytest.mark.slow], id=f"{name}-{device}")
            for device in DEVICES for name in attention.names(function, device=device) if _fits(name)]


def _quick(variant: str) -> bool:
    entry = find(variant)
    return entry.function.core and not entry.backend.compiled


def _fits(variant: str) -> bool:
    function = find(variant).function
    return function.parameters is None and function.causal and function.cross and function.queries is None


def serve(variant: str, device: str, **call: Any) -> torch.dtype:
    """Gives float32 if the variant takes it, else bfloat16; skips, with the reason, if it takes neither."""
    reason = None
    for dtype in (torch.float32, torch.bfloat16):
        reason = attention.why_not(variant, device=device, dtype=dtype, **call, **options(variant))
        if reason is None:
            return dtype
    pytest.skip(str(reason))


def create(preset: str | Preset, variant: str = "softmax:eager", **settings: Any) -> Any:
    """Builds a tiny model with large weights, since with small ones attention is flat and a wrong mask hardly shows."""
    if models.get(preset).family != "tft":
        settings = {"initializer_range": 0.3, **settings}
    return models.create(preset, attention=variant, attention_options=options(variant), **settings)


def assert_as_exact(run: Callable[[Any], torch.Tensor], model: Any, preset: str | Preset, variant: str,
                    dtype: torch.dtype) -> None:
    """Asserts the error-ratio rule of attention.testing for a whole model.

    `run(model)` with the variant in `dtype` may be off by K times what the function's eager variant in
    `dtype` is off, both against eager in float64.
    """
    eager = variant.partition(":")[0] + ":eager"
    with torch.no_grad():
        exact = run(create(preset, eager, dtype=torch.float64))
        same = run(create(preset, eager, dtype=dtype)).double()
        actual = run(model).double().cpu()
    bound = K * (same - exact).abs().max() + FLOOR[dtype] * torch.finfo(dtype).eps * exact.abs().max()
    error = (actual - exact).abs().max()
    assert error <= bound, f"{variant}: error {error:.2e}, allowed {bound:.2e}"


def left_padded(batch: int, n: int, vocabulary: int) -> dict[str, torch.Tensor]:
    """Makes tokens with padding in front of each sequence but the first, and their positions."""
    tokens = torch.randint(vocabulary, (batch, n), generator=torch.Generator().manual_seed(5))
    mask = torch.ones(batch, n, dtype=torch.long)
    for sequence in range(1, batch):
        mask[sequence, :2 * sequence + 1] = 0
    return {"input_ids": tokens, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def unigram_entropy(train: docstrings.Texts, held_out: docstrings.Texts) -> float:
    """Computes the nats per held-out token of a model without context, which guesses by the counts in `train`."""
    counts, test_counts = (_counts(texts) for texts in (train, held_out))
    counts = counts + 1  # no token costs infinity
    return -(test_counts * (counts / counts.sum()).log()).sum().item() / test_counts.sum().item()


def _counts(texts: docstrings.Texts) -> torch.Tensor:
    _, targets = texts.batch(torch.arange(len(texts)))
    return targets[targets != docstrings.IGNORED].bincount(minlength=texts.tokenizer.get_vocab_size())
