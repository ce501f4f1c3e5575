"""A treatment quantises a model, compiles it or both before it is measured, at a cost in error that is bounded.

A quantised model computes something else, so the error-ratio rule does not bind it. It is held against the same
model unquantised, on the same backend and inputs, by the budgets of its method (perf/policy/budgets.toml):

    layer   each quantised layer's output, given what reaches it in the unquantised model
    logits  the model's

Both are root mean squares of the difference, relative to that of what it should be. The first is sharp: one layer
whose scale is doubled is off by 1, where the whole model may hardly show it.
"""
from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

import attention
from perf.measure.compiling import forget
from perf.workloads.workload import UNQUANTISED, Workload


def why_not(w: Workload, device: torch.device) -> str | None:
    """Says why a workload's treatment can't be had here, in one line."""
    if w.quantization == UNQUANTISED:
        return None
    try:
        from models import quantization

        return quantization.why_not(w.quantization, device=device, dtype=attention.DTYPES[w.dtype])
    except (ImportError, ValueError) as error:  # a revision may lack all methods, or this one
        return str(error)


def treat(model: nn.Module, w: Workload) -> nn.Module:
    """Makes a copy that is quantised as the workload says, and ready to be compiled; `model` itself if it stays
    plain."""
    if not w.treatment:
        return model
    twin = copy.deepcopy(model)
    if w.quantization == UNQUANTISED:
        return twin
    from models import quantization

    return quantization.quantize(twin, w.quantization, dtype=attention.DTYPES[w.dtype])


def runnable(model: nn.Module, w: Workload) -> Any:
    """Gives the model under torch.compile, with what its method asks of the compiler; itself where it is not
    compiled."""
    if not w.compiled:
        return model
    import torch._dynamo

    forget()
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    options: dict[str, Any] = {}
    if w.quantization != UNQUANTISED:
        from models import quantization

        options = dict(quantization.get(w.quantization).inductor)
    return torch.compile(model, dynamic=False, options=options or None)


def refusing(call: Callable[[], Any], w: Workload) -> Callable[[], Any]:
    """Wraps the call of a compiled model; where the compiler gives up it raises attention.Unsupported, in one line."""
    if not w.compiled:
        return call
    import torch._dynamo

    def call_compiled() -> Any:
        try:
            return call()
        except torch._dynamo.exc.FailOnRecompileLimitHit:
            raise attention.Unsupported(
                f"{w.model}: torch.compile breaks its graph at {w.quantization} and compiles the pieces anew past its "
                "limit; measure it uncompiled") from None

    return call_compiled


def model_bytes(model: nn.Module, w: Workload) -> int:
    """Counts the bytes of weights and buffers, scales included."""
    if w.quantization == UNQUANTISED:
        from perf.measure.memory import kept_bytes

        return kept_bytes(model)
    from models import quantization

    return quantization.model_bytes(model)


def why_not_compiled(counters: Mapping[str, int], w: Workload) -> str | None:
    """Says, in one line, that a compiled workload's call ran no compiled code; None where it did."""
    if w.compiled and not counters.get("compiled_regions"):
        return f"{w.model} ({w.phase}): torch.compile ran nothing compiled; the time would be that of eager code"
    return None


@contextmanager
def layer_errors(plain: nn.Module, quantised: nn.Module) -> Iterator[dict[str, float]]:
    """Collects the error of each quantised layer by name, while `plain` is called: both get what reaches the plain
    one."""
    errors: dict[str, float] = {}
    twins = dict(quantised.named_modules())
    handles = [module.register_forward_hook(_comparing(name, twins[name], errors), with_kwargs=True)
               for name, module in plain.named_modules() if name in twins and _differ(module, twins[name])]
    try:
        yield errors
    finally:
        for handle in handles:
            handle.remove()


def relative_error(output: Any, exact: Any) -> float:
    """Gives the root mean square of the difference over that of `exact`; of a layer with several outputs the first
    counts."""
    result, target = _tensor(output).double(), _tensor(exact).double()
    off, size = (result - target).norm().item(), target.norm().item()
    return off / size if size else off and math.inf


def _comparing(name: str, twin: nn.Module, errors: dict[str, float]) -> Callable[..., None]:
    def compare(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        # A layer that is used twice counts by its worse use.
        errors[name] = max(errors.get(name, 0.0), relative_error(twin(*args, **kwargs), output))

    return compare


def _differ(plain: nn.Module, twin: nn.Module) -> bool:
    """Tells whether a leaf stores its weights in another way than its twin: another class, or another kind of
    tensor."""
    if next(plain.children(), None) is not None:
        return False
    weights = zip(plain.parameters(), twin.parameters(), strict=False)
    return type(plain) is not type(twin) or any(type(p) is not type(q) or p.dtype != q.dtype for p, q in weights)


def _tensor(output: Any) -> torch.Tensor:
    """Gives the tensor in what a layer returns: itself, the first of several, the data of a packed sequence."""
    while not isinstance(output, torch.Tensor):
        output = output.data if hasattr(output, "batch_sizes") else output[0]
    return output
