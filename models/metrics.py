"""Scores of single items, as plain functions of predictions and truths; inputs and outputs are numpy arrays."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.packages import needs


def hits(logits_NC: np.ndarray, labels_N: np.ndarray, k: int = 1) -> np.ndarray:
    """Gives 100 if the label is among the k classes with the highest logits, else 0; (N,).

    Of equal logits the lower class comes first, as with argmax. Raises ValueError for logits that are not finite.
    """
    if not (finite := np.isfinite(logits_NC).all(1)).all():
        raise ValueError(f"the logits of item {int(finite.argmin())} are not finite")
    logit = np.take_along_axis(logits_NC, labels_N[:, None], axis=1)
    lower = np.arange(logits_NC.shape[1]) < labels_N[:, None]
    before = (logits_NC > logit) | ((logits_NC == logit) & lower)
    return np.where(before.sum(1) < k, 100.0, 0.0)


def rouge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """Computes F1 of ROUGE-1, ROUGE-2 and ROUGE-L with Porter stemming, 0 to 100, by rouge-score (Lin, ACL 2004)."""
    with needs("rouge-score", "for ROUGE"):
        from rouge_score.rouge_scorer import RougeScorer
    names = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(names, use_stemmer=True)
    scores = [scorer.score(reference, prediction)
              for prediction, reference in zip(predictions, references, strict=True)]
    return {name: np.array([100 * score[name].fmeasure for score in scores]) for name in names}


def bleu(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Computes sentence BLEU, 0 to 100, by sacrebleu with exponential smoothing (Post, arXiv 1804.08771)."""
    with needs("sacrebleu", "for BLEU"):
        from sacrebleu.metrics.bleu import BLEU
    scorer = BLEU(effective_order=True)
    return np.array([scorer.sentence_score(prediction, [reference]).score
                     for prediction, reference in zip(predictions, references, strict=True)])


def pinball(forecast_BNQ: np.ndarray, target_BN: np.ndarray, quantiles: Sequence[float]) -> np.ndarray:
    """Computes the quantile loss of each item, a mean over steps and quantiles (arXiv 1912.09363, equation 24)."""
    error = target_BN[..., None] - forecast_BNQ
    q = np.asarray(quantiles)
    return np.maximum(q * error, (q - 1) * error).mean((-2, -1))


def squared_error(forecast_BN: np.ndarray, target_BN: np.ndarray) -> np.ndarray:
    """Computes the mean squared error over the steps of each item."""
    return ((forecast_BN - target_BN) ** 2).mean(-1)


def seasonal_scale(series_T: np.ndarray, season: int) -> float:
    """Computes the mean absolute error of the seasonal naive forecast within a series, by which MASE divides.

    Raises ValueError for a series of one season or less.
    """
    if len(series_T) <= season:
        raise ValueError(f"a series of {len(series_T)} steps has no season of {season} to compare with")
    return float(np.abs(series_T[season:] - series_T[:-season]).mean())


def mase(forecast_BN: np.ndarray, target_BN: np.ndarray, scale_B: np.ndarray) -> np.ndarray:
    """Computes the mean absolute scaled error of each item (Hyndman and Koehler, 2006).

    `scale_B` is `seasonal_scale` of the training part of the item's series.
    """
    return np.abs(forecast_BN - target_BN).mean(-1) / scale_B


def smape(forecast_BN: np.ndarray, target_BN: np.ndarray) -> np.ndarray:
    """Computes the symmetric absolute percentage error of each item, 0 to 200; it is 0 if forecast and target are 0."""
    size = np.abs(forecast_BN) + np.abs(target_BN)
    error = 2 * np.abs(forecast_BN - target_BN)
    return 100 * np.divide(error, size, out=np.zeros_like(error), where=size > 0).mean(-1)
