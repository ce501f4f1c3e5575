"""Times GPT-2 and ViT with padding and without (ByteTransformer, Zhai et al., arXiv 2210.03052): the same sequences of
many lengths, padded to the longest or laid end to end in one row.

    python -m perf.studies.padding --out padding.jsonl

Texts have the lengths of docstrings in Python's standard library, images any size of whole patches up to the model's;
weights are random. Both ways must give the same logits before they are timed, in rounds of random order. A text is
padded at its end, where causality hides it, so it needs no mask; an image needs one.
"""
from __future__ import annotations

import copy
import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

import attention
import models
from attention import DTYPES
from models import packed
from models.data import docstrings
from perf.measure.memory import peak_bytes
from perf.studies.claims import Cell, table
from perf.studies.measuring import Study
from perf.studies.options import parser
from perf.studies.ratio import Ratio
from perf.studies.rounds import interleaved

BACKENDS = ("fa2", "nested", "sdpa")  # of packed sequences, the first that can
NEAR = {torch.float32: 1e-3, torch.bfloat16: 5e-2}  # how far logits may be apart, of the largest

Call = Callable[[], list[torch.Tensor]]
Way = tuple[list[int], Call, Call]  # the lengths; padded, packed


def texts(preset: models.registry.Preset, model: Any, twin: Any, count: int) -> Way:
    """Makes both calls on `count` texts; the tokens are drawn."""
    held_out = docstrings.split(models.get("gpt2-docstrings"))[1]
    lengths = [len(prompt) for prompt in held_out.prompts[:count]]
    draw = torch.Generator().manual_seed(0)
    tokens = [torch.randint(preset.sizes["vocabulary"], (length,), generator=draw).to(model.device)
              for length in lengths]

    def padded() -> list[torch.Tensor]:
        logits = model(input_ids=pad_sequence(tokens, batch_first=True), use_cache=True).logits
        return [one[:length] for one, length in zip(logits, lengths, strict=True)]

    return lengths, padded, lambda: packed.read(twin, tokens)


def images(preset: models.registry.Preset, model: Any, twin: Any, count: int) -> Way:
    """Makes both calls on `count` images of noise."""
    draw, noise = random.Random(0), torch.Generator().manual_seed(0)
    patch, most = preset.sizes["patch"], preset.sizes["image"] // preset.sizes["patch"]
    sizes = [(patch * draw.randint(most // 2, most), patch * draw.randint(most // 2, most)) for _ in range(count)]
    pictures = [torch.randn(3, *size, generator=noise).to(model.device, model.dtype) for size in sizes]

    def padded() -> list[torch.Tensor]:
        tokens = packed.embedded(model, pictures)
        keep_BN = pad_sequence([torch.ones(len(one), dtype=torch.bool) for one in tokens], batch_first=True)
        x, keep_BN = pad_sequence(tokens, batch_first=True), keep_BN.to(model.device)
        for layer in model.vit.layers:
            x = layer(x, keep_BN)
        return list(model.classifier(model.vit.layernorm(x[:, 0])))

    return [height * width // patch ** 2 + 1 for height, width in sizes], padded, lambda: list(
        packed.see(twin, pictures))


def row(study: Study, name: str, make: Callable[..., Way], dtype: torch.dtype, count: int,
        seconds: float) -> dict[str, Cell]:
    """Checks that both ways agree, then times them. Raises ValueError where they do not."""
    preset, device = models.get(name), study.device
    model: Any = models.create(preset, attention="softmax:sdpa", dtype=dtype, device=device)
    backend = next(one for one in BACKENDS if attention.why_not(
        f"varlen:{one}", device=device, dtype=dtype, heads=preset.heads, head_dim=preset.head_dim, n=64,
        causal=preset.causal) is None)
    lengths, padded, end_to_end = make(preset, model, packed.unpadded(copy.deepcopy(model), backend), count)
    calls = {"padded": torch.no_grad()(padded), "packed": torch.no_grad()(end_to_end)}
    base, new = (torch.cat([one.flatten() for one in call()]).float() for call in calls.values())
    if (off := ((base - new).abs().max() / base.abs().max()).item()) > NEAR[dtype]:
        raise ValueError(f"packed logits are off by {off:.1e} of the largest, {NEAR[dtype]} is allowed")
    times = interleaved(calls, device, seconds=seconds)
    ratio = Ratio.of(times["packed"], times["padded"])
    peaks = {way: peak_bytes(call, device) for way, call in calls.items()}
    line: dict[str, Cell] = {
        "model": name, "backend": f"varlen:{backend}", "sequences": count, "tokens": sum(lengths),
        "padding, %": 100 * (1 - sum(lengths) / (count * max(lengths))), "off": off,
        **{f"{way} ms": 1e3 * statistics.median(times[way]) for way in calls}, "time's change": str(ratio),
        **{f"{way} MB": peaks[way] / 1e6 for way in calls}}
    study.write("padding", {**line, "lengths": lengths, "ratio": [ratio.median, ratio.interval]})
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; each row is a record. 1 if a row could not be measured."""
    options = parser("padding", __doc__)
    options.add_argument("--batch", type=int, default=16, help="sequences")
    options.add_argument("--seconds", type=float, default=15.0, help="of a row's rounds (default: 15)")
    args = options.parse_args(arguments)
    study, gpu = Study(args.device, args.out, 60 * args.minutes), args.device.type == "cuda"
    names = ("gpt2-docstrings", "vit-tiny") if args.tiny else ("distilgpt2", "vit-l16" if gpu else "vit-s16")
    rows = []
    for name, make in zip(names, (texts, images), strict=True):
        with study.part(name):
            study.in_time()
            rows.append(row(study, name, make, DTYPES["bf16" if gpu else "fp32"], args.batch,
                            0.1 if args.tiny else args.seconds))
    print(table("forward pass, padded and packed", rows))
    print(*[f"NOT MEASURED {part}" for part in study.failures], f"records: {study.out}", sep="\n")
    return 1 if study.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
