"""Counts the mutants that the rule refuses, by function and dtype, and writes the table of it in the docs.

    python -m attention.testing.score          writes docs/mutants.md
"""
from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import attention
from attention import registry
from attention.module import Attention
from attention.testing.inputs import needles
from attention.testing.mutants import Mutant, catalogue
from attention.testing.reference import Reference

DTYPES = ("fp32", "bf16", "fp16")
PAGE = Path(__file__).parents[2] / "docs" / "mutants.md"


@dataclass(frozen=True)
class Shape:
    """Holds the sizes of the calls in which mutants are tried: `n` queries and as many keys, or `m` of them in a causal
    call of a function that takes more keys than queries."""

    batch: int = 2
    heads: int = 4
    kv_heads: int = 2
    n: int = 72
    m: int = 88
    head_dim: int = 16


@dataclass(frozen=True)
class Outcome:
    """Says of one mutant in one call whether the rule refused it, and how far it was from that."""

    mutant: str
    causal: bool
    killed: bool
    worst: float  # the largest error over its bound


def outcomes(function: str, dtype: torch.dtype, *, shape: Shape = Shape(), device: str | torch.device = "cpu",
             options: dict[str, Any] | None = None) -> Iterator[Outcome]:
    """Tries every mutant that applies to the function's eager variant: causal where it can be, and a core function's
    full form as well. Raises AssertionError if the sound variant is refused."""
    described = registry.functions()[function]
    options = {x: values[0] for x, values in described.test_values.items()} if options is None else options
    for causal in (False, True):
        if not (described.causal if causal else described.core or not described.causal):
            continue
        call = _Call(function, dtype, causal, shape, torch.device(device), options)
        report = call.reference.check(call.build(), grad=True)
        assert report.ok, f"the sound variant is refused: {report.message}"
        for mutant in _applying(function, causal, shape, torch.device(device), tuple(options.items())):
            if mutant.only in (None, dtype):
                report = call.reference.judge(mutant.name, call.found(mutant))
                yield Outcome(mutant.name, causal, not report.ok, report.worst)


@functools.lru_cache(maxsize=4)
def _applying(function: str, causal: bool, shape: Shape, device: torch.device,
              options: tuple[tuple[str, Any], ...]) -> list[Mutant]:
    """Gives the mutants that change the results in float32, by more than adding up in another order does."""
    call = _Call(function, torch.float32, causal, shape, device, dict(options))
    sound, applying = call.found(Mutant("sound", grad=True)), []
    for mutant in catalogue(call.build()):
        try:
            found = call.found(mutant)
        except (ValueError, RuntimeError, LookupError, TypeError, AttributeError):
            continue  # it has no such part, or no such shape
        if not all((x - sound[name]).abs().max() <= 3e-6 * sound[name].abs().max() for name, x in found.items()):
            applying.append(mutant)
    return applying


class _Call:
    """Is a call of one function at one shape, and its reference."""

    def __init__(self, function: str, dtype: torch.dtype, causal: bool, shape: Shape, device: torch.device,
                 options: dict[str, Any]) -> None:
        described = registry.functions()[function]
        self.n = shape.n if described.queries is None else described.queries
        self.m = shape.m if described.queries or (described.cross and causal) else shape.n
        self.function, self.dtype, self.causal, self.device, self.options = function, dtype, causal, device, options
        self.heads, self.head_dim = shape.heads, shape.head_dim
        self.kv_heads = shape.kv_heads if described.grouped else shape.heads
        q, k, v = needles(batch=shape.batch, heads=shape.heads, kv_heads=self.kv_heads, n=self.n, m=self.m,
                          head_dim=shape.head_dim, dtype=dtype, device=device)
        mask = None
        if described.padding and not causal:  # the second sequence is shorter
            mask = torch.ones(shape.batch, self.m, dtype=torch.bool, device=device)
            mask[1:, -self.m // 8:] = False
        self.reference = Reference(function, q, k, v, causal=causal, key_mask=mask, **options)

    def build(self) -> Attention:
        return attention.create(f"{self.function}:eager", heads=self.heads, kv_heads=self.kv_heads, seq_len=self.m,
                                head_dim=self.head_dim, causal=self.causal, device=self.device, dtype=self.dtype,
                                **self.options)

    def found(self, mutant: Mutant) -> dict[str, torch.Tensor]:
        """Runs the eager variant with the mutant's fault and gives its results; raises what it raises."""
        module = self.build()
        mutant.change(module)
        with mutant.altered():
            return self.reference.found(module, grad=mutant.grad)


REASONS = {
    "autocorrelation": "the scale only weighs a few delays: half a per cent of it moves the sum by less than rounding",
    "decode": "a head has one query: eight rows are too few for rounding to average out",
    "low-rank-linear": "each query weighs means that are nearly alike: half a per cent of scale hardly moves their sum",
    "sinks": "a sink takes a small share of most rows: 5 % of its logit moves them by less than rounding",
    "sliding-window": "with five keys a row has few scores to scale: half a per cent moves them by less than rounding",
    "softcap": "most scores stand at the cap of 2, whatever their scale",
    "probsparse": "the scale acts in the few rows that attend, too few for rounding to average out",
}


def share(results: Sequence[Outcome]) -> str:
    """Counts the mutants that were refused, of all: "98 of 100"."""
    return f"{sum(x.killed for x in results)} of {len(results)}"


def survivors(dtype: str, results: Sequence[Outcome]) -> set[str]:
    """Names the mutants that were not refused."""
    return {f"{x.mutant}{' (causal)' if x.causal else ''} in {dtype}" for x in results if not x.killed}


def line(function: str, results: Mapping[str, Sequence[Outcome]]) -> str:
    """Writes one row of the table."""
    alive = {name for dtype in DTYPES for name in survivors(dtype, results[dtype])}
    reason = f": {REASONS[function]}" if alive and function in REASONS else ""
    shares = " | ".join(share(results[dtype]) for dtype in DTYPES)
    return f"| `{function}` | {shares} | {'; '.join(sorted(alive))}{reason} |"


HEADER = f"""# Mutants

How good the rule of `attention/testing/rule.py` is: variants broken on purpose (`attention/testing/mutants.py`), and
how many of them it refuses. Every mutant is tried on every function; it counts where it changes the result in float32.
Small shapes on a CPU ({Shape().n} queries, {Shape().heads} heads of {Shape().head_dim}), on the eager backend, causal
where a function can be, and core functions full as well. `python -m attention.testing.score` writes this page; the
tests hold it.

| function | {' | '.join(DTYPES)} | what survives |
| --- |{' --- |' * len(DTYPES)} --- |
"""


def main() -> None:
    lines = []
    for function in sorted(registry.functions()):
        lines.append(line(function, {dtype: list(outcomes(function, attention.DTYPES[dtype])) for dtype in DTYPES}))
        print(lines[-1], flush=True)
    PAGE.write_text(HEADER + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
