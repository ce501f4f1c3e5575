"""Measures FlashAttention, ALiBi and a window in GPT-2 again, as a study of summaries published them.

    python -m perf.studies.summarisation --out 001.jsonl                 # DistilGPT-2; on a CPU a few minutes
    python -m perf.studies.summarisation --out 001.jsonl --batch 1 --batch 8 --train-batch 16 --accumulate 2
    python -m perf.studies.summarisation --out tiny.jsonl --tiny         # the same code on tiny models

Four parts: inference (001a), generation of whole answers, quality of summaries (001a), training (001b). Published
figures: the README of github.com/Nikb033/Reducing-Inference-Time-in-GPT-Models (DistilGPT-2, an A100). What it got
wrong and what is done here instead: docs/studies.md.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

import attention
import models
from models.recipes import Recipe
from perf.studies.claims import Claims
from perf.studies.measuring import Study
from perf.studies.options import parser
from perf.studies.ratio import change
from perf.studies.summarisation_quality import COPIED, TRAINED, Outcome, Task, quality
from perf.studies.summarisation_times import STANDARD, Comparison, Sizes, build_all, generation, inference, training

PARTS = ("inference", "generation", "quality", "training")
# ms of a forward pass, peak MB, ROUGE-1, by row.
PUBLISHED = {"standard": (96.22, 9465.81, 0.1806), "flash": (73.42, 8867.81, 0.1608),
             "ALiBi": (87.08, 8865.81, 0.1975), "window 64": (86.86, 8877.81, 0.1943)}
TRAINING = {16: -2.62, 32: -1.39, 64: -3.22, 128: -5.07}  # percent by which flash changes a step's time, by batch


def claim_times(claims: Claims, comparisons: Sequence[Comparison], apart: str) -> None:
    """Claims the time of a prompt's reading and its memory at the first batch; `apart` says why they can't be
    compared, or is empty."""
    for one in comparisons:
        if one.phase == "prefill" and one.batch == comparisons[0].batch and one.row in PUBLISHED:
            (old, new), (large, small) = zip(PUBLISHED[STANDARD][:2], PUBLISHED[one.row][:2], strict=True)
            claims.add(f"{one.row}: time of a forward pass", change(old, new), str(one.time),
                       one.time.at_most(new / old), apart=apart)
            claims.add(f"{one.row}: peak memory", f"{change(large, small)} with whatever else was resident",
                       f"{change(1, one.memory)} of what a prefill takes over the weights",
                       one.memory <= small / large, apart=apart)


def claim_training(claims: Claims, comparisons: Sequence[Comparison], apart: str) -> None:
    """Claims the time of a training step with flash, by batch, alike."""
    flash = {one.batch: one.time for one in comparisons if one.row == "flash"}
    for batch, published in TRAINING.items():
        if batch in flash:
            claims.add(f"flash: time of a training step of {batch}", f"{published} %", str(flash[batch]),
                       flash[batch].at_most(1 + published / 100), apart=apart)
    if missing := [batch for batch in TRAINING if batch not in flash]:
        measured = ", ".join(f"{time} at batch {batch}" for batch, time in flash.items()) or "nothing"
        claims.add(f"flash: time of a training step of {', '.join(map(str, missing))}",
                   ", ".join(f"{TRAINING[batch]} %" for batch in missing), measured, None, apart="other batches")


def claim_quality(claims: Claims, written: Sequence[Outcome], tiny: bool) -> None:
    """Claims each published change of ROUGE-1 as a part of the standard attention's: points of one model say nothing
    about another's. It holds if the interval here is all on its side of 0, and fails if it lies outside of that."""
    for one in written:
        if one.row in PUBLISHED and one.row != STANDARD and one.weights == (COPIED if one.row == "flash" else TRAINED):
            rouge, base = one.changes["rouge1"], PUBLISHED[STANDARD][2]
            published = PUBLISHED[one.row][2] / base - 1
            low, high = (end / rouge.base if rouge.base else 0.0 for end in (rouge.low, rouge.high))
            word = "better" if published > 0 else "worse"
            shown = True if rouge.verdict == word else None if low <= published <= high else False
            claims.add(f"{one.row}, {one.weights}: ROUGE-1 {word} than standard's", f"{100 * published:+.1f} %",
                       f"{100 * low:+.1f} to {100 * high:+.1f} % ({rouge.items} items, {rouge.verdict})", shown,
                       "a small model on other texts", apart="tiny models" if tiny else "")


def sizes(args: argparse.Namespace) -> Sizes:
    """Gives the study's sizes on a GPU, few texts of few tokens on a CPU; what was given replaces them."""
    gpu, tiny = args.device.type == "cuda", args.tiny
    prompt = args.prompt or (16 if tiny else 256)
    usual: tuple[int, ...] = (1,) if tiny else (1, 8, 32, 128) if gpu else (1, 4)
    trained: tuple[int, ...] = (2,) if tiny else (16, 32, 64, 128) if gpu else (1, 4)
    return Sizes(models.get("gpt2-tiny" if tiny else "distilgpt2"), dtype(args), prompt,
                 tuple(args.batch) or usual, args.text or (prompt if gpu or tiny else 64),
                 tuple(args.train_batch) or trained, args.accumulate, args.seconds or (0.2 if tiny else 15.0))


def dtype(args: argparse.Namespace) -> torch.dtype:
    """Chooses the dtype of all rows."""
    return attention.DTYPES[args.dtype or ("bf16" if args.device.type == "cuda" else "fp32")]


def task(args: argparse.Namespace) -> Task:
    """Chooses the preset and the texts that it sums up."""
    preset = models.get("gpt2-docstrings")
    if args.tiny:
        return Task(preset.resized(layers=1), dtype(args), 4, Recipe(steps=2, batch=4, learning_rate=1e-3))
    return Task(preset, dtype(args), args.texts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints tables, then claims; 1 if a part could not be measured."""
    options = parser("summarisation", __doc__, PARTS)
    add = options.add_argument
    add("--dtype", choices=("fp32", "bf16", "fp16"), help="of all rows (default: bf16 on a GPU, else fp32)")
    add("--batch", type=int, action="append", default=[], help="of prompts; may be repeated")
    add("--train-batch", type=int, action="append", default=[], help="of a training step; may be repeated")
    add("--accumulate", type=int, default=1, help="parts in which a training batch is gone through (default: 1)")
    add("--prompt", type=int, help="tokens (default: 256)")
    add("--text", type=int, help="tokens of a training text (default: the prompt's; 64 on a CPU)")
    add("--texts", type=int, default=1000, help="held-out texts to sum up, at most (default: all)")
    add("--seconds", type=float, help="of a table's rounds (default: 15)")
    args = options.parse_args(arguments)
    study, parts = Study(args.device, args.out, 60 * args.minutes), args.part or PARTS
    claims, s = Claims(study), sizes(args)
    comparable = "tiny models" if args.tiny else "" if args.device.type == "cuda" else "a CPU's kernels, not a GPU's"
    if {"inference", "generation", "training"} & set(parts):
        built = build_all(study, s)
        if "inference" in parts:
            claim_times(claims, inference(study, s, built), comparable)
        if "generation" in parts:
            generation(study, s, built)
        if "training" in parts:
            claim_training(claims, training(study, s, built), comparable)
        del built
    if "quality" in parts:
        claim_quality(claims, quality(study, task(args)), args.tiny)
    return claims.end()


if __name__ == "__main__":
    raise SystemExit(main())
