"""Scores against the libraries and hand-worked values; `evaluate` on models whose answers are known."""
from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import models
from models import metrics, quality
from models.data import digits

random = np.random.default_rng(0)


@pytest.mark.parametrize("k", [1, 5])
def test_hits_are_scikit_learns_top_k(k):
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    logits, labels = random.normal(size=(300, 9)), random.integers(0, 9, 300)
    expected = sklearn.top_k_accuracy_score(labels, logits, k=k, labels=range(9))
    assert metrics.hits(logits, labels, k).mean() == pytest.approx(100 * expected)


def test_of_equal_logits_the_first_counts_and_nan_is_no_hit():
    logits = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    assert metrics.hits(logits, np.array([0, 1])).tolist() == [100, 0]
    with pytest.raises(ValueError, match=r"^the logits of item 1 are not finite$"):
        metrics.hits(np.array([[1.0, 0.0], [np.nan, 0.0]]), np.array([0, 0]))


class Oracle(nn.Module):
    """Reads the label that the test hides in the first pixel; knows none above 4."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.modes = []

    def forward(self, pixel_values):
        self.modes.append((self.training, torch.is_grad_enabled()))
        label = ((pixel_values[:, 0, 0, 0] + 1) * 10).round().long()
        return SimpleNamespace(logits=10 * nn.functional.one_hot(torch.where(label > 4, 0, label), 10).float())


def test_evaluate_is_per_item_in_order_in_eval_mode():
    labels = torch.arange(10).repeat(3)
    images = (labels / 20).view(-1, 1, 1).expand(-1, 4, 4)  # ink stays where a 4 x 4 image is not resized
    model = Oracle().train()
    found = quality.evaluate(model, "vit-tiny", digits.Images(images, labels, 4), batch=7)
    assert found["top1"].items.tolist() == [100, 100, 100, 100, 100, 0, 0, 0, 0, 0] * 3
    assert (found["top1"].value, found["top1"].unit, found["top1"].better) == (50, "points", "higher")
    assert found["f1"].value == pytest.approx(100 * (4 * 1 + 2 * 3 / (3 + 18)) / 10)
    assert set(model.modes) == {(False, False)}
    assert model.training
    assert len(quality.evaluate(model, "vit-tiny", digits.Images(images, labels, 4), limit=5)["top5"].items) == 5


def test_evaluate_takes_a_model_in_half_precision():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    model = models.create("vit-digits", dtype=torch.bfloat16)
    found = quality.evaluate(model, "vit-digits", limit=32)
    assert 0 <= found["top1"].value < 60  # not trained
    assert found["top1"].value <= found["top5"].value
