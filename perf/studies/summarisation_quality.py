"""Measures summaries by a small GPT-2 on each attention of the study: the same trained weights under all of them, and,
where the attention changes the function, weights trained with it too.

ROUGE and BLEU are of what is written behind the prompt; the study scored the prompt as output, and left ALiBi and the
window out while writing. Intervals are paired, over the same held-out texts.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

import attention
from models.quality import Change, Figure, compare, evaluate
from models.recipes import Recipe
from models.registry import Preset
from models.trained import trained
from models.training import report, train
from perf.studies.claims import Cell, spread, table
from perf.studies.gpt2_rows import ROWS, Scheme, build, copy_weights
from perf.studies.measuring import Study

FIGURES = ("rouge1", "rouge2", "rougeL", "bleu", "loss")
COPIED, TRAINED = "softmax's weights", "trained with it"


@dataclass(frozen=True)
class Outcome:
    """Holds a row, whose weights it has, and how its figures changed from the standard attention's."""

    row: str
    weights: str
    changes: dict[str, Change]


@dataclass(frozen=True)
class Task:
    """Names a preset that is trained on its data (by `how`, and not kept, if that is given), and how many held-out
    texts it sums up."""

    preset: Preset
    dtype: torch.dtype
    texts: int
    how: Recipe | None = None


def quality(study: Study, r: Task) -> list[Outcome]:
    """Prints the table, and gives the changes it is made of."""
    outcomes: list[Outcome] = []
    rows: list[dict[str, Cell]] = []
    base: dict[str, Figure] = {}
    for row, weights, model in _models(study, r):
        name = f"{row.name}, {weights}"
        with study.part(f"quality of {name}"):
            study.in_time()
            figures = evaluate(model(), r.preset, generate=True, limit=r.texts, batch=_batch(study, r, row))
            base = base or figures
            changes = {figure: compare(base[figure], figures[figure]) for figure in FIGURES}
            rows.append({"attention": row.name, "weights": weights, **{name: figures[name].value for name in FIGURES},
                         "ROUGE-1's change": spread(changes["rouge1"]), "loss's change": spread(changes["loss"])})
            study.write("summaries", {"row": row.name, "weights": weights,
                                      "changes": {name: asdict(change) for name, change in changes.items()}})
            outcomes.append(Outcome(row.name, weights, changes))
    count = next(iter(outcomes[0].changes.values())).items if outcomes else 0
    print(table(f"{r.preset.name}: summaries of {count} held-out texts, points; loss in nats; changes (95 %) from the "
                "first row", rows), flush=True)
    return outcomes


def _models(study: Study, r: Task) -> Iterator[tuple[Scheme, str, Any]]:
    """Gives each row, whose weights it has, and what makes the model."""
    base = None

    def copied(row: Scheme) -> Any:
        nonlocal base
        base = base or _trained(study, r, ROWS[0])
        model = build(r.preset, row, r.dtype, study.device)
        copy_weights(base, model)
        return model

    for row in ROWS:
        yield row, COPIED, lambda row=row: copied(row)
    for row in ROWS:
        if not row.same_function:
            yield row, TRAINED, lambda row=row: _trained(study, r, row)


def _trained(study: Study, r: Task, row: Scheme) -> Any:
    variant = row.variant(r.preset, r.dtype, study.device)
    if r.how:
        return train(r.preset, attention=variant, attention_options=row.options, device=study.device,
                     how=r.how).to(r.dtype)
    return trained(r.preset, attention=variant, attention_options=row.options, dtype=r.dtype, device=study.device,
                   progress=report)


def _batch(study: Study, r: Task, row: Scheme) -> int:
    """Gives one text at a time to a kernel that takes no padding."""
    padded = attention.why_not(row.variant(r.preset, r.dtype, study.device), device=study.device, dtype=r.dtype,
                               heads=r.preset.heads, head_dim=r.preset.head_dim, n=r.preset.sizes["positions"],
                               causal=True, key_mask=True, **row.options)
    return 1 if padded else 16
