"""Lists the rows of the ViT study: one trained model in each dtype, quantisation and attention, checked before it is
timed.

A row's quality, time, size and kernels are of one and the same model. The study's accuracies and times came from
different GPUs, data and heads.
"""
from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import attention
from models import quantization, transformers_attention
from models.registry import Preset, require
from perf.bench import treatments
from perf.policy.budgets import budget
from perf.studies.calls import confirm
from perf.workloads.workload import Workload

FLASH, SDPA = ("fa2", "sdpa-flash"), ("sdpa",)
FASTER = ("ao-int8-weight", "ao-int8-dynamic", "ao-fp8-dynamic")


@dataclass(frozen=True)
class Treatment:
    """Is a treatment of the model; of `backends` the first that can."""

    dtype: str
    backends: tuple[str, ...] = SDPA
    method: str | None = None
    compiled: bool = False

    @property
    def name(self) -> str:
        """Names the row."""
        words = (self.method or self.dtype, "flash" if self.backends == FLASH else "sdpa", "compiled" * self.compiled)
        return " ".join(filter(None, words))


BASE, HALF = Treatment("fp32"), Treatment("fp16")


def rows(compiled: bool) -> list[Treatment]:
    """Lists the study's five, the half precision that it left out, quantisations that are made to be fast, which
    torchao's are once they are `compiled`, and low-rank factors."""
    study = [Treatment("fp16", backends, method) for method in ("bnb-int8", "bnb-nf4-dq") for backends in (SDPA, FLASH)]
    plain = [BASE, HALF, Treatment("fp16", FLASH), Treatment("bf16")]
    fast = [Treatment("bf16", method=method, compiled=compiled) for method in FASTER]
    factors = Treatment("fp32", method="low-rank")
    halved = [Treatment("bf16", compiled=True)] if compiled else []
    return [*plain, *study, *halved, *fast, factors]  # factors last: they take longest to make


def variant(row: Treatment, preset: Preset, device: torch.device) -> str:
    """Chooses the backend. Raises ValueError, with each backend's reason, where none serves; or the quantisation's
    reason."""
    if row.method and (reason := quantization.why_not(row.method, device=device, dtype=attention.DTYPES[row.dtype])):
        raise ValueError(reason)
    reasons = []
    for backend in row.backends:
        try:
            tokens = (preset.sizes["image"] // preset.sizes["patch"]) ** 2 + 1
            require(preset, f"softmax:{backend}", n=tokens, dtype=attention.DTYPES[row.dtype], device=device)
            return f"softmax:{backend}"
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError("; ".join(reasons))


def treated(model: nn.Module, row: Treatment, preset: Preset, skip: Sequence[str] = ()) -> Any:
    """Treats a copy of a trained model as the row says, but does not compile it yet. `skip` are layers that stay
    unquantised."""
    device = next(model.parameters()).device
    copied: Any = copy.deepcopy(model).to(attention.DTYPES[row.dtype])
    copied.set_attn_implementation(transformers_attention.register(variant(row, preset, device)))
    if row.method:
        quantization.quantize(copied, row.method, dtype=attention.DTYPES[row.dtype], skip=skip)
    return copied.eval()


def workload(row: Treatment, preset: Preset, images: torch.Tensor) -> Workload:
    """Returns the workload that a row's forward pass on the images is."""
    function, _, backend = variant(row, preset, images.device).partition(":")
    tokens = (preset.sizes["image"] // preset.sizes["patch"]) ** 2 + 1
    return Workload(preset.name, function, backend, "forward", False, len(images), preset.heads, preset.kv_heads,
                    tokens, tokens, preset.head_dim, row.dtype)


def check(twin: Any, row: Treatment, model: nn.Module, preset: Preset, images: torch.Tensor) -> dict[str, float]:
    """Measures the error of the logits, and of the worst quantised layer, relative to the row without quantisation (or
    of a row without any, to fp32). Raises ValueError for more than the method's budget, and for another kernel than
    declared."""
    halved = images.to(attention.DTYPES[row.dtype])
    with torch.no_grad():
        confirm(lambda: twin(pixel_values=halved), workload(row, preset, images), images.device)
    if row.method is None:
        with torch.no_grad():
            exact, logits = model(pixel_values=images).logits, twin(pixel_values=halved).logits
        return {"logits": treatments.relative_error(logits, exact)}
    plain, allowed = treated(model, Treatment(row.dtype, row.backends), preset), budget(row.method)
    with torch.no_grad():
        with treatments.layer_errors(plain, twin) as layers:
            exact = plain(pixel_values=halved).logits
        logits = twin(pixel_values=halved).logits
    errors = {"logits": treatments.relative_error(logits, exact), "layer": max(layers.values())}
    for what, limit in (("logits", allowed.logits), ("layer", allowed.layer)):
        if not errors[what] <= limit:
            raise ValueError(f"{row.name}: {what} off by {errors[what]:.3f}, allowed {limit}")
    return errors


def kept(preset: Preset) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Lists what the ablation keeps: a name, and the layers of the encoder that stay in half precision. What embeds the
    patches and the classifier always do: no method here quantises them."""
    layers = [f"vit.layers.{number}" for number in range(preset.layers)]
    yield "none", ()
    if len(layers) > 2:  # else nothing is left to quantise
        yield "first and last", (layers[0], layers[-1])
    for number, layer in enumerate(layers):
        yield f"layer {number}", (layer,)
