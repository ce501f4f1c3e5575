"""Figures of quality, each with the scores of its items and a bootstrap interval, and the change between two models.

Two models that are measured on the same items are compared item by item (a *paired* bootstrap): how hard an item is
counts for both and cancels. Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 16;
for paired scores in this field Koehn, EMNLP 2004.

If every score is all or nothing, resampling alone would take no visible difference for no difference. So one invented
item for each side is resampled with the others (after Agresti and Coull, The American Statistician 52 (1998) 119; for
pairs Agresti and Min, Statistics in Medicine 24 (2005) 729). If n items show no difference, the interval then ends near
3/n, as the exact one does.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000
AT_ONCE = 2_000_000  # random numbers in memory at once


def _mean(items: np.ndarray) -> np.ndarray:
    return items.mean(-1)


def _root_mean(items: np.ndarray) -> np.ndarray:
    return np.sqrt(items.mean(-1))


def _weighted_f1(items: np.ndarray) -> np.ndarray:
    """Computes F1 in points from items (label, prediction); the weight of a class is its number of labels."""
    label, prediction = items[..., 0], items[..., 1]
    total = np.zeros(label.shape[:-1])
    for c in np.unique(label):
        is_label, is_prediction = label == c, prediction == c
        labels, predictions = is_label.sum(-1), is_prediction.sum(-1)
        total += labels * 2 * (is_label & is_prediction).sum(-1) / np.maximum(labels + predictions, 1)
    return 100 * total / label.shape[-1]


# Each takes items (..., n), or (..., n, 2) for F1, and gives figures (...).
STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": _mean, "root-mean": _root_mean, "exp-mean": lambda items: np.exp(items.mean(-1)),
    "weighted-f1": _weighted_f1}


@dataclass(frozen=True)
class Figure:
    """A figure is `STATISTICS[statistic]` of the scores of n items: (n,), or (n, 2) for F1.

    `unit` is "points" for percentages, which lie between 0 and 100.
    Raises ValueError for scores of another shape, no scores, and scores that are not finite.
    """

    name: str
    unit: str
    better: Literal["higher", "lower"]
    items: np.ndarray = field(repr=False)
    statistic: str = "mean"

    def __post_init__(self) -> None:
        items = np.asarray(self.items, dtype=np.float64)
        shape = (2,) if self.statistic == "weighted-f1" else ()
        if items.shape[1:] != shape or not len(items):
            raise ValueError(f"{self.name}: scores of shape {items.shape}; expected {('n', *shape)}, n > 0")
        if not (finite := np.isfinite(items).reshape(len(items), -1).all(-1)).all():
            raise ValueError(f"{self.name}: the score of item {int(finite.argmin())} is not a finite number")
        object.__setattr__(self, "items", items)

    @property
    def value(self) -> float:
        """The figure itself, in `unit`."""
        return float(STATISTICS[self.statistic](self.items))

    def interval(self, confidence: float = CONFIDENCE, resamples: int = RESAMPLES,
                 seed: int = 0) -> tuple[float, float]:
        """Gives the ends of the interval that holds the figure of other, similar items with this probability."""
        items = self.items
        if _all_or_nothing(self):
            items = np.concatenate([items, [0.0, 100.0]])
        statistic = STATISTICS[self.statistic]
        return _ends([statistic(items[rows]) for rows in _resamples(len(items), resamples, seed)], confidence)


@dataclass(frozen=True)
class Change:
    """A change is the difference of a figure between two models on the same items, new minus base."""

    name: str
    unit: str
    better: Literal["higher", "lower"]
    base: float
    new: float
    low: float
    high: float
    items: int

    @property
    def difference(self) -> float:
        """New minus base, in `unit`."""
        return self.new - self.base

    @property
    def verdict(self) -> Literal["better", "worse", "inside the noise"]:
        """The word for the change: "inside the noise" if the interval holds 0."""
        if self.low <= 0 <= self.high:
            return "inside the noise"
        return "better" if (self.low > 0) == (self.better == "higher") else "worse"

    @property
    def lost(self) -> tuple[float, float]:
        """The least and the greatest loss of the new model, in `unit`; a negative loss is a gain."""
        return (-self.high, -self.low) if self.better == "higher" else (self.low, self.high)

    def within(self, budget: float) -> bool | None:
        """Tells whether the loss is below `budget`: True, False, or None if these items can't tell."""
        least, most = self.lost
        return True if most < budget else False if least > budget else None

    def __str__(self) -> str:
        return (f"{self.name} {self.base:.4g} -> {self.new:.4g} {self.unit}: {self.difference:+.2g} "
                f"({self.low:+.2g} to {self.high:+.2g}, {self.items} items), {self.verdict}")


def compare(base: Figure, new: Figure, confidence: float = CONFIDENCE, resamples: int = RESAMPLES,
            seed: int = 0) -> Change:
    """Computes the change from `base` to `new`, two figures of one name over the same items in the same order.

    Raises ValueError for figures of another name, unit or statistic, or another number of items.
    """
    for word in ("name", "unit", "statistic"):
        if getattr(base, word) != getattr(new, word):
            raise ValueError(f"{base.name} and {new.name} are not one figure: {word} {getattr(base, word)!r} "
                             f"and {getattr(new, word)!r}")
    if len(base.items) != len(new.items):
        raise ValueError(f"{base.name}: {len(base.items)} and {len(new.items)} items can't be paired; "
                         "measure both models on the same ones")
    olds, news = base.items, new.items
    if _all_or_nothing(base) and _all_or_nothing(new):
        olds, news = np.concatenate([olds, [0.0, 100.0]]), np.concatenate([news, [100.0, 0.0]])
    statistic = STATISTICS[base.statistic]
    differences = [statistic(news[rows]) - statistic(olds[rows]) for rows in _resamples(len(olds), resamples, seed)]
    low, high = _ends(differences, confidence)
    return Change(base.name, base.unit, base.better, base.value, new.value, low, high, len(base.items))


def join(parts: Sequence[Mapping[str, Figure]]) -> dict[str, Figure]:
    """Joins the items of all parts, in this order, for example the held-out parts of all folds.

    Raises ValueError if the parts do not have the same figures.
    """
    if not parts or any(part.keys() != parts[0].keys() for part in parts):
        raise ValueError(f"parts to join must have the same figures, not {[', '.join(part) for part in parts]}")
    return {name: replace(figure, items=np.concatenate([part[name].items for part in parts]))
            for name, figure in parts[0].items()}


def _all_or_nothing(figure: Figure) -> bool:
    return figure.unit == "points" and figure.statistic == "mean" and bool(np.isin(figure.items, (0, 100)).all())


def _resamples(items: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yields random item numbers in blocks (rows, items), `resamples` rows in all."""
    random = np.random.default_rng(seed)
    rows = max(1, AT_ONCE // items)
    for start in range(0, resamples, rows):
        yield random.integers(items, size=(min(rows, resamples - start), items))


def _ends(values: list[np.ndarray], confidence: float) -> tuple[float, float]:
    low, high = np.quantile(np.concatenate(values), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
