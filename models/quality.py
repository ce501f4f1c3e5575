"""Evaluates models on held-out data: the figures serve to compare a quantised model, item by item.

    base = evaluate(model, "vit-digits")
    change = compare(base["top1"], evaluate(quantised, "vit-digits")["top1"])
    print(change)              # top1 97.5 -> 97.2 points: -0.28 (-1.1 to +0.56, 360 items), inside the noise
    change.within(0.5)         # True, False, or None if these items can't tell
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from models import gpt2, metrics, tft
from models.data import docstrings, split
from models.figures import Change, Figure, compare, join
from models.registry import Preset, get

__all__ = ["Change", "Figure", "compare", "evaluate", "join", "seasonal_naive"]


# Settings of generation: beams and bigrams as in the study, fewer tokens than its 100, since a first line is shorter.
GENERATION = {"max_new_tokens": docstrings.SUMMARY_TOKENS, "num_beams": 5, "no_repeat_ngram_size": 2,
              "do_sample": False}


def evaluate(model: nn.Module, preset: str | Preset, data: Any = None, *, batch: int = 64,
             limit: int | None = None, **options: Any) -> dict[str, Figure]:
    """Computes the figures by name over `data`, by default the held-out part of the preset's embedded data.

    ViT has top1, top5 and f1. GPT-2 has loss and perplexity and, with `generate=True`, rouge1, rouge2, rougeL and bleu;
    `options` are those of `summaries`. TFT has quantile_loss, rmse, mase and smape. `limit` is a number of items, taken
    from the start. The model does not change.
    Raises ValueError for a family without figures, and for outputs that are not finite.
    """
    preset = get(preset)
    if preset.family not in FAMILIES:
        raise ValueError(f"{preset.name}: no quality figures for the family {preset.family}; "
                         f"families with some: {', '.join(FAMILIES)}")
    if data is None:
        _, data = split(preset)
    items = torch.arange(len(data) if limit is None else min(limit, len(data)))
    was_training = model.training
    try:
        with torch.no_grad():
            return FAMILIES[preset.family](model.eval(), data.to(_place(model)[0]), items.split(batch), **options)
    finally:
        model.train(was_training)


def images(model: nn.Module, data: Any, batches: Sequence[torch.Tensor]) -> dict[str, Figure]:
    """Computes the figures of an image classifier."""
    logits, labels, dtype = [], [], _place(model)[1]
    for items in batches:
        inputs, target = data.batch(items)
        logits.append(model(pixel_values=inputs["pixel_values"].to(dtype)).logits.float().cpu().numpy())
        labels.append(target.cpu().numpy())
    return classification(np.concatenate(logits), np.concatenate(labels))


def classification(logits_NC: np.ndarray, labels_N: np.ndarray) -> dict[str, Figure]:
    """Computes Top-1, Top-5 and weighted F1, in points, from any logits, for example those of all folds."""
    predictions = np.stack([labels_N, logits_NC.argmax(1)], axis=1)
    figures = [Figure("top1", "points", "higher", metrics.hits(logits_NC, labels_N)),
               Figure("top5", "points", "higher", metrics.hits(logits_NC, labels_N, 5)),
               Figure("f1", "points", "higher", predictions, "weighted-f1")]
    return {figure.name: figure for figure in figures}


def summaries(model: Any, data: Any, batches: Sequence[torch.Tensor], *, generate: bool = False,
              **generation: Any) -> dict[str, Figure]:
    """Computes the figures of a language model: the loss in nats, for each item the mean over its tokens, and
    perplexity.

    With `generate=True`, which takes far longer, it also gives ROUGE and BLEU of the summaries that the model writes
    behind the prompts. `generation` changes GENERATION.
    """
    losses = np.concatenate([_token_losses(model, data, items) for items in batches])
    figures = [Figure("loss", "nats", "lower", losses), Figure("perplexity", "", "lower", losses, "exp-mean")]
    if generate:
        texts = [text for items in batches for text in continuations(model, data, items, **generation)]
        references = [text for items in batches for text in data.references(items)]
        scores = {**metrics.rouge(texts, references), "bleu": metrics.bleu(texts, references)}
        figures += [Figure(name, "points", "higher", score) for name, score in scores.items()]
    return {figure.name: figure for figure in figures}


def _token_losses(model: Any, data: Any, items: torch.Tensor) -> np.ndarray:
    inputs, next_BN = data.batch(items)
    logits = gpt2.logits(model, inputs["input_ids"]).float()
    losses_BN = functional.cross_entropy(logits.transpose(1, 2), next_BN, reduction="none")
    return (losses_BN.sum(1) / (next_BN != docstrings.IGNORED).sum(1)).cpu().numpy()


def continuations(model: Any, data: Any, items: torch.Tensor, **generation: Any) -> list[str]:
    """Generates the texts that the model writes behind the prompts of these items, without the prompts."""
    prompts = data.prompt_batch(items)
    tokens = model.generate(**prompts, **{**GENERATION, **generation}, pad_token_id=data.end, eos_token_id=data.end)
    return data.decode(tokens[:, prompts["input_ids"].shape[1]:].tolist())


def forecasts(model: Any, data: Any, batches: Sequence[torch.Tensor]) -> dict[str, Figure]:
    """Computes the figures of a TFT. Quantiles are sorted first, so they never cross.

    MASE and sMAPE are in each series' own unit. The quantile loss and RMSE are of scaled series, so that no series
    outweighs the others.
    """
    dtype, quantiles = _place(model)[1], model.quantiles
    middle = quantiles.index(0.5)
    parts = []
    for items in batches:
        inputs, target_BN = data.batch(items)
        inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
        forecast_BNQ = tft.forecast(model, inputs).float()
        parts.append((*_scores(data, items, forecast_BNQ[..., middle], target_BN),
                      metrics.pinball(_numpy(forecast_BNQ), _numpy(target_BN), quantiles)))
    squared, mase, smape, pinball = (np.concatenate(scores) for scores in zip(*parts, strict=True))
    return {"quantile_loss": Figure("quantile_loss", "", "lower", pinball), **_point_figures(squared, mase, smape)}


def seasonal_naive(data: Any) -> dict[str, Figure]:
    """Computes RMSE, MASE and sMAPE on all of `data` for the forecast that repeats the last season, as a baseline."""
    items = torch.arange(len(data))
    return _point_figures(*_scores(data, items, data.seasonal_naive(items), data.batch(items)[1]))


def _scores(data: Any, items: torch.Tensor, forecast_BN: torch.Tensor,
            target_BN: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    forecast, target = (_numpy(data.unscaled(items, x)) for x in (forecast_BN, target_BN))
    return (metrics.squared_error(_numpy(forecast_BN), _numpy(target_BN)),
            metrics.mase(forecast, target, _numpy(data.naive_error(items))), metrics.smape(forecast, target))


def _point_figures(squared: np.ndarray, mase: np.ndarray, smape: np.ndarray) -> dict[str, Figure]:
    return {"rmse": Figure("rmse", "", "lower", squared, "root-mean"), "mase": Figure("mase", "", "lower", mase),
            "smape": Figure("smape", "%", "lower", smape)}


def _numpy(x: torch.Tensor) -> np.ndarray:
    return x.double().cpu().numpy()


def _place(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Gives the device and dtype of a model's inputs; in a quantised model those of an unquantised weight."""
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    return weights[0].device, weights[0].dtype


FAMILIES: dict[str, Callable[..., dict[str, Figure]]] = {"vit": images, "gpt2": summaries, "tft": forecasts,
                                                    "forecasting": forecasts}
