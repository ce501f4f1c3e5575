"""The registry of attention functions and variants by name, with a one-line reason for every "no".

A *function* says what is computed and has one float64 oracle; a *backend* says how; a *variant*
is one function on one backend, named ``function:backend``. `register` is the only way in::

    @register("alibi", kind="structured", paper="...")           # the function: its oracle
    def oracle(q, k, v, *, causal, scale, key_mask, dtype): ...

    @register("alibi", backends=[eager, sdpa, fa2, flex])        # its variants
    def alibi(attend, q, k, v, *, causal, scale, key_mask): ...
"""
from __future__ import annotations

import difflib
import functools
import importlib.metadata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from attention.backends.base import Backend, Case
from attention.function import Function

ENTRY_POINTS = "attention_perf.variants"
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Variant:
    """A variant is one function on one backend.

    `compute(attend, q, k, v, *, causal, scale, key_mask, **options)` gives (B, H, N, D); it also takes `params`, a
    dictionary by name, where the function has parameters. `peak_bytes(case)` predicts the memory of one sequence.
    """

    function: Function
    backend: Backend
    compute: Callable[..., torch.Tensor]
    peak_bytes: Callable[[Case], int]

    @property
    def name(self) -> str:
        """The name, `function:backend`."""
        return f"{self.function.name}:{self.backend.name}"


_functions: dict[str, Function] = {}
_variants: dict[str, Variant] = {}


def register(function: str, *, backends: Iterable[Backend] | None = None,
             peak_bytes: Callable[[Case], int] | None = None, **fields: Any) -> Callable:
    """Registers what it decorates: an oracle as a function, or, with `backends`, a computation as variants.

    `fields` are the function's, as `Function` lists them. A variant's memory is what its backend predicts, unless
    `peak_bytes(case)` is given.
    Raises ValueError for a name that exists already, an unknown kind, or a variant of an unknown function.
    """
    def add_function(oracle: Callable) -> Callable:
        if function in _functions:
            raise ValueError(f"attention function {function!r} is registered already")
        _functions[function] = Function(function, fields.pop("kind", ""), fields.pop("paper", ""), oracle, **fields)
        return oracle

    def add_variants(compute: Callable) -> Callable:
        if function not in _functions:
            raise ValueError(f"register the oracle of {function!r} before its variants")
        for backend in backends or ():
            variant = Variant(_functions[function], backend, compute, peak_bytes or backend.peak_bytes)
            if variant.name in _variants:
                raise ValueError(f"attention variant {variant.name!r} is registered already")
            _variants[variant.name] = variant
            _probe.cache_clear()
        return compute

    return add_function if backends is None else add_variants


@functools.cache
def _load() -> None:
    """Imports the modules that other installed packages name under `ENTRY_POINTS`, once."""
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        entry.load()


def _choose(name: str, choices: Iterable[str], what: str) -> str:
    """Gives `name` back. Raises ValueError, which lists the choices, if it is none of them."""
    allowed = sorted(choices)
    if name in allowed:
        return name
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown {what} {name!r}{hint} Choices: {', '.join(allowed)}")


def functions() -> dict[str, Function]:
    """Gives every registered function by its name, in the order of registration."""
    _load()
    return dict(_functions)


def function(name: str) -> Function:
    """Looks a function up. Raises ValueError, which lists the choices, for an unknown name."""
    _load()
    return _functions[_choose(name, _functions, "attention function")]


def variant(name: str) -> Variant:
    """Looks a variant up. Raises ValueError, which lists the choices, for an unknown name."""
    _load()
    return _variants[_choose(name, _variants, "attention variant")]


def names(function: str | None = None, backend: str | None = None, device: str | None = None) -> list[str]:
    """Lists the names of all variants, in the order of registration.

    `function` and `backend` keep those of one function or backend, `device` those whose backend can run there.
    Raises ValueError for an unknown function or backend.
    """
    _load()
    if function is not None:
        _choose(function, _functions, "attention function")
    if backend is not None:
        _choose(backend, {v.backend.name for v in _variants.values()}, "attention backend")
    return [name for name, v in _variants.items()
            if function in (None, v.function.name) and backend in (None, v.backend.name)
            and (device is None or v.backend.missing(torch.device(device)) is None)]


def why_not(name: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
            heads: int = 8, kv_heads: int | None = None, head_dim: int = 64, n: int = 128,
            m: int | None = None, causal: bool = False, grad: bool = False, key_mask: bool = False,
            value_dim: int | None = None, deterministic: bool = False, **options: Any) -> str | None:
    """Gives the reason, in one line, why the variant can't serve such a call; None if it can.

    Where only the kernel knows what it accepts, the kernel is asked: by one call of that kind on a few tokens.
    Raises ValueError for an unknown name or option.
    """
    v = variant(name)
    full = v.function.complete(options)
    return why_not_case(v, Case(str(torch.device(device)), dtype, heads, kv_heads or heads, head_dim, n, m or n,
                                causal, grad, key_mask, tuple(sorted(full.items())),
                                None if value_dim == head_dim else value_dim, deterministic))


def why_not_case(v: Variant, case: Case) -> str | None:
    """Gives the same reason as `why_not`, for a variant and a case."""
    reason = (v.function.refuses(case) or v.backend.missing(torch.device(case.device)) or v.backend.refuses(case)
              or (v.backend.scatters(case) if case.deterministic else None))
    if reason is None and v.backend.probes:
        reason = _probe(v.name, case.few_tokens())
    return f"{v.name}: {reason}" if reason else None


@functools.cache
def _probe(name: str, case: Case) -> str | None:
    """Runs the variant once on zeros. Gives the first line of the error, or None if there was none."""
    v = variant(name)
    options = dict(case.options)
    if v.function.few:
        options = v.function.few(options, case.m)
    initial = v.function.initial(heads=case.heads, kv_heads=case.kv_heads, head_dim=case.head_dim, seq_len=case.m,
                                 causal=case.causal, **options)
    if initial:
        options["params"] = {name: x.detach().to(case.device, case.dtype if x.is_floating_point() else x.dtype)
                             for name, x in initial.items()}
    n = min(case.n, case.m) if case.causal else case.n  # causal queries before the first key reach no kernel
    shapes = ((case.heads, n, case.head_dim), (case.kv_heads, case.m, case.head_dim),
              (case.kv_heads, case.m, case.values))
    q, k, v_ = (torch.zeros(1, *shape, dtype=case.dtype, device=case.device, requires_grad=case.grad)
                for shape in shapes)
    mask = torch.ones(1, case.m, dtype=torch.bool, device=case.device) if case.key_mask else None
    with v.backend.explain() as reasons, torch.set_grad_enabled(case.grad):
        try:
            attend = v.backend.attend_deterministic() if case.deterministic else v.backend.attend()
            out = v.compute(attend, q, k, v_, causal=case.causal, scale=case.head_dim ** -0.5, key_mask=mask,
                            **options)
            if case.grad:
                out.sum().backward()
        except (RuntimeError, ValueError, NotImplementedError, AssertionError) as error:
            return reasons() or (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def case_of(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, key_mask: bool, options: tuple,
            learns: bool = False, deterministic: bool = False) -> Case:
    """Describes a call with these tensors as a `Case`. `learns` says that some parameter wants a gradient."""
    grad = torch.is_grad_enabled() and (learns or q.requires_grad or k.requires_grad or v.requires_grad)
    return Case(str(q.device), q.dtype, q.shape[1], k.shape[1], q.shape[3], q.shape[2], k.shape[2], causal,
                grad, key_mask, options, None if v.shape[3] == q.shape[3] else v.shape[3], deterministic)


def peak_bytes(name: str, *, batch: int, heads: int, kv_heads: int | None = None, n: int, m: int | None = None,
               head_dim: int, dtype: torch.dtype, grad: bool = False) -> int:
    """Predicts how many bytes a call allocates at its peak, beyond its inputs. ValueError for an unknown name."""
    case = Case("cpu", dtype, heads, kv_heads or heads, head_dim, n, m or n, False, grad, False, ())
    return batch * variant(name).peak_bytes(case)
