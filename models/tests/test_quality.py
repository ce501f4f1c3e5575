"""Scores against the libraries and hand-worked values; `evaluate` on models whose answers are known."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import models
from models import data, gpt2, metrics, quality
from models.data import digits, docstrings

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
    figures = quality.evaluate(model, "vit-tiny", digits.Images(images, labels, 4), batch=7)
    assert figures["top1"].items.tolist() == [100, 100, 100, 100, 100, 0, 0, 0, 0, 0] * 3
    assert (figures["top1"].value, figures["top1"].unit, figures["top1"].better) == (50, "points", "higher")
    assert figures["f1"].value == pytest.approx(100 * (4 * 1 + 2 * 3 / (3 + 18)) / 10)
    assert set(model.modes) == {(False, False)}
    assert model.training
    assert len(quality.evaluate(model, "vit-tiny", digits.Images(images, labels, 4), limit=5)["top5"].items) == 5


def test_evaluate_takes_a_model_in_half_precision():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    model = models.create("vit-digits", dtype=torch.bfloat16)
    figures = quality.evaluate(model, "vit-digits", limit=32)
    assert 0 <= figures["top1"].value < 60  # not trained
    assert figures["top1"].value <= figures["top5"].value


SENTENCES = (["the cat sat on the mats", "a dog barked", "", "reads running files"],
             ["the cat sits on the mat", "two dogs were barking loudly", "something", "read the file it runs"])


def test_rouge_is_rouge_scores_with_stemming():
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    names = ["rouge1", "rouge2", "rougeL"]
    figures = metrics.rouge(*SENTENCES)
    stemmed, plain = (scorer.RougeScorer(names, use_stemmer=stemming) for stemming in (True, False))
    for name in names:
        expected = [100 * stemmed.score(reference, text)[name].fmeasure
                    for text, reference in zip(*SENTENCES, strict=True)]
        assert figures[name].tolist() == pytest.approx(expected)
    assert figures["rouge1"][0] > 100 * plain.score(SENTENCES[1][0], SENTENCES[0][0])["rouge1"].fmeasure
    assert figures["rouge1"][1] == pytest.approx(100 * 2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5))  # dog, bark


def test_bleu_is_sacrebleus_sentence_bleu():
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    expected = [sacrebleu.sentence_bleu(text, [reference]).score for text, reference in zip(*SENTENCES, strict=True)]
    assert metrics.bleu(*SENTENCES).tolist() == pytest.approx(expected)
    assert metrics.bleu(["a b c d e"], ["a b c d e"])[0] == pytest.approx(100)


def test_beams_read_past_padding():
    preset = models.get("gpt2-docstrings")
    _, texts = data.split(preset)
    model = models.create(preset, attention="softmax:sdpa", initializer_range=0.3)
    items = torch.arange(4)
    together = quality.continuations(model, texts, items, max_new_tokens=4)
    alone = [quality.continuations(model, texts, item, max_new_tokens=4)[0] for item in items.split(1)]
    assert together == alone
    assert len(set(together)) > 1


def test_only_the_continuation_is_scored(monkeypatch):
    """A model that writes every reference behind its prompt is perfect; one that writes nothing gets nothing."""
    preset = models.get("gpt2-docstrings")
    _, texts = data.split(preset)
    model = models.create(preset)
    for right, score in ((True, 100), (False, 0)):
        numbers = iter(range(10))

        def generate(input_ids, numbers=numbers, right=right, **_):
            summaries = [texts.summaries[next(numbers)] if right else [] for _ in input_ids]
            rows = [[*summary, *[texts.end] * (docstrings.SUMMARY_TOKENS - len(summary))] for summary in summaries]
            return torch.cat([input_ids, torch.tensor(rows)], dim=1)

        monkeypatch.setattr(model, "generate", generate)
        figures = quality.evaluate(model, preset, limit=10, batch=5, generate=True)
        assert figures["rougeL"].value == pytest.approx(score)
        assert figures["rouge1"].items.tolist() == pytest.approx([score] * 10)


def test_the_loss_of_an_item_is_the_mean_of_its_tokens_whatever_it_is_batched_with():
    preset = models.get("gpt2-docstrings")
    _, texts = data.split(preset)
    model: Any = models.create(preset, attention="alibi:sdpa", initializer_range=0.3)
    figures = quality.evaluate(model, preset, limit=6, batch=4)
    assert set(figures) == {"loss", "perplexity"}
    for item in range(6):
        tokens = texts.batch(torch.tensor([item]))[0]
        with torch.no_grad():
            assert figures["loss"].items[item] == pytest.approx(gpt2.loss(model, tokens).item(), rel=1e-5)
    assert figures["perplexity"].value == pytest.approx(np.exp(figures["loss"].value))
