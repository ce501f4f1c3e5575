"""The rule says how far a result may be from the exact one, row by row.

A row is one position of one head. Its spread s is the root mean square of what an honest kernel's rounding does there
(`rounding`), at least what one rounding of the row itself does, and a quarter of what the rows around it have, since
chance may spare a row. With e the error:

    row    max |e| <= 24 s                         of every row
    rms    rms of e / s <= 1.3 + 6 / sqrt(rows)    of 64 rows of a head, of every head, and of all
    slope  |<e, exact> / <exact, exact>|           likewise, each row weighted by 1 / s²: at most 4 times what an honest
                                                   kernel's rounding gives, and eps / 32

The maximum finds a fault in one row, the root mean square one in many, and the slope what all rows have in common: it
says how much of the exact result the output has too much or too little of. Rounding averages out there, a wrong scale
does not. 24 is what the largest error of many rows needs where one sample tells its size, of millions where several do.

A gradient is judged as an output is, by its own size and its own rows.
"""
from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from attention.testing.rounding import least

ROW, RMS, FEW, SLOPE = 24.0, 1.3, 6.0, 4.0
NEAR = 1 / 16  # of the square of the spread of the rows around it is a row's at least: a sample of one may be tiny
BLOCKS = (64, 0, -1)  # rows; 0: all of a head, -1: all of all heads
LOOSE = 0.1  # of a row's root mean square: no bound is above it without a reason

# For whole models, whose logits are held against those of the eager variant in T: twice its error and a few eps.
K = 2.0
FLOOR = {torch.bfloat16: 4.0, torch.float16: 4.0, torch.float32: 32.0, torch.float64: 32.0}


@dataclass(frozen=True)
class Report:
    """A report holds the error and the bound for each tensor and measure ("out", "out rms", "out slope", "dq", ...).

    Both are relative to the size of the rows at the place where the error comes closest to its bound. `places` names
    that place, and `reasons` says why bounds of a tensor are above a tenth of its rows. `bad` tells where a tensor
    has NaN or Inf (`bad_numbers`).
    """

    name: str
    errors: dict[str, float]
    bounds: dict[str, float]
    places: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return all(self.errors[x] <= self.bounds[x] for x in self.errors)  # NaN is never <=

    @property
    def worst(self) -> float:
        """Gives the largest error over its bound; NaN if any error is."""
        ratios = [ratio(self.errors[x], self.bounds[x]) for x in self.errors]
        return next((r for r in ratios if r != r), max(ratios))

    @property
    def message(self) -> str:
        wrong = [f"{x} {self.errors[x]:.2e} > {self.bounds[x]:.2e}{self.places.get(x, '')}"
                 for x in self.errors if not self.errors[x] <= self.bounds[x]
                 and (math.isfinite(self.errors[x]) or not self.bad)]
        wrong[:0] = [f"{x} has {what}" for x, what in self.bad.items()]
        return f"{self.name} is numerically wrong: {', '.join(wrong)}" if wrong else f"{self.name} is right"


def bad_numbers(x: torch.Tensor) -> str | None:
    """Counts what is NaN or Inf, and says where the first is: "2 NaN and 1 Inf of 4096, the first in sequence 0,
    head 1, row 17, column 5" of (B, H, N, D), else at its index. Returns None where all is finite."""
    if x.isfinite().all():
        return None
    bad = ~x.isfinite()
    counts = ((int(x.isnan().sum()), "NaN"), (int(x.isinf().sum()), "Inf"))
    first = torch.unravel_index(bad.flatten().to(torch.uint8).argmax(), x.shape)
    place = f"at {tuple(map(int, first))}"
    if x.dim() == 4:
        place = "in sequence {}, head {}, row {}, column {}".format(*map(int, first))
    return f"{' and '.join(f'{count} {what}' for count, what in counts if count)} of {x.numel()}, the first {place}"


def ratio(error: float, bound: float) -> float:
    """Divides an error by its bound, where nothing of nothing is nothing."""
    return error / bound if bound else math.inf * error if error else 0.0


class Finding(NamedTuple):
    """Is the place where a measure comes closest to its bound."""

    measure: str  # "", "rms", "slope"
    error: float
    bound: float
    place: str


class Limits(NamedTuple):
    """Holds the bounds of blocks of rows, (B, H, blocks)."""

    rows: torch.Tensor
    unit: torch.Tensor  # a spread, relative to the size of a row
    rms: torch.Tensor
    weight: torch.Tensor  # <exact, exact>, each row over its spread squared
    slope: torch.Tensor


class Measure:
    """Holds one tensor's exact values (B, H, N, D), and by row what rounding an honest kernel leaves there."""

    def __init__(self, exact: torch.Tensor, honest: Sequence[torch.Tensor], dtype: torch.dtype,
                 parts: torch.Tensor | None = None, size: float = 0.0) -> None:
        """Takes an honest kernel's errors, `honest`, one for each draw of rounding; `parts`, where it may round more
        than one before it sums them, a number (of the shape of `exact`) as large as they; `size` that of what may
        cancel to nothing."""
        info = torch.finfo(dtype)
        half = info.bits < 32
        self.shape, self.exact = exact.shape, rows(exact)
        errors = torch.stack([rows(error) for error in honest])
        square = self.exact.square()
        size2 = square.mean(-1)
        sums = 2 * torch.finfo(torch.float32 if half else dtype).eps  # of the head's, which cancel in a row
        own = errors.square().mean((0, -1))
        self.spread2 = (own + NEAR * _near(own) + least(dtype) ** 2 * size2 + (info.tiny * info.eps) ** 2 + 1e-99
                        + sums ** 2 * (size2.mean(-1, keepdim=True) + size ** 2))
        if parts is not None:
            self.spread2 += least(dtype) ** 2 * rows(parts).square().mean(-1)
        self.spread, self.size = self.spread2.sqrt(), torch.maximum(size2, self.spread2).sqrt()
        along, share = (errors * self.exact).sum(-1) / self.spread2, square.sum(-1) / self.spread2
        alone = along.square().mean(0) + (least(dtype) / 2 * share).square() + share
        alike = least(dtype) / 8 if half else 16 * least(dtype)
        self.limits = {block: self._limits(block, along, share, alone, alike) for block in BLOCKS}

    def _limits(self, block: int, along: torch.Tensor, share: torch.Tensor, alone: torch.Tensor,
                alike: float) -> Limits:
        """Bounds blocks of rows. `along` is how much of the exact row each honest error contains, `share` how much the
        row itself does, `alone` the square of what chance may put into each, all over the row's spread squared. Blocks
        whose rows are off together are so in the honest run too, some block or other."""
        count, weight = _sums(torch.ones_like(share), block), _sums(share, block).clamp_min(1e-99)
        unit = (_sums((self.spread / self.size).square(), block) / count).sqrt()
        together = torch.stack([_sums(x, block) / weight for x in along]).square().mean()
        slope = SLOPE * (_sums(alone, block) / weight.square() + together).sqrt() + alike
        return Limits(count, unit, (RMS + FEW / count.sqrt()) * unit, weight, slope)

    @property
    def bound(self) -> float:
        """Gives the largest bound of a row's error, as a number."""
        return ROW * self.spread.max().item()

    @functools.cached_property
    def reason(self) -> str | None:
        """Says why some bounds are above a tenth of a row; None if none are."""
        loose = ROW * self.spread > LOOSE * self.size
        if not loose.any():
            return None
        return (f"{loose.double().mean().item():.1%} of the rows are small for the terms that are summed there: "
                f"rounding those moves them by more than {LOOSE / ROW:.1%}")

    def findings(self, found: torch.Tensor) -> Iterator[Finding]:
        """Yields, for each measure, the finding that comes closest to its bound."""
        error = rows(found) - self.exact
        largest, norm = (torch.linalg.vector_norm(error, order, -1) for order in (math.inf, 2))
        yield self._worst("", largest / self.size, ROW * self.spread / self.size, 1)
        square = norm.square() / error.shape[-1] / self.spread2
        along = (error * self.exact).sum(-1) / self.spread2
        for block, limits in self.limits.items():
            yield self._worst("rms", (_sums(square, block) / limits.rows).sqrt() * limits.unit, limits.rms, block)
            yield self._worst("slope", _sums(along, block).abs() / limits.weight, limits.slope, block)

    def _worst(self, measure: str, error: torch.Tensor, bound: torch.Tensor, block: int) -> Finding:
        """Gives the block of (B, H, blocks) where error / bound is largest or not a number."""
        at = int((error / bound).argmax())  # torch's is that of a NaN, where there is one
        rest, t = divmod(at, error.shape[2])
        b, h = divmod(rest, error.shape[1])
        last = min((t + 1) * block, self.exact.shape[2]) - 1
        rows = {1: f", row {last}", 0: "", -1: ""}.get(block, f", rows {t * block} to {last}")
        place = "" if block < 0 else f" in sequence {b}, head {h}{rows}"
        return Finding(measure, error[b, h, t].item(), bound[b, h, t].item(), place)


def rows(x: torch.Tensor) -> torch.Tensor:
    """Shapes x as (B, H, N, D): a parameter has fewer dimensions, and is one row where its own are too short."""
    if x.dim() < 4 and x.shape[-1] < 16:
        x = x.reshape(-1)
    return x.reshape(*(1,) * (4 - x.dim()), *x.shape)


def _near(x: torch.Tensor) -> torch.Tensor:
    """Means over nine rows each, (B, H, N) -> (B, H, N)."""
    return torch.nn.functional.avg_pool1d(x.flatten(0, 1), 9, 1, 4, count_include_pad=False).view_as(x)


def _sums(x: torch.Tensor, block: int) -> torch.Tensor:
    """Sums over blocks of rows, (B, H, N) -> (B, H, blocks); see BLOCKS."""
    if block < 0:
        return x.sum().view(1, 1, 1)
    block = block or x.shape[-1]
    filling = -x.shape[-1] % block
    return torch.nn.functional.pad(x, (0, filling)).unflatten(-1, (-1, block)).sum(-1)
