"""Creates a model: a preset, with a variant of attention, quantised and compiled if asked."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from models.quantization.method import Method, why_not_here
from models.quantization.method import get as get_method
from models.quantization.quantize import quantize
from models.registry import Preset, build, get


def create(preset: str | Preset, *, attention: str = "softmax:eager", seed: int = 0,
           dtype: torch.dtype | None = None, device: str | torch.device = "cpu",
           attention_options: Mapping[str, Any] | None = None, quantization: str | Method | None = None,
           skip: Iterable[str] = (), compile: bool | Mapping[str, Any] = False, **sizes: Any) -> nn.Module:
    """Builds a model with random weights from `seed`, in eval mode, with variant `attention`.

    `quantization` is a method of `models.quantization`, `skip` names layers that it must not quantise, and `dtype` is
    the dtype it computes in; without a method `dtype` is that of the weights, by default float32. `compile` applies
    torch.compile in place, at the first call; a mapping holds options for inductor. `sizes` changes numbers of the
    preset (`layers=2`).

    Raises ValueError for an unknown preset, size, variant or method, and, with the line of `attention.why_not` or
    `quantization.why_not`, for a variant that can't serve the preset and a method that can't run.
    """
    preset = get(preset)
    method = None
    if quantization is not None:
        method = get_method(quantization, **({} if dtype is None else {"dtype": dtype}))
        if reason := why_not_here(method, device):
            raise ValueError(f"{preset.name}: {reason}")
    elif tuple(skip):
        raise ValueError(f"{preset.name}: skip={skip!r} without a quantization: nothing is quantised")
    model = build(preset, attention=attention, seed=seed, device=device, attention_options=attention_options,
                  dtype=method.dtype if method else dtype or torch.float32, **sizes)
    if method:
        quantize(model, method, skip=skip)
    if compile is not False:
        options = {**(method.inductor if method else {}), **({} if compile is True else compile)}
        model.compile(options=options or None)
    return model
