"""Real monthly series with no network, from statsmodels, and windows over any series for the TFT.

CO2 at Mauna Loa (1958-2001, weekly, averaged by month), the sea's surface temperature in El Nino's region
(1950-2010), and the euro area's output of electrical equipment (1995-2016). Static: which series it is. Known
ahead: the season and how late it is. Season 12.

The last part of each series is held out: its steps are no target of a training window, and nothing that scales a
series is fitted on them. A window is centred on the level of its own context, which is known when it is forecast.
"""
from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from models import metrics
from models.data.packages import needs
from models.registry import Preset

HELD_OUT = 0.2  # of each series, its end
MONTHS = 12


@dataclass(frozen=True)
class Series:
    """Values (T,) and what is known of each step beforehand (T, K)."""

    name: str
    values: np.ndarray
    known: np.ndarray


@dataclass(frozen=True)
class Windows:
    """Windows (W) of context + horizon over S scaled series of T steps; `at_W2` says series and first step.

    A forecast y of the model means y * scale_S + level_W in the series' own unit; `naive_S` is the error of the
    seasonal naive forecast within the training part, there too.
    """

    values_ST: torch.Tensor
    known_STK: torch.Tensor
    at_W2: torch.Tensor
    scale_S: torch.Tensor
    naive_S: torch.Tensor
    offset_S: torch.Tensor
    context: int
    horizon: int
    season: int

    def __len__(self) -> int:
        return len(self.at_W2)

    def to(self, device: str | torch.device) -> Windows:
        tensors: dict[str, Any] = {name: value.to(device) for name, value in vars(self).items()
                                   if isinstance(value, torch.Tensor)}
        return replace(self, **tensors)

    def batch(self, items: torch.Tensor, generator: torch.Generator | None = None,
              ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Inputs of a TFT and targets (B, N), scaled and centred."""
        series_B, steps_BT = self._steps(items)
        values_BT = self.values_ST[series_B[:, None], steps_BT]
        values_BT = values_BT - values_BT[:, :self.context].mean(1, keepdim=True)
        inputs = {"static_BS": series_B[:, None], "known_BTK": self.known_STK[series_B[:, None], steps_BT],
                  "observed_BCO": values_BT[:, :self.context, None]}
        return inputs, values_BT[:, self.context:]

    def unscaled(self, items: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """A forecast (B, N) or (B, N, Q) of these items in the series' own unit."""
        series_B, steps_BT = self._steps(items)
        context_BC = self.values_ST[series_B[:, None], steps_BT[:, :self.context]]
        shape = (-1, *[1] * (y.dim() - 1))
        scaled = y + context_BC.mean(1).view(shape)
        return scaled * self.scale_S[series_B].view(shape) + self.offset_S[series_B].view(shape)

    def seasonal_naive(self, items: torch.Tensor) -> torch.Tensor:
        """The forecast (B, N), scaled and centred, that repeats the context's last season."""
        context_BC = self.batch(items)[0]["observed_BCO"][..., 0]
        ahead = torch.arange(self.horizon, device=context_BC.device) % self.season
        return context_BC[:, self.context - self.season:][:, ahead]

    def naive_error(self, items: torch.Tensor) -> torch.Tensor:
        """What MASE divides by, (B,)."""
        return self.naive_S[self.at_W2[items.to(self.at_W2.device), 0]]

    def _steps(self, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        series_B, first_B = self.at_W2[items.to(self.at_W2.device)].unbind(1)
        steps = torch.arange(self.context + self.horizon, device=first_B.device)
        return series_B, first_B[:, None] + steps


def windows(found: Sequence[Series], *, context: int, horizon: int, season: int, stride: int = 1,
            held_out: float = HELD_OUT) -> tuple[Windows, Windows]:
    """Training windows every `stride` steps, and held-out windows whose targets follow one another.

    Raises ValueError, naming the series, for one that is too short, or holds a NaN.
    """
    parts = [_checked(series, context, horizon, season, held_out) for series in found]
    offset, scale, naive = (np.array(numbers) for numbers in zip(*parts, strict=True))
    longest = max(len(series.values) for series in found)
    values = np.full((len(found), longest), np.nan)
    known = np.full((len(found), longest, found[0].known.shape[1]), np.nan)
    train, test = [], []
    for s, series in enumerate(found):
        values[s, :len(series.values)] = (series.values - offset[s]) / scale[s]
        known[s, :len(series.values)] = series.known
        end = _training_steps(series, held_out)
        train += [(s, first) for first in range(0, end - context - horizon + 1, stride)]
        test += [(s, last - context - horizon)
                 for last in range(len(series.values), end + horizon - 1, -horizon)][::-1]
    values_ST, known_STK, scale_S, naive_S, offset_S = (
        torch.tensor(x, dtype=torch.float32) for x in (values, known, scale, naive, offset))
    of = Windows(values_ST, known_STK, torch.tensor(train), scale_S, naive_S, offset_S, context, horizon, season)
    return of, replace(of, at_W2=torch.tensor(test))


def _training_steps(series: Series, held_out: float) -> int:
    return round(len(series.values) * (1 - held_out))


def _checked(series: Series, context: int, horizon: int, season: int, held_out: float) -> tuple[float, float, float]:
    """Mean, standard deviation and seasonal naive error of the training part; ValueError for a bad series."""
    whole = np.concatenate([series.values[:, None], series.known], axis=1)
    if not (fine := np.isfinite(whole).all(1)).all():
        raise ValueError(f"series {series.name}: step {int(fine.argmin())} of {len(fine)} is not a finite number; "
                         "fill or cut it first")
    if context < season:
        raise ValueError(f"a context of {context} steps is shorter than the season of {season}")
    end = _training_steps(series, held_out)
    if end < context + horizon or len(fine) - end < horizon:
        raise ValueError(f"series {series.name}: {len(fine)} steps, {end} of them for training, are too short for a "
                         f"context of {context} and a horizon of {horizon} in training and {horizon} steps held out")
    past = series.values[:end]
    scale, naive = float(past.std()), metrics.seasonal_scale(past, season)
    if scale == 0 or naive == 0:
        raise ValueError(f"series {series.name} does not change in its first {end} steps: nothing to scale it by")
    return float(past.mean()), scale, naive


@functools.cache
def monthly() -> tuple[Series, ...]:
    """The three series; ImportError, in one line, without statsmodels."""
    with needs("statsmodels", "for its monthly series"):
        from statsmodels.datasets import co2, elec_equip, elnino
    by_month = co2.load_pandas().data["co2"].resample("MS").mean().interpolate()
    sea = elnino.load_pandas().data
    equipment = elec_equip.load_pandas().data.iloc[:, 0]
    return (_monthly("co2", by_month.to_numpy(), by_month.index[0].month),
            _monthly("elnino", sea.drop(columns="YEAR").to_numpy().ravel(), 1),
            _monthly("elec_equip", equipment.to_numpy(), equipment.index[0].month))


def _monthly(name: str, values: np.ndarray, first_month: int) -> Series:
    step = np.arange(len(values))
    angle = 2 * np.pi * (step + first_month - 1) / MONTHS
    known = np.stack([np.sin(angle), np.cos(angle), step / (10 * MONTHS)], axis=1)
    return Series(name, values.astype(np.float64), known)


def fingerprint() -> str:
    return "statsmodels-monthly-1"


def split(preset: Preset) -> tuple[Windows, Windows]:
    """Training and held-out windows of the monthly series, for a preset with 3 known variables, 1 observed, and
    one static with 3 classes. Raises ValueError for another."""
    sizes, found = preset.sizes, monthly()
    expected = {"static": (len(found),), "known": found[0].known.shape[1], "observed": 1}
    for name, count in expected.items():
        if sizes[name] != count:
            raise ValueError(f"{preset.name}: the monthly series have {name}={count}, the preset {sizes[name]}; "
                             "use tft-monthly, or give data that fits")
    return windows(found, context=sizes["context"], horizon=sizes["horizon"], season=MONTHS)
