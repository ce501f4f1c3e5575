"""Measures the quality columns of the ViT study, and its ablation: out of fold over all digits, each change with its
interval.

Changes are paired, item by item. An interval of the ablation is wider than 95 % alone would make it: all of a method's
hold at once with 95 % (Bonferroni), since of 24 layers kept in turn one is the best whether or not any matters.
"""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from models.figures import CONFIDENCE
from models.quality import Change, Figure, compare, evaluate, join
from models.registry import Preset
from perf.studies.claims import Cell, spread, table
from perf.studies.measuring import Study
from perf.studies.vit_rows import BASE, Treatment, kept, treated

RESAMPLES = 20_000  # that the ends of a narrow tail are known
ABLATED = ("bnb-int8", "bnb-nf4-dq")
Figures = Mapping[str, Figure]


@dataclass
class Folds:
    """Holds the figures of each row, and of each kept set of layers, fold by fold."""

    rows: dict[Treatment, list[Figures]] = field(default_factory=lambda: defaultdict(list))
    ablation: dict[tuple[str, str], list[Figures]] = field(default_factory=lambda: defaultdict(list))

    def of(self, by_key: Mapping[Any, list[Figures]], key: Any) -> dict[str, Figure] | None:
        """Joins the folds of a figure; None where one lacks it."""
        most = max(map(len, by_key.values()), default=0)
        return join(by_key[key]) if key in by_key and len(by_key[key]) == most else None


def add_ablation(study: Study, folds: Folds, model: Any, preset: Preset, held_out: Any) -> None:
    """Adds one fold's ablation: everything quantised, then some layers kept."""
    for method in ABLATED:
        for name, skip in kept(preset):
            with study.part(f"{method}, {name} kept"):
                study.in_time()
                copy = treated(model, Treatment("fp16", method=method), preset, skip)
                figures = judged(study, copy, preset, held_out, method=method, kept=name)
                folds.ablation[method, name].append(figures)


def require_learnt(model: Any, preset: Preset, held_out: Any) -> None:
    """Raises ValueError for a model that does no better than the most frequent class: nothing is lost by what is done
    to it."""
    low, _ = evaluate(model, preset, held_out)["top1"].interval()
    if low <= (most := 100 * held_out.labels_N.bincount().max().item() / len(held_out)):
        raise ValueError(f"the model has learnt nothing, Top-1 from {low:.1f} %, the most frequent class {most:.1f}: "
                         "give --fold-seconds more")


def judged(study: Study, model: Any, preset: Preset, held_out: Any, **about: str) -> Figures:
    """Measures one fold's quality, and records which of its items are wrong, `about` what: a run that is cut keeps
    them."""
    figures = evaluate(model, preset, held_out)
    wrong = [item for item, points in enumerate(figures["top1"].items) if not points]
    study.write("fold", {**about, "items": len(held_out), "wrong": wrong})
    return figures


def changes(study: Study, folds: Folds) -> dict[Treatment, Change]:
    """Prints the table of quality; gives the change of Top-1 from fp32 of each row."""
    by_row: dict[Treatment, Change] = {}
    lines: list[dict[str, Cell]] = []
    base = folds.of(folds.rows, BASE)
    for row in list(folds.rows):
        figures = folds.of(folds.rows, row)
        if figures is None:
            continue
        low, high = figures["top1"].interval()
        cells: dict[str, Cell] = {"row": row.name, **{name: figure.value for name, figure in figures.items()},
                                  "top1's interval": f"{low:.2f} to {high:.2f}"}
        if base and row != BASE:
            by_row[row] = compare(base["top1"], figures["top1"])
            cells["top1's change"] = spread(by_row[row])
            study.write("quality", {"row": row.name, **asdict(by_row[row])})
        lines.append(cells)
    items = len(base["top1"].items) if base else 0
    print(table(f"quality: {items} images, each by a model that has not seen it; points, 95 %", lines), flush=True)
    return by_row


def ablation(study: Study, folds: Folds, names: Sequence[str]) -> dict[str, list[tuple[str, Change]]]:
    """Measures, by method, how Top-1 changes from everything quantised when some layers are kept."""
    by_method: dict[str, list[tuple[str, Change]]] = {}
    for method in ABLATED:
        base, lines = folds.of(folds.ablation, (method, "none")), []
        by_method[method] = []
        for name in names:
            figures = folds.of(folds.ablation, (method, name))
            if base is None or figures is None:
                continue
            confidence = 1 - (1 - CONFIDENCE) / max(1, len(names) - 1)
            change = compare(base["top1"], figures["top1"], confidence, RESAMPLES)
            if name != "none":
                by_method[method].append((name, change))
            study.write("ablation", {"method": method, "kept": name, **asdict(change)})
            cells: dict[str, Cell] = {"kept in fp16": name, "top1": change.new}
            lines.append(cells | ({} if name == "none" else {"change": spread(change), "": change.verdict}))
        print(table(f"{method}, all layers of the encoder but those kept; change from none kept, all intervals at once "
                    "95 %", lines), flush=True)
    return by_method
