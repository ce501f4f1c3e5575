"""A model's workload is made ready, and checked against the same weights in float64.

Correctness is the rule of `attention.testing`, on what the phase computes: with E the model whose
attention is the function's eager backend,

    error(model) <= K x error(E in dtype T) + FLOOR x eps(T)

both against E's weights and inputs of dtype T, computed in float64, and relative to the largest
value there: of the logits, or of the loss and of the gradients of each part of the model. Beside
that each attention layer is held against its own oracle (`models.attention_layers`), but in a
compiled model, whose layers nobody sees. The projections of q and k are wider than the initial
ones, at which attention is flat and its faults hardly show.
"""
from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

import attention
import models
from attention.testing import FLOOR, K, Report
from perf.bench import treatments
from perf.bench.contract import Prepared
from perf.bench.values import Values
from perf.measure.counters import tensors
from perf.policy.budgets import budget
from perf.workloads.families import family
from perf.workloads.workload import ITEM_BYTES, UNQUANTISED, Workload

try:
    from models import attention_layers, parts
except ImportError:  # the revision that is measured may have neither
    attention_layers = parts = None  # type: ignore[assignment]

Tensors = dict[str, torch.Tensor]


class Models:
    """Holds one model at one shape, on any backend of one function."""

    def __init__(self, w: Workload, device: torch.device) -> None:
        self.preset, self.family = models.get(w.model), models.family(w.model)
        self.dtype, self.device = attention.DTYPES[w.dtype], device
        length = {"n": max(w.n, w.m)} if family(w.model).takes_length else {}
        self.inputs = self.family.inputs(self.preset, batch=w.batch, device=device, dtype=self.dtype, **length)
        self.compiled: tuple[nn.Module, Any] | None = None
        self.state: tuple[nn.Module, dict[str, Any]] | None = None
        self.references: dict[str, tuple[Tensors, dict[str, float]]] = {}
        self.plain: dict[Workload, tuple[Report, Tensors]] = {}
        self.values = Values(x for x in self.inputs.values() if isinstance(x, torch.Tensor))

    def prepare(self, w: Workload) -> Prepared:
        """Builds the model. Its check and its trial have the same values, which its first call has not."""
        self.values.restore()
        model = treatments.treat(self._plain(w), w)
        call, read = self._call(model, w)
        return Prepared(treatments.refusing(call, w), lambda: self._report(w, model, _write_trial(read)),
                        lambda: self._reference_of(w, _write_trial(read)), lambda: treatments.model_bytes(model, w),
                        read.renew, lambda: self._trial(w, model, read))

    def _trial(self, w: Workload, model: nn.Module, read: Values) -> Trial:
        token = _write_trial(read)
        if w.quantization == UNQUANTISED:
            return Trial(w, model, read, *self._reference_of(w, token))
        return Trial(w, model, read, self._plain_report(w, token)[1], {"logits": budget(w.quantization).logits})

    def _plain_report(self, w: Workload, token: torch.Tensor) -> tuple[Report, Tensors]:
        """Gives, once for all methods, the report on the model before it is quantised, and what that computes."""
        if w.plain not in self.plain:
            report = self._report(w.plain, self._plain(w), token)
            self.plain[w.plain] = report, self._outputs(self._plain(w), w.plain, self.inputs, token)
        return self.plain[w.plain]

    def _plain(self, w: Workload) -> nn.Module:
        return _switch(_build(w.model, w.function, self.dtype, self.device), w)

    def _call(self, model: nn.Module, w: Workload) -> tuple[Callable[[], Any], Values]:
        """Gives the call, and what it reads that changes: of a step of decoding the token, while its cache stays."""
        model.train(w.phase == "train-step")
        if w.phase == "train-step":
            return functools.partial(_train_step, self.family, self._runnable(model, w), self.inputs), self.values
        if w.phase == "decode":
            state = self._state(model, w)
            decoding = self._runnable(model, w)
            return torch.no_grad()(lambda: self.family.decode(decoding, state)), Values([state["input_ids"]])
        run = self._runnable(model, w)
        return torch.no_grad()(lambda: run(**self.inputs)), self.values

    def _state(self, model: nn.Module, w: Workload) -> dict[str, Any]:
        """Gives one state for what is timed and what is checked of a treated model: filling a cache between two calls
        of compiled code changes the masks that attention keeps, for which it would be compiled anew."""
        if not w.treatment:
            return _decode_inputs(self.family, self.preset, model, w)
        if self.state is None or self.state[0] is not model:
            with torch.no_grad():
                self.state = (model, _decode_inputs(self.family, self.preset, model, w))
        return self.state[1]

    def _runnable(self, model: nn.Module, w: Workload) -> Any:
        """Gives one model for what is timed and what is checked."""
        if w.compiled:
            if self.compiled is None or self.compiled[0] is not model:
                with torch.no_grad():  # attention is built, and its mask kept, when it is first called so
                    if w.phase == "decode":
                        self.family.decode(model, self._state(model, w))
                    else:
                        model(**self.inputs)
                self.compiled = (model, treatments.runnable(model, w))
            return self.compiled[1]
        return model

    def _reference_of(self, w: Workload, token: torch.Tensor) -> tuple[Tensors, dict[str, float]]:
        """Gives the reference of the phase, for all backends; computing it leaves the model on the eager backend, so
        switch afterwards."""
        if w.phase not in self.references:
            self.references[w.phase] = self._reference(w.plain, token)
            self._plain(w)
        return self.references[w.phase]

    def _report(self, w: Workload, model: nn.Module, token: torch.Tensor) -> Report:
        if w.quantization != UNQUANTISED:
            plain, exact = self._plain_report(w, token)
            return self._within_budget(w, model, token, exact["logits"]) if plain.ok else plain
        exact, bounds = self._reference_of(w, token)
        model = model if w.treatment else self._plain(w)
        with nullcontext() if w.compiled or attention_layers is None else attention_layers.record() as calls:
            result = self._outputs(model, w, self.inputs, token)
        errors = {x: _error(result[x], exact[x]) for x in exact}
        if calls is None:
            return Report(f"{w.model} on {w.variant}", errors, bounds)
        passes = 2 if w.phase == "decode" else 1  # the first fills the cache
        layers = attention_layers.check(calls, w.function, layers=passes * self.preset.layers, causal=w.causal)
        return replace(layers, name=f"{w.model} on {w.variant}", errors=errors | layers.errors,
                       bounds=bounds | layers.bounds)

    def _within_budget(self, w: Workload, model: nn.Module, token: torch.Tensor, exact: torch.Tensor) -> Report:
        """Holds a quantised model against the logits of the unquantised one on the same backend."""
        allowed, plain = budget(w.quantization), self._plain(w)
        with treatments.layer_errors(plain, model) as layers:
            self._outputs(plain, w.plain, self.inputs, token)
        worst = max(layers, key=lambda name: (layers[name] != layers[name], layers[name]), default="")
        result = self._outputs(model, w, self.inputs, token)["logits"]
        return Report(f"{w.model} on {w.variant} in {w.quantization}",
                      {"logits": treatments.relative_error(result, exact),
                       f"layer {worst}".rstrip(): layers.get(worst, math.inf)},  # nothing was quantised
                      {"logits": allowed.logits, f"layer {worst}".rstrip(): allowed.layer})

    def _reference(self, w: Workload, token: torch.Tensor) -> tuple[Tensors, dict[str, float]]:
        """Computes what the phase must give, in float64, and what the rule allows."""
        eager = _switch(_build(w.model, w.function, self.dtype, self.device), w, backend="eager")
        same = self._outputs(eager, w, self.inputs, token)
        wide_inputs = {name: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
                       for name, x in self.inputs.items()}
        exact = self._outputs(_wide(w.model, w.function, self.dtype, self.device), w, wide_inputs, token)
        floor = FLOOR[self.dtype] * torch.finfo(self.dtype).eps
        return exact, {x: K * _error(same[x], exact[x]) + floor for x in exact}

    def _outputs(self, model: nn.Module, w: Workload, inputs: dict[str, Any],
                 token: torch.Tensor | None = None) -> Tensors:
        """Gives the logits, or of a training step the loss and the gradients of all weights, as float64. A step of
        decoding reads `token`, or its own."""
        run = self._runnable(model, w)
        if w.phase == "train-step":
            model.train()
            return _outputs_by_name(w, model, _train_step(self.family, run, inputs))
        model.eval()
        with torch.no_grad():
            if w.phase == "decode":
                state = self._state(model, w)
                token = state["input_ids"] if token is None else token
                return _outputs_by_name(w, model, self.family.decode(run, {**state, "input_ids": token}))
            return _outputs_by_name(w, model, run(**inputs))


def _write_trial(read: Values) -> torch.Tensor:
    """Writes the values that check and trial share; the first tensor is the token of a step of decoding."""
    read.trial()
    return read.tensors[0]


class Trial:
    """Holds what a phase must give on the trial's values, and how far it may be off."""

    def __init__(self, w: Workload, model: nn.Module, values: Values, exact: Tensors, bounds: dict[str, float]) -> None:
        self.w, self.model, self.values, self.exact, self.bounds = w, model, values, exact, bounds
        self.read: Sequence[torch.Tensor] = values.tensors

    def write(self) -> None:
        """Writes the values that check and trial share."""
        self.values.trial()

    def judge(self, result: Any) -> Report:
        """Holds a result of the timed call against the exact one."""
        result = _outputs_by_name(self.w, self.model, result)
        error = _error if self.w.quantization == UNQUANTISED else treatments.relative_error
        return Report(f"{self.w.model} on {self.w.variant}", {x: error(result[x], self.exact[x]) for x in self.bounds},
                      self.bounds)


def _outputs_by_name(w: Workload, model: nn.Module, result: Any) -> Tensors:
    """Names what the call of a phase returned, as float64: logits, or the loss and the gradients by part."""
    if w.phase != "train-step":
        return {"logits": next(tensors(result)).double()}
    loss, *gradients = result
    for weight, gradient in zip(_learning(model), gradients, strict=True):
        weight.grad = gradient
    named = {"loss": loss.detach().double(), **_gradients(model)}
    model.zero_grad(set_to_none=True)
    return named


def _gradients(model: nn.Module) -> Tensors:
    """Gives the gradients of each part of the model, or of all of it in a revision that knows no parts."""
    if parts is None:
        return {"gradients": torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])}
    return {f"gradients of {part}": gradient for part, gradient in parts.gradients(model).items()}


def _learning(model: nn.Module) -> Iterator[nn.Parameter]:
    return (weight for weight in model.parameters() if weight.requires_grad)


def _train_step(family: Any, model: nn.Module, inputs: dict[str, Any]) -> list[torch.Tensor | None]:
    """Makes forward, loss and backward; no optimizer, so that every step is the same one. Gives the loss, and the
    gradients of all weights that learn."""
    model.zero_grad(set_to_none=True)
    loss = family.loss(model, inputs)
    loss.backward()
    return [loss, *(weight.grad for weight in _learning(model))]


def _decode_inputs(family: Any, preset: models.Preset, model: nn.Module, w: Workload) -> dict[str, Any]:
    """Makes one token, whose own key joins the cache of those before it: m keys in all."""
    return family.decode_inputs(model, preset, batch=w.batch, m=w.m - 1)


@functools.lru_cache(maxsize=1)
def _build(model: str, function: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Builds the model on the function's eager backend, kept while the shapes and backends change."""
    _wide.cache_clear()
    return _create(model, f"{function}:eager", dtype, device)


def _create(model: str, variant: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Builds a model without dropout: a training step is checked and repeated, so nothing in it is random."""
    built = models.create(model, attention=variant, dtype=dtype, device=device)
    for module in built.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.LSTM):
            module.dropout = 0.0
    return built if parts is None else parts.sharpen(built)


@functools.lru_cache(maxsize=1)
def _wide(model: str, function: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Gives the same weights in float64."""
    return copy.deepcopy(_build(model, function, dtype, device)).double()


def keeps_model() -> bool:
    """Tells whether a model is held for the next shape."""
    return _build.cache_info().currsize > 0


def _switch(model: Any, w: Workload, backend: str | None = None) -> nn.Module:
    """Gives `model` the workload's variant of attention."""
    variant = f"{w.function}:{backend or w.backend}"
    if hasattr(model, "set_attn_implementation"):
        from models.transformers_attention import register

        model.set_attn_implementation(register(variant))
        return model
    weights = next(model.parameters())
    built = _create(w.model, variant, weights.dtype, weights.device)
    built.load_state_dict(model.state_dict())
    return built


def _error(result: torch.Tensor, exact: torch.Tensor) -> float:
    return ((result - exact).abs().max() / exact.abs().max()).item()


def model_bytes(w: Workload) -> int:
    """Predicts the bytes of weights in T and float64, and of the activations that the reference keeps."""
    preset = models.get(w.model)
    weights = 12 * preset.layers * preset.hidden ** 2 + preset.sizes.get("vocabulary", 0) * preset.hidden
    layers_kept = preset.layers if w.phase == "train-step" else 2
    activations = 16 * layers_kept * w.batch * w.n * preset.hidden
    gradients = 2 if w.phase == "train-step" else 1
    copied = weights * ITEM_BYTES[w.dtype] if w.treatment else 0
    return (weights * gradients + activations) * (ITEM_BYTES[w.dtype] + ITEM_BYTES["fp64"]) + copied
