"""Measures quantisation and FlashAttention-2 in a ViT again, as a study published them.

    python -m perf.studies.vit --out 002.jsonl                           # ViT-L/16 on a GPU; on a CPU a small ViT
    python -m perf.studies.vit --out 002.jsonl --batch 1 --folds 2 --fold-seconds 100 --part times --part quality
    python -m perf.studies.vit --out tiny.jsonl --tiny                   # the same code on tiny models

Published figures: the README of the study (ViT-L/16, Flowers-102). What it got wrong and what is done here instead:
docs/studies.md. There is no model hub, so the model is trained here, on digits, whole rather than by LoRA.
"""
from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator, Sequence
from typing import Any

import torch

import models
from models.folds import out_of_fold
from models.registry import Preset
from perf.studies import vit_quality
from perf.studies.claims import Claims
from perf.studies.measuring import Study
from perf.studies.options import parser
from perf.studies.vit_claims import claim_ablation, claim_gate, claim_quality, claim_times
from perf.studies.vit_quality import Folds
from perf.studies.vit_rows import Treatment, check, kept, rows, treated, variant
from perf.studies.vit_times import Speed, times

PARTS = ("times", "quality", "ablation")


def treat(study: Study, model: Any, preset: Preset, held_out: Any, chosen: Sequence[Treatment],
          skip: Sequence[str], reserve: float = 0.0) -> Iterator[tuple[Treatment, Any]]:
    """Yields each row with its model, `skip` unquantised, once it is checked; what can't be had is a line, and so is
    what would be begun with less than `reserve` seconds left."""
    images = held_out.batch(torch.arange(min(16, len(held_out))))[0]["pixel_values"].to(study.device)
    for row in chosen:
        with study.part(row.name):
            study.in_time(reserve)
            one = treated(model, row, preset, skip)
            errors = check(one, row, model, preset, images)
            study.write("row", {"row": row.name, "variant": variant(row, preset, study.device), **errors})
            yield row, one


def available(study: Study, preset: Preset, compiled: bool, names: Sequence[str] = ()) -> list[Treatment]:
    """Lists the rows of these `names` (all, if none) that this device can have; prints a line for each other."""
    chosen = []
    for row in (row for row in rows(compiled) if row.name in (names or [row.name])):
        try:
            name = variant(row, preset, study.device)
            chosen.append(row)
            print(f"  {row.name}: {name}", flush=True)
        except ValueError as error:
            study.write("skipped", {"row": row.name, "reason": str(error)})
            print(f"  {row.name} skipped: {error}", flush=True)
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints tables, then claims; 1 if a part could not be measured."""
    options = parser("vit", __doc__, PARTS)
    add = options.add_argument
    add("--model", help="preset (default: vit-l16 on a GPU, vit-digits on a CPU)")
    add("--batch", type=int, action="append", default=[], help="may be repeated (default: 1 and 32; 1 and 16 on a CPU)")
    add("--keep", action="append", default=[], metavar="LAYER", help="that quantised rows keep, vit.layers.3 say")
    add("--seconds", type=float, help="of a table's rounds (default: 20)")
    add("--folds", type=int, default=2, help="models to train, each judged on what it has not seen (default: 2)")
    add("--images", type=int, help="of a fold that are judged, at most (default: all)")
    add("--fold-seconds", type=float, help="of training, each (default: 100 on a GPU, 90 on a CPU)")
    add("--compiled", action=argparse.BooleanOptionalAction, help="torch.compile torchao's rows (default: on a GPU)")
    add("--row", action="append", default=[], choices=[row.name for row in rows(True) + rows(False)], metavar="ROW",
        help="only this row, such as 'fp16 flash'; may be repeated")
    args = options.parse_args(arguments)
    device, study = args.device, Study(args.device, args.out, 60 * args.minutes)
    gpu = device.type == "cuda"
    preset = models.get(args.model or ("vit-tiny" if args.tiny else "vit-l16" if gpu else "vit-digits"))
    claims, folds = Claims(study), Folds()
    first: dict[Treatment, Speed] = {}  # by row, of the first batch
    parts = args.part or PARTS
    chosen = available(study, preset, gpu if args.compiled is None else args.compiled, args.row)
    comparable = "tiny models" if args.tiny else "" if gpu else f"{preset.name} on a CPU, not ViT-L/16 on a GPU"
    with study.part("training"):
        training = out_of_fold(preset, args.folds, device=device, dtype=torch.bfloat16 if gpu else torch.float32,
                               seconds=args.fold_seconds or (1 if args.tiny else 100 if gpu else 90))
        for number, (model, held_out) in enumerate(training):
            held_out = held_out.take(slice(args.images or (64 if args.tiny else None)))
            timed = not number and "times" in parts
            reserve = study.left / 2 if timed else 0.0  # for the times of those that are made, which come first
            made = treat(study, model, preset, held_out, chosen if timed or "quality" in parts else (), args.keep,
                         reserve)
            models_by_row = dict(made) if timed else {}
            for batch in (args.batch or (1, 32 if gpu else 16)) if timed else ():
                images = held_out.batch(torch.arange(batch) % len(held_out))[0]["pixel_values"].to(device)
                speeds = times(study, models_by_row, images, args.seconds or (0.5 if args.tiny else 20.0))
                if batch == (args.batch or (1,))[0]:
                    first = speeds
                    claim_times(claims, speeds, comparable)
            if not args.tiny and {*parts} != {"times"}:
                vit_quality.require_learnt(model, preset, held_out)
            for row, one in (models_by_row.items() if timed else made) if "quality" in parts else ():
                with study.part(f"quality of {row.name}"):
                    study.in_time()
                    folds.rows[row].append(vit_quality.judged(study, one, preset, held_out, row=row.name))
            models_by_row.clear()
            if "ablation" in parts:
                vit_quality.add_ablation(study, folds, model, preset, held_out)
            del model
            gc.collect()
            if {*parts} == {"times"}:
                break  # they are of one model
            if number + 1 < args.folds:
                study.in_time()
    changes = vit_quality.changes(study, folds)
    claim_quality(claims, changes, comparable)
    claim_gate(claims, first, changes)
    if "ablation" in parts:
        ablations = vit_quality.ablation(study, folds, [name for name, _ in kept(preset)])
        claim_ablation(claims, ablations)
    return claims.end()


if __name__ == "__main__":
    raise SystemExit(main())
