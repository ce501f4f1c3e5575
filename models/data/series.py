"""Real monthly series from statsmodels, without a network, and windows over any series for the TFT.

The series are CO2 at Mauna Loa (1958-2001, weekly, averaged by month), the surface temperature of the sea in El Nino's
region (1950-2010), and the euro area's output of electrical equipment (1995-2016). The static variable is the number of
the series. Known ahead are the season and the time. A season has 12 steps.

The last part of each series is held out: its steps are no targets of training windows, and they are not used to scale
the series. A window is centred on the mean of its context, which is known at the time of the forecast.
"""
from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from models import metrics
from models.packages import needs
from models.registry import Preset

HELD_OUT = 0.2  # fraction of each series, at its end
MONTHS = 12


@dataclass(frozen=True)
class Series:
    """A series has values (T,) and, for each step, K numbers that are known ahead (T, K)."""

    name: str
    values: np.ndarray
    known: np.ndarray


@dataclass(frozen=True)
class Windows:
    """W windows of context + horizon over S scaled series of T steps; `at_W2` holds series and first step.

    `unscaled` turns a forecast of the model into the unit of its series. `naive_S` is the error of the seasonal naive
    forecast within the training part, in the unit of the series.
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
        """Copies the series to a device."""
        tensors: dict[str, Any] = {name: value.to(device) for name, value in vars(self).items()
                                   if isinstance(value, torch.Tensor)}
        return replace(self, **tensors)

    def batch(self, items: torch.Tensor, generator: torch.Generator | None = None,
              ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Gives the inputs of a TFT and the targets (B, N), scaled and centred."""
        series_B, steps_BT = self._steps(items)
        values_BT = self.values_ST[series_B[:, None], steps_BT]
        values_BT = values_BT - values_BT[:, :self.context].mean(1, keepdim=True)
        inputs = {"static_BS": series_B[:, None], "known_BTK": self.known_STK[series_B[:, None], steps_BT],
                  "observed_BCO": values_BT[:, :self.context, None]}
        return inputs, values_BT[:, self.context:]

    def unscaled(self, items: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Converts a forecast (B, N) or (B, N, Q) of these items to the unit of their series."""
        series_B, steps_BT = self._steps(items)
        context_BC = self.values_ST[series_B[:, None], steps_BT[:, :self.context]]
        shape = (-1, *[1] * (y.dim() - 1))
        scaled = y + context_BC.mean(1).view(shape)
        return scaled * self.scale_S[series_B].view(shape) + self.offset_S[series_B].view(shape)

    def seasonal_naive(self, items: torch.Tensor) -> torch.Tensor:
        """Gives the forecast (B, N), scaled and centred, that repeats the last season of the context."""
        context_BC = self.batch(items)[0]["observed_BCO"][..., 0]
        ahead = torch.arange(self.horizon, device=context_BC.device) % self.season
        return context_BC[:, self.context - self.season:][:, ahead]

    def naive_error(self, items: torch.Tensor) -> torch.Tensor:
        """Gives the errors (B,) by which MASE divides."""
        return self.naive_S[self.at_W2[items.to(self.at_W2.device), 0]]

    def _steps(self, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        series_B, first_B = self.at_W2[items.to(self.at_W2.device)].unbind(1)
        steps = torch.arange(self.context + self.horizon, device=first_B.device)
        return series_B, first_B[:, None] + steps


def windows(all_series: Sequence[Series], *, context: int, horizon: int, season: int, stride: int = 1,
            held_out: float = HELD_OUT) -> tuple[Windows, Windows]:
    """Gives training windows every `stride` steps, and held-out windows whose targets follow one another.

    Raises ValueError, which names the series, for one that is too short, constant, or has a number that is not finite.
    """
    parts = [_scaling(series, context, horizon, season, held_out) for series in all_series]
    offset, scale, naive = (np.array(numbers) for numbers in zip(*parts, strict=True))
    longest = max(len(series.values) for series in all_series)
    values = np.full((len(all_series), longest), np.nan)
    known = np.full((len(all_series), longest, all_series[0].known.shape[1]), np.nan)
    train, test = [], []
    for s, series in enumerate(all_series):
        values[s, :len(series.values)] = (series.values - offset[s]) / scale[s]
        known[s, :len(series.values)] = series.known
        end = _training_steps(series, held_out)
        train += [(s, first) for first in range(0, end - context - horizon + 1, stride)]
        test += [(s, last - context - horizon)
                 for last in range(len(series.values), end + horizon - 1, -horizon)][::-1]
    values_ST, known_STK, scale_S, naive_S, offset_S = (
        torch.tensor(x, dtype=torch.float32) for x in (values, known, scale, naive, offset))
    training = Windows(values_ST, known_STK, torch.tensor(train), scale_S, naive_S, offset_S, context, horizon, season)
    return training, replace(training, at_W2=torch.tensor(test))


def _training_steps(series: Series, held_out: float) -> int:
    return round(len(series.values) * (1 - held_out))


def _scaling(series: Series, context: int, horizon: int, season: int, held_out: float) -> tuple[float, float, float]:
    """Computes mean, standard deviation and seasonal naive error of the training part; ValueError for a bad series."""
    whole = np.concatenate([series.values[:, None], series.known], axis=1)
    if not (finite := np.isfinite(whole).all(1)).all():
        raise ValueError(f"series {series.name}: step {int(finite.argmin())} of {len(finite)} is not a finite number; "
                         "fill or cut it first")
    if context < season:
        raise ValueError(f"a context of {context} steps is shorter than the season of {season}")
    end = _training_steps(series, held_out)
    if end < context + horizon or len(finite) - end < horizon:
        raise ValueError(f"series {series.name}: {len(finite)} steps, {end} of them for training, are too short for a "
                         f"context of {context} and a horizon of {horizon} in training and {horizon} steps held out")
    past = series.values[:end]
    scale, naive = float(past.std()), metrics.seasonal_scale(past, season)
    if scale == 0 or naive == 0:
        raise ValueError(f"series {series.name} does not change in its first {end} steps: nothing to scale it by")
    return float(past.mean()), scale, naive


@functools.cache
def monthly() -> tuple[Series, ...]:
    """Loads the three series. Raises ImportError, in one line, without statsmodels."""
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
    """Names the data, for `training.fingerprint`."""
    return "statsmodels-monthly-1"


def split(preset: Preset) -> tuple[Windows, Windows]:
    """Gives training and held-out windows of the monthly series.

    Raises ValueError for a preset without 3 known variables, 1 observed variable and 1 static variable of 3 classes.
    """
    sizes, series = preset.sizes, monthly()
    expected = {"static": (len(series),), "known": series[0].known.shape[1], "observed": 1}
    for name, count in expected.items():
        if sizes[name] != count:
            raise ValueError(f"{preset.name}: the monthly series have {name}={count}, the preset {sizes[name]}; "
                             "use tft-monthly, or give data that fits")
    return windows(series, context=sizes["context"], horizon=sizes["horizon"], season=MONTHS)
