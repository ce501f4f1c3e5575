"""Trains a small GPT-2 with each of study 003's attentions, and swaps another into the softmax one's weights."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

import models
from models import gpt2
from models.data import docstrings, split
from models.figures import Figure, compare
from models.quality import evaluate
from models.recipes import recipe
from models.registry import Preset
from models.training import fit
from models.transformers_attention import key_mask
from perf.studies.claims import Cell, in_percent, spread, table
from perf.studies.low_rank_rows import Candidate, Size
from perf.studies.measuring import Study

OWN = "own-core"
TRAINED, SWAPPED = "trained", "swapped in"
AGAIN = "softmax, another seed"  # how far two trainings of the same thing are apart


@dataclass(frozen=True)
class Read:
    """Holds a model's reading of held-out text: its perplexity, and the points of next tokens that it thinks
    likeliest."""

    perplexity: Figure
    accuracy: Figure


def create(preset: str | Preset, row: Candidate, device: torch.device, seed: int = 0) -> nn.Module:
    """Builds the preset with an attention of its own in every layer: what it learns is the layer's, for which
    transformers' attention functions have no place. All other weights are the same for every row.

    Raises ValueError, in one line, for a variant that can't serve it.
    """
    preset = models.get(preset)
    length = preset.sizes["positions"]
    if reason := row.why_not(preset.heads, preset.head_dim, length, device=device, grad=True, causal=True):
        raise ValueError(reason)
    model: Any = models.create(preset, attention="softmax:sdpa", device=device, seed=seed)
    for block in model.transformer.h:
        block.attn.core = row.create(preset.heads, preset.head_dim, length, device=device, causal=True)
    AttentionInterface.register(OWN, _attend)
    AttentionMaskInterface.register(OWN, key_mask)
    model.set_attn_implementation(OWN)
    return model


def _attend(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
            attention_mask: torch.Tensor | None, **unused: Any) -> tuple[torch.Tensor, None]:
    """Calls the layer's own attention, scaled by 1/sqrt(head_dim), as GPT-2 is; its dropout of weights is 0 here."""
    return module.core(query, key, value, attention_mask).transpose(1, 2).contiguous(), None


def train(model: nn.Module, preset: str | Preset, steps: int, seconds: float, seed: int = 0) -> int:
    """Trains in place, by the preset's recipe but for its `steps`; returns how many were done before the seconds were
    over."""
    preset = models.get(preset)
    steps_so_far = [0]
    fit(model, preset, split(preset)[0], replace(recipe(preset), steps=steps), seed=seed, seconds=seconds,
        progress=lambda step, *_: steps_so_far.append(step))
    return steps_so_far[-1]


def read(model: nn.Module, preset: str | Preset, limit: int | None = None) -> Read:
    """Reads the first `limit` (all) held-out texts."""
    perplexity = evaluate(model, preset, limit=limit)["perplexity"]
    _, held_out = split(preset)
    items = torch.arange(len(held_out) if limit is None else min(limit, len(held_out)))
    right, counted = [], 0
    with torch.no_grad():
        for some in items.split(64):
            inputs, following = held_out.to(next(model.parameters()).device).batch(some)
            real = following != docstrings.IGNORED
            hits = gpt2.logits(model, inputs["input_ids"]).argmax(-1) == following  # type: ignore[arg-type]
            right += (hits & real).sum(-1).tolist()
            counted += int(real.sum())
    points = 100 * len(right) / counted * np.array(right)  # whose mean is the share of all tokens
    return Read(perplexity, Figure("next tokens", "points", "higher", points))


def swapped(trained: nn.Module, preset: str | Preset, row: Candidate, device: torch.device) -> nn.Module:
    """Puts another attention under the weights of a trained model: no retraining. Its own parameters are as they
    start."""
    model = create(preset, row, device)
    own = {name: weight for name, weight in trained.state_dict().items() if ".core." not in name}
    missing = model.load_state_dict(own, strict=False).missing_keys
    assert all(".core." in name for name in missing), missing
    return model.eval()


class Text:
    """Measures the perplexity of the small GPT-2; `figures` are by (row's name, "trained" or "swapped in")."""

    def __init__(self, study: Study, size: Size, limit: float) -> None:
        self.study, self.size, self.limit = study, size, limit
        self.figures: dict[tuple[str, str], Read] = {}
        self.parameters: dict[str, int] = {}

    def measure(self, chosen: Sequence[Candidate]) -> None:
        """Measures each row trained from the same seed, and in place of softmax attention under its trained weights."""
        preset, device = self.size.preset, self.study.device
        lines: list[dict[str, Cell]] = []
        absent: list[str] = []
        base: torch.nn.Module | None = None
        for row in chosen:
            with self.study.part(f"text, {row.name}"):
                self.study.in_time()
                try:
                    model = create(preset, row, device)
                except ValueError as reason:
                    self.study.write("skipped", {"part": f"text, {row.name}", "reason": str(reason)})
                    absent.append(f"{row.name}: n/a, {reason}")
                    continue
                self.parameters[row.name] = sum(p.numel() for p in model.parameters())
                cells: dict[str, Cell] = {"attention": row.name, "parameters": self.parameters[row.name]}
                if base is not None:
                    cells |= self._keep(row, SWAPPED, swapped(base, preset, row, device), 0)
                if row.trains:
                    cells |= self._keep(row, TRAINED, model, self._train(model))
                base = model if base is None else base
                lines.append(cells)
        with self.study.part(AGAIN):
            self.study.in_time()
            model = create(preset, chosen[0], device, seed=1)
            again = replace(chosen[0], name=AGAIN)
            self.parameters[AGAIN] = self.parameters[chosen[0].name]
            lines.append({"attention": AGAIN, **self._keep(again, TRAINED, model, self._train(model, seed=1))})
        print(table(f"{preset}, {self.size.steps} steps of training", lines), *absent, sep="\n", flush=True)

    def _train(self, model: torch.nn.Module, seed: int = 0) -> int:
        return train(model, self.size.preset, self.size.steps, 10 * self.limit, seed)

    def _keep(self, row: Candidate, how: str, model: torch.nn.Module, steps: int) -> dict[str, Cell]:
        figures = self.figures[row.name, how] = read(model, self.size.preset, self.size.texts)
        base = self.figures[next(iter(self.figures))]
        changes = {name: compare(old, new) for name, old, new in (
            ("perplexity", base.perplexity, figures.perplexity), ("accuracy", base.accuracy, figures.accuracy))}
        self.study.write("text", {"row": row.name, "variant": row.variant, "how": how, "steps": steps,
                                  **{name: asdict(change) for name, change in changes.items()},
                                  "interval": figures.perplexity.interval(), "parameters": self.parameters[row.name]})
        print(f"  {row.name}, {how}: {in_percent(changes['perplexity'])}", flush=True)
        return {f"perplexity, {how}": f"{figures.perplexity.value:.2f}",
                f"change %, {how}": spread(in_percent(changes["perplexity"])),
                f"right %, {how}": f"{figures.accuracy.value:.2f}"}
