"""Measures time and memory of GPT-2 on each attention of the study: reading a prompt, writing a token, a whole answer,
a step of training."""
from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from models import gpt2
from models.registry import Preset
from perf.measure.clocks import clock
from perf.measure.memory import peak_bytes
from perf.measure.sampling import median_interval, sample
from perf.studies.calls import confirm
from perf.studies.claims import Cell, table
from perf.studies.gpt2_rows import ROWS, build, copy_weights, error_ratio, workload
from perf.studies.measuring import PRECISION, Study
from perf.studies.ratio import Ratio
from perf.studies.rounds import Call, able, interleaved

STANDARD = ROWS[0].name
ANSWER = 32  # tokens of a generation
ON_THE_GPU = ("prefill", "decode")  # what is one graph, so that a GPU's own time can be told
Built = dict[str, tuple[Any, str]]  # model and variant by row


@dataclass(frozen=True)
class Sizes:
    """Says what is measured: a preset, tokens of its prompt and of a training text, batches of both; `seconds` of a
    group of rows in rounds."""

    preset: Preset
    dtype: torch.dtype
    prompt: int
    batches: tuple[int, ...]
    text: int
    train_batches: tuple[int, ...]
    accumulate: int = 1
    seconds: float = 20.0


@dataclass(frozen=True)
class Comparison:
    """Compares one row with the standard one at one batch: time by rounds, and the ratio of peak memory."""

    row: str
    batch: int
    phase: str
    time: Ratio
    memory: float


def build_all(study: Study, s: Sizes) -> Built:
    """Builds model and variant by row, each checked; what can't be had is a line."""
    models_by_row: Built = {}
    for row in ROWS:
        with study.part(row.name):
            study.in_time()
            variant = row.variant(s.preset, s.dtype, study.device)
            model = build(s.preset, row, s.dtype, study.device, variant)
            unused = copy_weights(next(iter(models_by_row.values()))[0], model) if models_by_row else []
            checked = error_ratio(model, s.preset, row, n=s.prompt)
            text = f"all but {', '.join(unused)}" if unused else "all"
            study.write("row", {"row": row.name, "variant": variant, "error_ratio": checked, "copied": text})
            print(f"  {row.name}: {variant}, weights copied: {text}; error {checked:.2f} of what is allowed",
                  flush=True)
            models_by_row[row.name] = model, variant
    return models_by_row


def inference(study: Study, s: Sizes, built: Built) -> list[Comparison]:
    """Measures study 001a: prefill, decode and peak memory of each row, the weights copied between them."""
    comparisons = []
    for batch in s.batches:
        with study.part(f"inference, batch {batch}"):
            study.in_time()
            prefill, decode = _prefills(study, s, built, batch), _decodes(study, s, built, batch)
            comparisons += _group(study, s, built, f"{s.preset.name}, prompt {s.prompt}, batch {batch}", batch,
                            {"prefill": prefill, "decode": decode})
    return comparisons


def generation(study: Study, s: Sizes, built: Built) -> None:
    """Measures a whole answer: the prompt read and `ANSWER` tokens written, the likeliest each time, with a cache."""
    for batch in s.batches:
        with study.part(f"generation, batch {batch}"):
            study.in_time()
            tokens = gpt2.inputs(s.preset, batch=batch, n=s.prompt, device=study.device)["input_ids"]
            answers = {name: functools.partial(_answer, model.eval(), tokens) for name, (model, _) in built.items()}
            _group(study, s, built, f"{s.preset.name}, prompt {s.prompt}, {ANSWER} tokens written, batch {batch}",
                   batch, {"generation": answers})


def _answer(model: Any, prompts_BN: torch.Tensor) -> torch.Tensor:
    return model.generate(prompts_BN, attention_mask=torch.ones_like(prompts_BN), max_new_tokens=ANSWER,
                          min_new_tokens=ANSWER, do_sample=False, pad_token_id=model.config.eos_token_id)


def training(study: Study, s: Sizes, built: Built) -> list[Comparison]:
    """Measures study 001b: a step, which is forward, loss and backward of a batch in `accumulate` parts, dropout live.
    The optimizer's part, the same whatever the attention, is left out."""
    comparisons = []
    for batch in s.train_batches:
        with study.part(f"training, batch {batch}"):
            study.in_time()
            tokens = gpt2.inputs(s.preset, batch=batch, n=s.text, device=study.device)["input_ids"]
            steps = {name: _step(model.train(), tokens, s.accumulate) for name, (model, _) in built.items()}
            comparisons += _group(study, s, built, f"training, {s.text} tokens, batch {batch}" +
                            f" in {s.accumulate} parts" * (s.accumulate > 1), batch, {"train-step": steps})
            for model, _ in built.values():
                model.zero_grad(set_to_none=True)
    return comparisons


def _prefills(study: Study, s: Sizes, built: Built, batch: int) -> dict[str, Call]:
    inputs = gpt2.inputs(s.preset, batch=batch, n=s.prompt, device=study.device)

    def reads(model: Any) -> Call:
        return torch.no_grad()(lambda: model.eval()(**inputs))

    return {name: reads(model) for name, (model, _) in built.items()}


def _decodes(study: Study, s: Sizes, built: Built, batch: int) -> dict[str, Call]:
    """Makes the calls that decode one token behind the prompt, from the cache of each row's own."""
    calls: dict[str, Call] = {}
    for name, (model, _) in built.items():
        with study.part(f"{name}, decode, batch {batch}"):
            state = gpt2.decode_inputs(model.eval(), s.preset, batch=batch, m=s.prompt)
            calls[name] = torch.no_grad()(functools.partial(gpt2.decode, model, state))
    return calls


def _step(model: Any, tokens: torch.Tensor, parts: int) -> Call:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        chunks = tokens.chunk(parts)
        for part in chunks:
            (gpt2.loss(model, {"input_ids": part}) / len(chunks)).backward()
        model.zero_grad(set_to_none=True)  # gradients are no part of the next step's peak

    return step


def _by_their_kernels(study: Study, s: Sizes, built: Built, calls: Mapping[str, Call], phase: str,
                      batch: int) -> dict[str, Call]:
    """Keeps the calls that ran once, each by the kernel of its row; an answer by the one that reads its prompt."""
    by_kernel: dict[str, Call] = {}
    for name, call in able(study, calls, f"{phase}, batch {batch}").items():
        with study.part(f"kernel of {name}, {phase}, batch {batch}"):
            n = s.text if phase == "train-step" else s.prompt
            checked = "prefill" if phase == "generation" else phase
            confirm(call, workload(s.preset, built[name][1], checked, batch, n, s.dtype), study.device)
            by_kernel[name] = call
    return by_kernel


def _group(study: Study, s: Sizes, built: Built, title: str, batch: int,
           phases: Mapping[str, Mapping[str, Call]]) -> list[Comparison]:
    """Measures all rows of one table: times in rounds, then the memory of the first phase, then prints them."""
    first = next(iter(phases))
    ran = {phase: _by_their_kernels(study, s, built, calls, phase, batch) for phase, calls in phases.items()}
    timed = {phase: interleaved(calls, study.device, seconds=s.seconds / len(phases), seed=batch)
             for phase, calls in ran.items()}
    peaks = {name: peak_bytes(call, study.device) for name, call in ran[first].items()}
    comparisons, rows = [], []
    for name in peaks:
        cells: dict[str, Cell] = {"attention": name}
        for phase, samples in ((phase, samples) for phase, samples in timed.items() if name in samples):
            spread, change = median_interval(samples[name]), f"{phase}'s change"
            cells |= {f"{phase} ms": f"{1e3 * statistics.median(samples[name]):.4g} ±{spread:.1%}", change: None}
            if name != STANDARD and STANDARD in samples and STANDARD in peaks:
                time = Ratio.of(samples[name], samples[STANDARD])
                cells[change] = str(time)
                comparisons.append(Comparison(name, batch, phase, time, peaks[name] / peaks[STANDARD]))
            if study.device.type == "cuda" and phase in ON_THE_GPU:
                cells[f"{phase} GPU ms"] = 1e3 * _device_seconds(phases[phase][name], study.device)
        cells["peak MB"] = peaks[name] / 1e6
        rows.append(cells)
        study.write("measured", {**cells, "title": title, "batch": batch, "peak_bytes": peaks[name],
                                 "seconds": {phase: samples.get(name) for phase, samples in timed.items()}})
    print(table(f"{title}: rounds in random order; peak over weights; change of the standard one's time, "
                "negative is faster", rows), flush=True)
    return comparisons


def _device_seconds(call: Call, device: torch.device) -> float:
    """Times the GPU alone, without the launching that bounds a small batch."""
    ticking = clock(device)
    return sample(ticking, ticking.prepare(call), precision=PRECISION).median

