"""Lists the attentions of the GPT-2 study: one set of weights under each, checked before it is timed.

ALiBi takes the place of learned positions (arXiv 2108.12409), so its row lacks these; all other weights are equal.
The study created its attention modules anew without copying weights, and put ALiBi on top of learned positions.
"""
from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

import attention
import models
from attention.testing import FLOOR, K
from models import gpt2
from models.registry import Preset, require
from perf.workloads.workload import Workload

WINDOW = 65  # keys: a query's own and the 64 before it, |i - j| <= 64
POSITIONS = "transformer.wpe.weight"


@dataclass(frozen=True)
class Scheme:
    """Is one attention by the study's name: a function, and the backends to choose from, the first that can."""

    name: str
    function: str
    backends: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def same_function(self) -> bool:
        """Says whether it computes what the study's standard attention does."""
        return self.function == "softmax"

    def variant(self, preset: Preset, dtype: torch.dtype, device: torch.device) -> str:
        """Raises ValueError, with each backend's reason, where none can train and read this preset."""
        reasons = []
        for backend in self.backends:
            try:
                require(preset, f"{self.function}:{backend}", n=preset.sizes["positions"], dtype=dtype, device=device,
                        grad=True, **self.options)
                return f"{self.function}:{backend}"
            except ValueError as error:
                reasons.append(str(error))
        raise ValueError("; ".join(reasons))


ROWS = (Scheme("standard", "softmax", ("eager",)), Scheme("sdpa", "softmax", ("sdpa",)),
        Scheme("flash", "softmax", ("fa2", "sdpa-flash")), Scheme("ALiBi", "alibi", ("fa2", "sdpa")),
        Scheme("window 64", "sliding-window", ("fa2", "sdpa"), {"window": WINDOW}))


def build(preset: Preset, row: Scheme, dtype: torch.dtype, device: torch.device, variant: str | None = None) -> Any:
    """Builds the preset on a row's attention, with random weights from seed 0, in eval mode."""
    return models.create(preset, attention=variant or row.variant(preset, dtype, device), dtype=dtype, device=device,
                         attention_options=row.options)


def copy_weights(source: Any, target: Any) -> list[str]:
    """Copies all weights but positions that the target does not use; the names of those, the only ones that differ."""
    weights = dict(source.named_parameters())
    unused = [name for name, weight in target.named_parameters() if name == POSITIONS and not weight.requires_grad]
    with torch.no_grad():
        for name, weight in target.named_parameters():
            if name not in unused:
                weight.copy_(weights[name])
    return unused


def error_ratio(model: Any, preset: Preset, row: Scheme, *, n: int) -> float:
    """Divides the error of the logits of n tokens by what the error-ratio rule allows: twice that of the row's formula
    in the same dtype and a few eps, both against float64. Raises ValueError above 1: a wrong row is not timed."""
    weights = next(model.parameters())
    plain = build(preset, row, weights.dtype, weights.device, f"{row.function}:eager")
    copy_weights(model, plain)
    tokens = gpt2.inputs(preset, batch=1, n=n, device=weights.device)["input_ids"]
    with torch.no_grad():
        ours, same, exact = (gpt2.logits(one, tokens).double()
                              for one in (model, plain, copy.deepcopy(plain).double()))
    size = exact.abs().max()
    allowed = K * ((same - exact).abs().max() / size).item() + FLOOR[weights.dtype] * torch.finfo(weights.dtype).eps
    ratio = ((ours - exact).abs().max() / size).item() / allowed
    if not ratio <= 1:
        raise ValueError(f"{row.name}: the logits are off by {ratio:.2f} of what the error-ratio rule allows")
    return ratio


def workload(preset: Preset, variant: str, phase: str, batch: int, n: int, dtype: torch.dtype) -> Workload:
    """Returns the workload that a phase of the preset on a variant is: its prefill, its training step, or a token
    behind n."""
    function, _, backend = variant.partition(":")
    short = next(name for name, one in attention.DTYPES.items() if one == dtype)
    queries, keys = (1, n + 1) if phase == "decode" else (n, n)
    return Workload(preset.name, function, backend, phase, True, batch, preset.heads, preset.kv_heads, queries, keys,
                    preset.head_dim, short)
