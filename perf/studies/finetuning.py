"""Measures fine-tuning of a ViT: the whole model, LoRA and QLoRA by the ViT study's settings, and the head alone.

    python -m perf.studies.finetuning --out f.jsonl          # a CPU: vit-digits, minutes; a GPU: vit-l16

There are no pre-trained weights here. A model that was trained on upright digits learns to read them upside down; all
ways have the same steps on the same items. Each is trained by the recipe of its kind, and nothing is tuned. The study
adapted ImageNet's weights to flowers by QLoRA, and showed neither LoRA nor the whole model beside it.
"""
from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

import models
from models import lora, quantization
from models.data import split
from models.data.digits import Images
from models.figures import Figure, compare
from models.quality import evaluate
from models.recipes import Recipe, recipe
from models.training import fit, train
from perf.studies.claims import Cell, spread, table
from perf.studies.measuring import Study
from perf.studies.options import parser
from perf.studies.rounds import Call, able, side_by_side

BASE, BEFORE, METHOD = "whole", "not fine-tuned", "bnb-nf4-dq"
TIMED = 5  # steps of one timed call


def upside_down(images: Images) -> Images:
    """Turns images by half a circle."""
    return replace(images, images_NHW=images.images_NHW.flip(1, 2))


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; each row is a record. 1 if a row could not be measured."""
    options = parser("finetuning", __doc__)
    options.add_argument("--steps", type=int, help="of fine-tuning (default: LoRA's recipe)")
    options.add_argument("--train-seconds", type=float, help="of the training before (default: the recipe's steps)")
    options.add_argument("--seconds", type=float, default=20.0, help="of the rounds (default: 20)")
    args = options.parse_args(arguments)
    study, gpu = Study(args.device, args.out, 60 * args.minutes), args.device.type == "cuda"
    preset = models.get("vit-tiny" if args.tiny else "vit-l16" if gpu else "vit-digits")
    half = torch.bfloat16 if gpu else torch.float32
    upright, turned = split(preset), [upside_down(images) for images in split(preset)]
    steps = 4 if args.tiny else args.steps or lora.RECIPE.steps
    whole, adapters = replace(recipe(preset), steps=steps, batch=lora.RECIPE.batch), replace(lora.RECIPE, steps=steps)
    start = train(preset, data=upright[0], device=study.device, dtype=half, seconds=args.train_seconds,
                  how=replace(recipe(preset), steps=4) if args.tiny else None)

    def frozen() -> Any:
        model = copy.deepcopy(start).to(half).requires_grad_(False)
        model.classifier.requires_grad_(True)
        return model

    def quantised() -> Any:
        return quantization.quantize(copy.deepcopy(start).to(half), METHOD, dtype=half)

    def adapted(model: Any, how: Recipe) -> Any:
        return lora.finetune(model, preset, turned[0], how=how)

    def plain(model: Any, how: Recipe) -> Any:
        return fit(model, preset, turned[0], how, dtype=half)

    def head(model: Any, how: Recipe) -> Any:
        model.classifier.float()  # as LoRA trains it
        return plain(model, how).to(half)

    ways: dict[str, tuple[Callable[[], Any], Callable[[Any, Recipe], Any], Recipe]] = {
        BASE: (lambda: copy.deepcopy(start), plain, whole),
        "LoRA": (lambda: lora.add(copy.deepcopy(start).to(half), preset), adapted, adapters),
        f"QLoRA, {METHOD}": (lambda: lora.add(quantised(), preset), adapted, adapters),
        "head alone": (frozen, head, adapters)}
    figures: dict[str, Figure] = {}
    rows: dict[str, dict[str, Cell]] = {}
    calls: dict[str, Call] = {}
    for name, (make, tune, how) in ways.items():
        with study.part(name):
            study.in_time()
            model = make()
            trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
            size = quantization.model_bytes(model)
            tune(model, how)
            figures[name] = evaluate(model, preset, turned[1])["top1"]
            change = compare(figures[BASE], figures[name])
            rows[name] = {"fine-tuned": name, "trained weights": trained, "model MB": size / 1e6,
                          "Top-1": change.new, "change": None if name == BASE else spread(change)}
            study.write("fine-tuning", {**rows[name], "preset": preset.name, "steps": steps, "batch": how.batch})
            print(f"  {name}: {change}", flush=True)
            calls[name] = functools.partial(tune, model, replace(how, steps=TIMED))
    before = evaluate(start, preset, turned[1])["top1"].value
    study.write(BEFORE, {"Top-1": before, "upright": evaluate(start, preset, upright[1])["top1"].value})
    calls = able(study, calls, f"{TIMED} steps")
    for name, cost in side_by_side(study, calls, 0.1 if args.tiny else args.seconds).items():
        study.write("time of fine-tuning", {"fine-tuned": name, "steps": TIMED, **cost})
        rows[name] |= {"ms a step": cost["ms"] / TIMED, "time's change": cost["time's change"],
                       "peak MB": cost["peak MB"]}
    print(table(f"{preset.name}, {steps} steps of {whole.batch}: digits upside down, {len(turned[1])} held out; peak "
                "over the weights, the optimizer's state in it", [*rows.values(), {"fine-tuned": BEFORE,
                                                                                   "Top-1": before}]))
    print(*[f"NOT MEASURED {part}" for part in study.failures], f"records: {study.out}", sep="\n")
    return 1 if study.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
