"""Study 003, measured: low-rank, Linformer, Performer, tiled and block-sparse attention against softmax attention.

    python -m perf.studies.low_rank --out low-rank.jsonl         # n 512 to 2K on a CPU: minutes; to 16K on a GPU
    python -m perf.studies.low_rank --out low-rank.jsonl --lengths 4k,8k --part kernels
    python -m perf.studies.low_rank --out tiny.jsonl --tiny --device cpu

The study has no code: its measures of success are asked of the variants of this project that compute what it names.
Text is Python's docstrings, read by a small GPT-2 trained with each attention from the same seed. Each claim is
printed with its published figure; that one fails is no error.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from perf.cells import parse_length
from perf.studies import low_rank_claims, low_rank_text
from perf.studies.claims import Cell, Claims, table
from perf.studies.low_rank_kernels import Kernels
from perf.studies.low_rank_rows import BASELINE, BLOCKS, EXACT, TILED, Row, low_rank, rows
from perf.studies.low_rank_text import Read
from perf.studies.measuring import Study

BLOCK = 16  # of the text's 160 tokens; of 64, all would be seen


@dataclass(frozen=True)
class Size:
    """`ranks` at most head_dim, `own` of them for the study's table; `projected` for Linformer and Performer; `texts`
    that are read, all if None."""

    lengths: tuple[int, ...]
    ranks: tuple[int, ...] = (16, 32, 64)
    own: int = 32
    projected: tuple[int, ...] = (64, 256)
    heads: int = 8
    head_dim: int = 64
    preset: str = "gpt2-docstrings"
    steps: int = 400
    texts: int | None = None
    dtypes: tuple[str, ...] = ("fp32", "bf16")


CPU = Size((512, 1024, 2048), steps=150)
GPU = Size((512, 1024, 2048, 4096, 8192, 16384), dtypes=("fp32", "fp16"))
TINY = Size((128,), (8, 16), 8, (16,), 2, 16, steps=2, texts=8)


class Text:
    """Perplexity of the small GPT-2; `read` by (row's name, "trained" or "swapped in")."""

    def __init__(self, study: Study, size: Size, limit: float) -> None:
        self.study, self.size, self.limit = study, size, limit
        self.read: dict[tuple[str, str], Read] = {}
        self.parameters: dict[str, int] = {}

    def measure(self, chosen: Sequence[Row]) -> None:
        """Each row trained from the same seed, and in place of softmax attention under its trained weights."""
        preset, device = self.size.preset, self.study.device
        told: list[dict[str, Cell]] = []
        absent: list[str] = []
        base: torch.nn.Module | None = None
        for row in chosen:
            with self.study.part(f"text, {row.name}"):
                try:
                    model = low_rank_text.create(preset, row.variant, row.options, device)
                except ValueError as reason:
                    self.study.write("skipped", {"part": f"text, {row.name}", "reason": str(reason)})
                    absent.append(f"{row.name}: n/a, {reason}")
                    continue
                self.parameters[row.name] = sum(p.numel() for p in model.parameters())
                cells: dict[str, Cell] = {"attention": row.name, "parameters": self.parameters[row.name]}
                if base is not None:
                    model = low_rank_text.swapped(base, preset, row.variant, row.options, device)
                    cells |= self._read(row, "swapped in", model, 0)
                if row.name != TILED.name:  # the same function: trained, it is the baseline
                    model = low_rank_text.create(preset, row.variant, row.options, device)
                    steps = low_rank_text.train(model, preset, self.size.steps, 10 * self.limit)
                    cells |= self._read(row, "trained", model, steps)
                base = model if base is None else base
                told.append(cells)
        print(table(f"{preset}, {self.size.steps} steps of training", told), *absent, sep="\n", flush=True)

    def _read(self, row: Row, how: str, model: torch.nn.Module, steps: int) -> dict[str, Cell]:
        found = self.read[row.name, how] = low_rank_text.read(model, self.size.preset, self.size.texts)
        self.study.write("text", {"row": row.name, "variant": row.variant, "how": how, "steps": steps,
                                  "perplexity": found.perplexity, "accuracy": found.accuracy,
                                  "parameters": self.parameters[row.name]})
        print(f"  {row.name}, {how}: perplexity {found.perplexity:.2f}", flush=True)
        return {f"perplexity, {how}": f"{found.perplexity:.2f}", f"right %, {how}": f"{found.accuracy:.2f}"}


def of_text(size: Size) -> list[Row]:
    """The rows of the table, softmax first; block-sparse in blocks that leave something out."""
    ours = [replace(BASELINE, variant=EXACT.variant), *(low_rank(k) for k in size.ranks)]
    performer = Row(f"Performer k={size.projected[0]}", "performer:chunked", {"features": size.projected[0]})
    linformer = Row(f"Linformer k={size.projected[0]}", "linformer:eager", {"rank": size.projected[0]})
    return [*ours, linformer, performer, TILED, replace(BLOCKS, options={"block": BLOCK})]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables, then each claim; 1 if a part could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m perf.studies.low_rank", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file that records are appended to, JSON lines")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="short sequences: shows that it runs, and no finding")
    parser.add_argument("--part", action="append", default=[], choices=("kernels", "text"), help="only this part")
    parser.add_argument("--lengths", help="such as 512,4k")
    parser.add_argument("--heads", type=int, help="of one sequence (default: 8)")
    parser.add_argument("--steps", type=int, help="of training, each model (default: 150 on a CPU, 400 on a GPU)")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds of one measurement at most (default: 30)")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    size = TINY if given.tiny else GPU if device.type == "cuda" else CPU
    size = replace(size, steps=size.steps if given.steps is None else given.steps, heads=given.heads or size.heads,
                   lengths=tuple(map(parse_length, given.lengths.split(","))) if given.lengths else size.lengths)
    study = Study(device, given.out)
    claims, chosen = Claims(study), rows(size.ranks, size.own, size.projected)
    kernels, text = Kernels(study, size.heads, size.head_dim, given.limit), Text(study, size, given.limit)
    parts = given.part or ["kernels", "text"]
    if "kernels" in parts:
        for dtype in size.dtypes:
            for n in size.lengths:
                kernels.measure(chosen, n, dtype)
        at = 1024 if 1024 in size.lengths else size.lengths[0]
        kernels.look_at_weights(chosen, at)
        kernels.look_at_inits(chosen, at)
        low_rank_claims.of_kernels(kernels, claims, chosen, size)
    if "text" in parts:
        text.measure(of_text(size))
        low_rank_claims.of_text(text, claims, size)
    return claims.end()


if __name__ == "__main__":
    raise SystemExit(main())
