"""FlashAttention, ALiBi and a window in GPT-2, as a study of summaries published them, measured again.

    python -m perf.studies.summarisation --out 001.jsonl                 # DistilGPT-2; on a CPU a few minutes
    python -m perf.studies.summarisation --out 001.jsonl --batch 1 --batch 8 --train-batch 16 --accumulate 2
    python -m perf.studies.summarisation --out tiny.jsonl --tiny         # the same code on tiny models

Three parts: inference (001a), quality of summaries (001a), training (001b). Published figures: the README of
github.com/Nikb033/Reducing-Inference-Time-in-GPT-Models (DistilGPT-2, an A100). What it got wrong and what is done
here instead: docs/studies.md.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import attention
import models
from models.recipes import Recipe
from perf.studies.claims import Claims
from perf.studies.measuring import Study
from perf.studies.summarisation_quality import COPIED, TRAINED, Reading, Written, quality
from perf.studies.summarisation_times import STANDARD, Saved, Sizes, build_all, inference, training

PARTS = ("inference", "quality", "training")
# ms of a forward pass, peak MB, ROUGE-1, by row.
PUBLISHED = {"standard": (96.22, 9465.81, 0.1806), "flash": (73.42, 8867.81, 0.1608),
             "ALiBi": (87.08, 8865.81, 0.1975), "window 64": (86.86, 8877.81, 0.1943)}
TRAINING = {16: 2.62, 32: 1.39, 64: 3.22, 128: 5.07}  # percent of a step that flash saves, by batch


def claim_times(claims: Claims, found: Sequence[Saved], comparable: str) -> None:
    """A prompt's reading and memory at the first batch. `comparable` is why not, or empty."""
    for saved in found:
        if saved.phase == "prefill" and saved.batch == found[0].batch and saved.row in PUBLISHED:
            (old, new), (large, small) = zip(PUBLISHED[STANDARD][:2], PUBLISHED[saved.row][:2], strict=True)
            time, memory = 100 * (1 - new / old), 100 * (1 - small / large)
            claims.add(f"{saved.row}: time of a forward pass saved", f"{time:.1f} %", str(saved.time),
                       None if comparable else saved.time.saved + 100 * saved.time.half >= time, comparable)
            claims.add(f"{saved.row}: peak memory saved", f"{memory:.1f} % with whatever else was resident",
                       f"{saved.memory:+.1f} % of what a prefill takes over the weights",
                       None if comparable else saved.memory >= memory, comparable)


def claim_training(claims: Claims, found: Sequence[Saved], comparable: str) -> None:
    """What flash saves of a training step, by batch."""
    flash = {saved.batch: saved for saved in found if saved.row == "flash"}
    for batch, published in TRAINING.items():
        if batch in flash:
            time = flash[batch].time
            claims.add(f"flash: time of a training step of {batch} saved", f"{published} %", str(time),
                       None if comparable else time.saved + 100 * time.half >= published, comparable)
    if missing := [batch for batch in TRAINING if batch not in flash]:
        measured = ", ".join(f"{saved.time} at batch {batch}" for batch, saved in flash.items()) or "nothing"
        claims.add(f"flash: time of a training step of {', '.join(map(str, missing))} saved",
                   ", ".join(f"{TRAINING[batch]} %" for batch in missing), measured, None, "other batches")


def claim_quality(claims: Claims, written: Sequence[Written], tiny: bool) -> None:
    """Each published change of ROUGE-1: it holds if the interval here is all on its side of 0, fails if it lies outside
    of that interval."""
    for one in written:
        if one.row in PUBLISHED and one.row != STANDARD and one.weights == (COPIED if one.row == "flash" else TRAINED):
            change = one.changes["rouge1"]
            published = 100 * (PUBLISHED[one.row][2] - PUBLISHED[STANDARD][2])
            word = "better" if published > 0 else "worse"
            outside = not change.low <= published <= change.high
            holds = None if tiny else True if change.verdict == word else False if outside else None
            told = "a small model on other texts" if holds is not None else "so few texts can't tell"
            claims.add(f"{one.row}, {one.weights}: ROUGE-1 {word} than standard's", f"{published:+.2f} points",
                       str(change), holds, "tiny models" if tiny else told)


def sizes(given: argparse.Namespace, device: torch.device) -> Sizes:
    """The study's on a GPU, few texts of few tokens on a CPU; what was given replaces them."""
    gpu, tiny = device.type == "cuda", given.tiny
    prompt = given.prompt or (16 if tiny else 256)
    usual: tuple[int, ...] = (1,) if tiny else (1, 8, 32, 128) if gpu else (1, 4)
    trained: tuple[int, ...] = (2,) if tiny else (16, 32, 64, 128) if gpu else (1, 4)
    return Sizes(models.get("gpt2-tiny" if tiny else "distilgpt2"), dtype(given, device), prompt,
                 tuple(given.batch) or usual, given.text or (prompt if gpu or tiny else 64),
                 tuple(given.train_batch) or trained, given.accumulate, given.seconds or (0.2 if tiny else 15.0))


def dtype(given: argparse.Namespace, device: torch.device) -> torch.dtype:
    return attention.DTYPES[given.dtype or ("bf16" if device.type == "cuda" else "fp32")]


def reading(given: argparse.Namespace, device: torch.device) -> Reading:
    preset = models.get("gpt2-docstrings")
    if given.tiny:
        return Reading(preset.resized(layers=1), dtype(given, device), 4, Recipe(steps=2, batch=4, learning_rate=1e-3))
    return Reading(preset, dtype(given, device), given.texts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Tables, then claims; 1 if a part could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m perf.studies.summarisation", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="file that records are appended to, JSON lines")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--dtype", choices=("fp32", "bf16", "fp16"), help="of all rows (default: bf16 on a GPU, else fp32)")
    add("--part", action="append", default=[], choices=PARTS, help="only this part; may be repeated")
    add("--batch", type=int, action="append", default=[], help="of prompts; may be repeated")
    add("--train-batch", type=int, action="append", default=[], help="of a training step; may be repeated")
    add("--accumulate", type=int, default=1, help="parts in which a training batch is gone through (default: 1)")
    add("--prompt", type=int, help="tokens (default: 256)")
    add("--text", type=int, help="tokens of a training text (default: the prompt's; 64 on a CPU)")
    add("--texts", type=int, default=1000, help="held-out texts to sum up, at most (default: all)")
    add("--seconds", type=float, help="of a table's rounds (default: 15)")
    add("--minutes", type=float, default=40.0, help="after which no part is begun (default: 40)")
    add("--tiny", action="store_true", help="tiny models: shows that it runs, and no claim")
    given = parser.parse_args(arguments)
    device, parts = torch.device(given.device), given.part or PARTS
    study = Study(device, given.out, 60 * given.minutes)
    claims, s = Claims(study), sizes(given, device)
    comparable = "tiny models" if given.tiny else "" if device.type == "cuda" else "a CPU's kernels, not a GPU's"
    if {"inference", "training"} & set(parts):
        built = build_all(study, s)
        if "inference" in parts:
            claim_times(claims, inference(study, s, built), comparable)
        if "training" in parts:
            claim_training(claims, training(study, s, built), comparable)
        del built
    if "quality" in parts:
        claim_quality(claims, quality(study, reading(given, device)), given.tiny)
    return claims.end()


if __name__ == "__main__":
    raise SystemExit(main())
