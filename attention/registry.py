"""Every attention function and variant, by name, and a one-line reason for every "no".

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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from attention.backends.base import Backend, Case

ENTRY_POINTS = "attention_perf.variants"
KINDS = ("exact", "structured", "approximate")
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Function:
    """What is computed: its oracle, its paper, its options with their defaults, its visible pairs."""

    name: str
    kind: str
    paper: str
    oracle: Callable[..., torch.Tensor]
    pairs: Callable[..., int]
    options: Mapping[str, Any] = field(default_factory=dict)
    validate: Callable[..., None] | None = None

    def complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """`options` over the defaults; ValueError for an unknown or impossible one."""
        for option in options:
            if option not in self.options:
                allowed = ", ".join(self.options) or "none"
                raise ValueError(f"{self.name}: unknown option {option!r}; its options: {allowed}")
        full = {**self.options, **options}
        if self.validate:
            self.validate(**full)
        return full


@dataclass(frozen=True)
class Variant:
    """One function on one backend. `compute(attend, q, k, v, *, causal, scale, key_mask, **options)`."""

    function: Function
    backend: Backend
    compute: Callable[..., torch.Tensor]

    @property
    def name(self) -> str:
        return f"{self.function.name}:{self.backend.name}"


_functions: dict[str, Function] = {}
_variants: dict[str, Variant] = {}


def register(function: str, *, backends: Iterable[Backend] | None = None, kind: str = "", paper: str = "",
             pairs: Callable[..., int] | None = None, options: Mapping[str, Any] | None = None,
             validate: Callable[..., None] | None = None) -> Callable:
    """Decorator. Without `backends` it registers a function by its oracle, with them its variants.

    Raises ValueError for a name already taken, an unknown kind, or a variant of an unknown function.
    """
    def function_by_oracle(oracle: Callable) -> Callable:
        if function in _functions:
            raise ValueError(f"attention function {function!r} is registered already")
        if kind not in KINDS or pairs is None or not paper:
            raise ValueError(f"function {function!r} needs paper=, pairs= and kind= one of {', '.join(KINDS)}")
        _functions[function] = Function(function, kind, paper, oracle, pairs, dict(options or {}), validate)
        return oracle

    def variants(compute: Callable) -> Callable:
        if function not in _functions:
            raise ValueError(f"register the oracle of {function!r} before its variants")
        for backend in backends or ():
            variant = Variant(_functions[function], backend, compute)
            if variant.name in _variants:
                raise ValueError(f"attention variant {variant.name!r} is registered already")
            _variants[variant.name] = variant
            _probe.cache_clear()
        return compute

    return function_by_oracle if backends is None else variants


@functools.cache
def _load() -> None:
    """Imports what other installed packages add."""
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        entry.load()


def _choose(name: str, choices: Iterable[str], what: str) -> str:
    known = sorted(choices)
    if name in known:
        return name
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown {what} {name!r}{hint} Choices: {', '.join(known)}")


def functions() -> dict[str, Function]:
    """Every registered function by name."""
    _load()
    return dict(_functions)


def function(name: str) -> Function:
    """The function called `name`; ValueError lists the choices."""
    _load()
    return _functions[_choose(name, _functions, "attention function")]


def variant(name: str) -> Variant:
    """The variant called `name`; ValueError lists the choices."""
    _load()
    return _variants[_choose(name, _variants, "attention variant")]


def names(function: str | None = None, backend: str | None = None, device: str | None = None) -> list[str]:
    """Variant names, of one `function`, one `backend`, and those whose needs `device` meets.

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
            **options: Any) -> str | None:
    """Why the variant can't serve such a call, in one line, or None if it can.

    What a kernel accepts is asked of the kernel: a call of that kind on a few tokens, once.
    Raises ValueError for an unknown name or option.
    """
    v = variant(name)
    full = v.function.complete(options)
    return why_not_case(v, Case(str(torch.device(device)), dtype, heads, kv_heads or heads, head_dim, n, m or n,
                                causal, grad, key_mask, tuple(sorted(full.items()))))


def why_not_case(v: Variant, case: Case) -> str | None:
    """`why_not` for a call that is described already."""
    reason = v.backend.missing(torch.device(case.device)) or v.backend.refuses(case)
    if reason is None and v.backend.probes:
        reason = _probe(v.name, case.few_tokens())
    return f"{v.name}: {reason}" if reason else None


@functools.cache
def _probe(name: str, case: Case) -> str | None:
    """Runs the variant on `case`; the first line of what it raised."""
    v = variant(name)
    options = dict(case.options)
    if "window" in options:  # as wide relative to the few tokens as it would be to the many
        options["window"] = min(options["window"], max(1, case.m // 2))
    q, k, v_ = (torch.zeros(1, h, length, case.head_dim, dtype=case.dtype, device=case.device,
                            requires_grad=case.grad)
                for h, length in ((case.heads, case.n), (case.kv_heads, case.m), (case.kv_heads, case.m)))
    mask = torch.ones(1, case.m, dtype=torch.bool, device=case.device) if case.key_mask else None
    with v.backend.explain() as reasons, torch.set_grad_enabled(case.grad):
        try:
            out = v.compute(v.backend.attend(), q, k, v_, causal=case.causal, scale=case.head_dim ** -0.5,
                            key_mask=mask, **options)
            if case.grad:
                out.sum().backward()
        except (RuntimeError, ValueError, NotImplementedError, AssertionError) as error:
            return reasons() or (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def case_of(v: Variant, q: torch.Tensor, k: torch.Tensor, *, causal: bool, key_mask: bool,
            options: tuple) -> Case:
    """The case that a call with these tensors is."""
    grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
    return Case(str(q.device), q.dtype, q.shape[1], k.shape[1], q.shape[3], q.shape[2], k.shape[2], causal,
                grad, key_mask, options)


def peak_bytes(name: str, *, batch: int, heads: int, kv_heads: int | None = None, n: int, m: int | None = None,
               head_dim: int, dtype: torch.dtype, grad: bool = False) -> int:
    """A prediction of the bytes a call allocates at its peak, beyond its inputs."""
    case = Case("cpu", dtype, heads, kv_heads or heads, head_dim, n, m or n, False, grad, False, ())
    return batch * variant(name).backend.peak_bytes(case)
