"""Series: scaled by their past, cut into windows, forecast and scored in their own unit."""
from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

import models
from models import metrics, quality
from models.data import series, split
from models.data.series import Series, windows

T = 100


def make(name="wave", values=None):
    step = np.arange(T)
    values = 50 + 3 * step % 7 + step / 10 if values is None else values
    return Series(name, np.asarray(values, dtype=float), np.stack([step, step % 4], axis=1).astype(float))


def cut(*waves, **settings):
    return windows(waves or [make()], **{"context": 12, "horizon": 4, "season": 4, **settings})


def test_a_window_is_what_it_says():
    wave, other = make(), make("other", np.random.default_rng(0).normal(size=T))
    train, held_out = cut(wave, other)
    assert (len(train), len(held_out)) == (2 * (80 - 15), 2 * 5)
    items = torch.tensor([0, 64, 70])
    inputs, target = train.batch(items)
    for row, (source, first) in enumerate([(wave, 0), (wave, 64), (other, 5)]):
        assert inputs["static_BS"][row].item() == [wave, other].index(source)
        assert np.allclose(inputs["known_BTK"][row], source.known[first:first + 16])
        observed = torch.cat([inputs["observed_BCO"][row, :, 0], target[row]])
        assert observed[:12].mean().item() == pytest.approx(0, abs=1e-5)
        assert np.allclose(train.unscaled(items, target)[row], source.values[first + 12:first + 16], atol=1e-4)
    quantiles = train.unscaled(items, target[..., None].expand(3, 4, 2))
    assert torch.equal(quantiles[..., 0], train.unscaled(items, target))


def test_nothing_that_is_held_out_changes_what_is_trained_on():
    wave = make()
    changed = make(values=np.where(np.arange(T) < 80, wave.values, 1e3 * wave.values))
    (train, held_out), (same, other) = cut(wave), cut(changed)
    for name in ("scale_S", "naive_S", "offset_S"):
        assert torch.equal(getattr(train, name), getattr(same, name))
    every = torch.arange(len(train))
    assert torch.equal(train.batch(every)[1], same.batch(every)[1])
    assert not torch.equal(held_out.batch(torch.tensor([0]))[1], other.batch(torch.tensor([0]))[1])


def test_held_out_targets_follow_one_another_to_the_end():
    _, held_out = cut()
    assert (held_out.at_W2[:, 1] + 12).tolist() == [80, 84, 88, 92, 96]


def test_the_seasonal_naive_forecast_repeats_the_last_season():
    wave = make()
    _, held_out = cut(wave, horizon=6)
    items = torch.tensor([0])
    first = held_out.at_W2[0, 1].item() + 12
    expected = [wave.values[first - 4 + step % 4] for step in range(6)]
    assert np.allclose(held_out.unscaled(items, held_out.seasonal_naive(items))[0], expected, atol=1e-4)
    assert held_out.naive_error(items).item() == pytest.approx(np.abs(wave.values[4:80] - wave.values[:76]).mean())


class Perfect(nn.Module):
    """Forecasts the targets themselves, plus `off` in scaled units, its quantiles in the wrong order."""

    quantiles = (0.1, 0.5, 0.9)

    def __init__(self, data, off):
        super().__init__()
        self.weight, self.data, self.off = nn.Parameter(torch.zeros(1)), data, off

    def forward(self, static_BS, known_BTK, observed_BCO):
        every = torch.arange(len(self.data))
        target = next(target[i] for inputs, target in [self.data.batch(every)] for i in every
                      if torch.equal(inputs["observed_BCO"][i], observed_BCO[0]))[None]
        return torch.stack([target + self.off + move for move in (1.0, 0.0, -1.0)], dim=-1)


def test_figures_by_hand():
    _, held_out = cut()
    model = Perfect(held_out, off=0.5)
    figures = quality.evaluate(model, "tft-tiny", held_out, batch=1)
    scale, naive = held_out.scale_S.item(), held_out.naive_S.item()
    assert figures["rmse"].value == pytest.approx(0.5, rel=1e-4)
    assert figures["mase"].value == pytest.approx(0.5 * scale / naive, rel=1e-4)
    # Sorted, the quantiles are off by -0.5 (too low, 0.1), 0.5 and 1.5 (too high).
    assert figures["quantile_loss"].value == pytest.approx((0.1 * 0.5 + 0.5 * 0.5 + 0.1 * 1.5) / 3, rel=1e-4)
    truth = held_out.unscaled(torch.arange(5), held_out.batch(torch.arange(5))[1]).numpy()
    off = 0.5 * scale
    assert figures["smape"].value == pytest.approx((200 * off / (2 * truth + off)).mean(), rel=1e-3)
    assert quality.evaluate(Perfect(held_out, 0.0), "tft-tiny", held_out, batch=1)["mase"].value < 1e-4


def test_scores_by_hand():
    forecast, target = np.array([[1.0, 4.0], [0.0, 2.0]]), np.array([[3.0, 4.0], [0.0, -2.0]])
    assert metrics.squared_error(forecast, target).tolist() == [2, 8]
    assert metrics.mase(forecast, target, np.array([2.0, 0.5])).tolist() == [0.5, 4]
    assert metrics.smape(forecast, target).tolist() == [50, 100]  # 2 x 2 / 4 and 0; nothing of 0 and 0, and 2 x 4 / 4
    assert metrics.seasonal_scale(np.array([1.0, 2.0, 4.0, 1.0]), 2) == 2


def test_scores_are_gluonts():
    gluonts = pytest.importorskip("gluonts.evaluation.metrics", reason="gluonts is not installed")
    random = np.random.default_rng(0)
    forecast, target = random.normal(3, 1, (7, 12)), random.normal(3, 1, (7, 12))
    for i in range(7):
        assert metrics.mase(forecast, target, np.full(7, 0.7))[i] == pytest.approx(
            gluonts.mase(target[i], forecast[i], 0.7))
        assert metrics.smape(forecast, target)[i] == pytest.approx(100 * gluonts.smape(target[i], forecast[i]))
        for q in (0.1, 0.9):  # gluonts sums, and counts twice
            assert metrics.pinball(forecast[..., None], target, [q])[i] == pytest.approx(
                gluonts.quantile_loss(target[i], forecast[i], q) / 2 / 12)


def test_monthly_series_and_a_preset_that_fits_them():
    pytest.importorskip("statsmodels", reason="statsmodels is not installed")
    by_name = {each.name: each for each in series.monthly()}
    assert {name: len(each.values) for name, each in by_name.items()} == {"co2": 526, "elnino": 732, "elec_equip": 257}
    march = by_name["elnino"].known[2, :2]
    assert by_name["co2"].known[0, :2] == pytest.approx(march)  # it begins in March
    assert by_name["elec_equip"].known[:12, :2] == pytest.approx(by_name["elnino"].known[:12, :2])
    model = models.create("tft-monthly", attention="softmax:sdpa")
    forecast = quality.evaluate(model, "tft-monthly", limit=3)
    assert len(forecast["mase"].items) == 3
    train, held_out = split("tft-monthly")
    assert len(train) > 1000
    assert quality.seasonal_naive(held_out)["mase"].value == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(("call", "line"), [
    (lambda: cut(make(values=[1.0] * 40 + [np.nan] + [2.0] * 59)),
     "series wave: step 40 of 100 is not a finite number; fill or cut it first"),
    (lambda: cut(context=80), "series wave: 100 steps, 80 of them for training, are too short for a context of 80"),
    (lambda: cut(horizon=25), "series wave: 100 steps, 80 of them for training, are too short for a context of 12 "
                              "and a horizon of 25 in training and 25 steps held out"),
    (lambda: cut(season=24), "a context of 12 steps is shorter than the season of 24"),
    (lambda: cut(make(values=np.ones(T))), "series wave does not change in its first 80 steps"),
    (lambda: split("tft-tiny"), "tft-tiny: the monthly series have static=(3,), the preset (5, 3); use tft-monthly"),
    (lambda: metrics.seasonal_scale(np.ones(3), 3), "a series of 3 steps has no season of 3 to compare with"),
])
def test_a_refusal_is_one_line(call, line):
    with pytest.raises(ValueError, match="^" + re.escape(line)) as error:
        call()
    assert "\n" not in str(error.value)
