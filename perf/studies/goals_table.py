"""Writes the table of quantised and compiled models, from the records: `python -m perf.studies.goals_table`.

A row's times are of one run: what compiles 32 images is read from the second file, all else from the first.
"""
from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from perf.studies.contrast import Contrast, used
from perf.studies.measuring import Measurement
from perf.studies.quantised_goals import Models, image, pairs, quantised, unquantised
from perf.system.files import open_bytes
from perf.workloads.workload import Workload

RECORDS = Path(__file__).parents[1] / "records"
GOALS = RECORDS / "h100-2026-11-26" / "quantised-goals.jsonl.gz"
FASTEST = RECORDS / "h200-2026-11-26" / "fastest.jsonl.gz"
HEADER = ("", "against", "time by a stopwatch", "by the device", "size")

Cells = tuple[str, str, str, str, str]


class Run:
    """Holds what one run of the study wrote: its times, and what it measured of each claim."""

    def __init__(self, path: Path) -> None:
        with open_bytes(path) as file:
            records = [json.loads(line) for line in file]
        timings = [_timed(record) for record in records if record["kind"] == "timed"]
        self.timed = {t.workload: t for t in timings}
        self.claims = {record["claim"]: record["measured"] for record in records if record["kind"] == "claim"}

    def contrast(self, new: Workload, old: Workload) -> Contrast:
        return Contrast(self.timed[new], self.timed[old])

    def smaller(self, method: str, name: str) -> str:
        """Reads "3.55" from the claim: the blocks' bytes have no record of their own."""
        start = f"{method} on the blocks of {name} "
        (measured,) = (measured for claim, measured in self.claims.items() if claim.startswith(start))
        return measured.partition("x")[0]


def _timed(record: dict[str, Any]) -> Measurement:
    values = {field.name: record[field.name] for field in fields(Measurement) if field.name in record}
    return Measurement(**values | {"workload": Workload(**record["workload"]), "samples": tuple(record["samples"])})


def table(goals: Run, fastest: Run, m: Models) -> str:
    """Writes the table in Markdown."""
    lines = [HEADER, ("---",) * len(HEADER), *_compiled(goals, m), *_fastest(fastest, m), *_nf4(goals, m)]
    return "\n".join("".join(f"| {cell} " if cell else "| " for cell in line) + "|" for line in lines)


def _compiled(run: Run, m: Models) -> Iterator[Cells]:
    """Gives the rows of compiled models against eager; of each GPT its prefill and its decoding."""
    vit, *texts = (run.contrast(compiled, eager) for _, eager, compiled in pairs(m))
    yield (f"ViT-L/16, 1 image, {m.half}, compiled and CUDA graph", "the same, eager",
           f"{_ms(used(vit.old))} -> {_ms(used(vit.new))} ms, {_x(vit.speed_up)} as fast", _x(vit.device_speed_up),
           f"{vit.size:.3g}")
    names = f"GPT-2, prefill of {m.short} / decode at {m.long - 1} tokens", "DistilGPT-2"
    for name, prefill, decode in zip(names, texts[::2], texts[1::2], strict=True):
        yield (f"{name}, likewise", "eager", f"{_x(prefill.speed_up)} / {_x(decode.speed_up)}",
               f"{_x(prefill.device_speed_up)} / {_x(decode.device_speed_up)}", f"{prefill.size:.3g}")


def _fastest(run: Run, m: Models) -> Iterator[Cells]:
    """Gives the rows of quantised models against bf16, all compiled."""
    fused, plain = unquantised(m)
    float8 = run.contrast(quantised(m, "ao-fp8-dynamic"), plain)
    yield (f"ViT-L/16, {m.batch} images, `ao-fp8-dynamic`, compiled (`{m.fused}`)", f"bf16, compiled (`{m.vit}`)",
           f"{_ms(used(float8.old))} -> {_ms(used(float8.new))} ms, {_x(float8.speed_up)}",
           f"{_ms(float8.old.gpu)} -> {_ms(float8.new.gpu)} ms, {_x(float8.device_speed_up)}", f"{float8.size:.3f}")
    float8 = run.contrast(quantised(m, "ao-fp8-dynamic"), fused)
    yield ("the same", f"bf16, compiled, in as few products (`{m.fused}`)",
           f"{_ms(used(float8.old))} ms, {_x(float8.speed_up)}",
           f"{_ms(float8.old.gpu)} ms, {_x(float8.device_speed_up)}", f"{float8.size:.3f}")
    weight, dynamic = (run.contrast(quantised(m, f"ao-int8-{what}"), fused) for what in ("weight", "dynamic"))
    yield ("`ao-int8-weight`, `ao-int8-dynamic`, likewise", "as the last",
           f"{_x(weight.speed_up)}, {_x(dynamic.speed_up)}",
           f"{_x(weight.device_speed_up)}, {_x(dynamic.device_speed_up)}", f"{weight.size:.3f}")


def _nf4(run: Run, m: Models) -> Iterator[Cells]:
    """Gives the rows of NF4 against half precision, neither compiled."""
    one, many = (run.contrast(image(m.vit, batch, m.half, "bnb-nf4"), image(m.vit, batch, m.half))
                 for batch in (1, m.batch))
    yield (f"ViT-L/16, 1 / {m.batch} images, `bnb-nf4`, eager", f"{m.half}, eager",
           f"{_x(one.slowdown)} / {_x(many.slowdown)} *the time*",
           f"{_x(one.device_slowdown)} / {_x(many.device_slowdown)}",
           f"blocks 1/{run.smaller('bnb-nf4', m.vit)} (double 1/{run.smaller('bnb-nf4-dq', m.vit)})")
    yield ("the same, as a CUDA graph", f"{m.half}, eager",
           f"{_x(one.replayed_slowdown)} / {_x(many.replayed_slowdown)} the time", "", "")


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def _x(ratio: float | None) -> str:
    """Writes a factor; a large one needs fewer decimals."""
    return "-" if ratio is None else f"{ratio:.{2 if ratio < 2 else 1}f}x"


if __name__ == "__main__":
    print(table(Run(GOALS), Run(FASTEST), Models()))
