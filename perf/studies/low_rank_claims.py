"""Holds what study 003 claims, and its measures of success, against what was measured."""
from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from typing import Any

import torch

import attention
from attention.testing import inputs
from models.figures import compare
from perf.report import units
from perf.studies.calls import bounded
from perf.studies.claims import Claims, in_percent, spread
from perf.studies.low_rank_kernels import Cost, Kernels
from perf.studies.low_rank_rows import BASELINE, EXACT, TILED, UNIFORM, Candidate, Size, low_rank
from perf.studies.low_rank_text import AGAIN, SWAPPED, TRAINED, Read, Text
from perf.studies.ratio import change

LESS_MEMORY, LESS_TIME, ACCURACY, PROBABILITY, MSE = 0.7, 1 / 1.2, 0.95, 1e-3, 2.1e-4
QUADRATIC = 1.9  # a power of n from which on FLOPs count as quadratic; n log n has 1.07 at 16K
SOFTMAX = (BASELINE.name, EXACT.name)


def of_kernels(kernels: Kernels, claims: Claims, rows: Sequence[Candidate], size: Size) -> None:
    """Claims costs and errors of the kernels."""
    others = [row for row in rows if row.name not in SOFTMAX]
    own = low_rank(size.own)
    dtype, half = size.dtypes[0], size.dtypes[-1]
    lengths = [n for n in size.lengths if n >= 1024] or list(size.lengths)
    for row in others:
        power = growth(row, kernels.heads, kernels.head_dim)
        claims.add(f"003: {row.name}: FLOPs grow less than quadratically", "sub-quadratic, n log n",
                   f"n^{power:.2f} from 16K to 32K tokens", power < QUADRATIC)
    for row in others:
        if costs := _costs(kernels, row, lengths, dtype):
            text = ", ".join(f"{change(base.peak, cost.peak)} at {units.length(n)}"
                             for n, (base, cost) in costs.items())
            claims.add(f"003: {row.name}: at least 30 % less memory than softmax attention, n >= 1024", "-30 %", text,
                       all(cost.peak <= LESS_MEMORY * base.peak for base, cost in costs.values()), _error(costs))
    for row in others:
        if costs := _costs(kernels, row, lengths, half):
            text = ", ".join(f"{cost.ratio} at {units.length(n)}" for n, (_, cost) in costs.items())
            claims.add(f"003: {row.name}: at least 20 % more throughput in {half}", "+20 % (-16.7 % time)", text,
                       _everywhere([cost.ratio.at_most(LESS_TIME) for _, cost in costs.values()]), _error(costs))
    for row in others:
        if weights := kernels.weights.get(row.name):
            claims.add(f"003: {row.name}: attention probabilities within 1e-3", "within 1e-3",
                       f"the largest difference is {weights.worst:.1e}", weights.worst <= PROBABILITY)
    _published(kernels, claims, own, dtype)
    drop_in(claims, others, kernels)
    claims.add("003: gradcheck of low-rank attention passes", "passes", *_gradcheck(kernels))
    claims.add("003: none of it needs Triton", "no Triton dependencies", _triton(kernels),
               bool(kernels.costs), apart="it is installed here" if importlib.util.find_spec("triton") else "")
    claims.add("003: it works for n from 512 to 16K", "512 to 16K",
               f"n = {', '.join(map(units.length, sorted({n for _, n, _ in kernels.costs})))} here",
               True, apart="" if {512, 16384} <= {n for name, n, _ in kernels.costs if name == own.name} else
               "not every length was tried")


def _published(kernels: Kernels, claims: Claims, own: Candidate, dtype: str) -> None:
    """Claims the table of the study's first results, for its own row."""
    if cost := kernels.costs.get((own.name, 1024, dtype)):
        weights = kernels.weights.get(own.name)
        of_weights = f"; of the weights {weights.mse:.1e}, where zeros have {weights.zeros:.1e}" if weights else ""
        claims.add(f"003: {own.name}: MSE against softmax attention at n=1024, d={kernels.head_dim}", "2.1e-4",
                   f"{cost.mse:.1e} of the outputs, {cost.relative:.2g} of what zeros have{of_weights}",
                   cost.mse <= MSE)
    for n, memory, time in ((2048, ("12.1 -> 7.8 GB (-35.5 %)", 7.8 / 12.1), ("142 -> 118 ms (-16.9 %)", 118 / 142)),
                            (4096, ("-27 %", 0.73), ("9 % slower", 1.09))):
        base, cost = kernels.baseline(n, dtype), kernels.costs.get((own.name, n, dtype))
        if base and cost:
            claims.add(f"003: {own.name}: memory of a forward pass at n={n}", memory[0],
                       f"{change(base.peak, cost.peak)} ({units.size(base.peak)} -> "
                       f"{units.size(cost.peak)})", cost.peak <= memory[1] * base.peak)
            claims.add(f"003: {own.name}: time of a forward pass at n={n}", time[0],
                       f"{cost.ratio} ({units.seconds(cost.seconds)})", cost.ratio.at_most(time[1]))


def of_text(text: Text, claims: Claims, size: Size) -> None:
    """Claims what the small GPT-2 reads; accuracy is that of next tokens, there being no GLUE here."""
    base, again, uniform = (text.figures.get(key) for key in ((BASELINE.name, TRAINED), (AGAIN, TRAINED),
                                                              (UNIFORM.name, SWAPPED)))
    if base is None:
        return
    if uniform:
        claims.add("003: this model and text tell attentions apart: uniform weights cost 5 % of the accuracy",
                   "no control", f"{compare(base.accuracy, uniform.accuracy)}; {_read(base, uniform)}",
                   _not(_keeps(base, uniform)))
    noise = f"another seed: {_read(base, again)}" if again else ""
    for (name, how), read in text.figures.items():
        if name in (*SOFTMAX, TILED.name, AGAIN, UNIFORM.name):
            continue
        retrained = "no retraining" if how == SWAPPED else "trained with it"
        claims.add(f"003: {name}, {retrained}: at least 95 % of softmax attention's accuracy",
                   "95 %; perplexity 22.3 -> 23.1 (+3.6 %)",
                   f"{compare(base.accuracy, read.accuracy)}; {_read(base, read)}", _keeps(base, read),
                   noise if how == TRAINED else "")
    own = low_rank(size.own).name
    if own in text.parameters:
        old, new = text.parameters[BASELINE.name], text.parameters[own]
        claims.add(f"003: {own}: parameters", "+0.4 %", f"{change(old, new)} ({old} -> {new})", new <= 1.004 * old)


def _keeps(base: Read, new: Read) -> bool | None:
    """Tells whether enough of the accuracy is left: surely, surely not, or (None) these texts can't tell."""
    return compare(base.accuracy, new.accuracy).within((1 - ACCURACY) * base.accuracy.value)


def _read(base: Read, new: Read) -> str:
    """Writes how much more perplexity the new one has, in percent with its interval."""
    return f"{spread(in_percent(compare(base.perplexity, new.perplexity)))} % of perplexity"


def _not(shown: bool | None) -> bool | None:
    return None if shown is None else not shown


def growth(row: Candidate, heads: int, head_dim: int, n: int = 16384) -> float:
    """Returns the power of n by which FLOPs grow from n to 2n."""
    return math.log2(row.flops(heads, head_dim, 2 * n) / row.flops(heads, head_dim, n))


def drop_in(claims: Claims, rows: Sequence[Candidate], kernels: Kernels) -> None:
    """Puts each row in the middle of `nn.MultiheadAttention`: loads its weights, then calls it as it is called."""
    n, width = 2 * max(kernels.head_dim, max((row.options.get("rank", 1) for row in rows), default=1)), kernels.head_dim
    x = torch.randn(2, n, 2 * width, generator=torch.Generator().manual_seed(0))
    padding = (torch.arange(n) >= n - 1).expand(2, n)
    theirs = torch.nn.MultiheadAttention(2 * width, 2, batch_first=True)
    calls: dict[str, tuple[torch.Tensor, dict[str, Any]]] = {
        "self": (x, {}), "cross": (x[:, :n // 2], {}), "padding": (x, {"key_padding_mask": padding}),
        "causal": (x, {"is_causal": True})}
    for row in rows:
        refused = {}
        with kernels.study.part(f"{row.name} in nn.MultiheadAttention"), torch.no_grad():
            ours = attention.MultiheadAttention(2 * width, 2, batch_first=True, attention=row.variant, seq_len=n,
                                                **row.options)
            ours.load_state_dict(theirs.state_dict(), strict=False)
            for name, (query, options) in calls.items():
                try:
                    ours(query, x, x, need_weights=False, **options)
                except ValueError as reason:
                    refused[name] = str(reason).partition(": ")[2]
            text = "; ".join(f"not {name}: {why}" for name, why in refused.items())
            claims.add(f"003: {row.name} works where nn.MultiheadAttention does", "compatible",
                       text or ", ".join(calls), not refused)


def _gradcheck(kernels: Kernels) -> tuple[str, bool | None]:
    q, k, v = (x.double().requires_grad_() for x in inputs(batch=1, heads=1, n=4, head_dim=4, dtype=torch.float64))
    attend = low_rank(2).create(1, 4, 4, torch.float64)
    with kernels.study.part("gradcheck"), bounded(kernels.limit):
        passes = torch.autograd.gradcheck(lambda *x: torch.func.functional_call(attend, {"F": x[3]}, x[:3]),
                                          (q, k, v, *attend.parameters()))
        return "of q, k, v and F: it does", passes
    return "it does not", False


def _triton(kernels: Kernels) -> str:
    if importlib.util.find_spec("triton"):
        return "it is installed here, so this run can't tell"
    return f"it is not installed here; {len({name for name, _, _ in kernels.costs})} rows ran"


def _error(costs: dict[int, tuple[Cost, Cost]]) -> str:
    """Says what a gain costs in error."""
    return f"at {max(cost.relative for _, cost in costs.values()):.2g} of the error that zeros would have"


def _everywhere(words: Sequence[bool | None]) -> bool | None:
    """Says whether all hold; None where some can't tell and none says no."""
    return False if False in words else None if None in words else True


def _costs(kernels: Kernels, row: Candidate, lengths: Sequence[int], dtype: str) -> dict[int, tuple[Cost, Cost]]:
    """Gives by length the costs of softmax attention on eager and of the row."""
    pairs = {n: (kernels.baseline(n, dtype), kernels.costs.get((row.name, n, dtype))) for n in lengths}
    return {n: (base, cost) for n, (base, cost) in pairs.items() if base and cost}
