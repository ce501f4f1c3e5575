"""Writes docs/results.md from the records: `python -m perf.studies.results > docs/results.md`.

Every number on that page comes from a file in perf/records. A test holds the page against this module.
"""
from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from perf.measure.evidence import load
from perf.report.docs import published_rows, variants_table
from perf.report.table import groups, table
from perf.studies import goals_table
from perf.studies.quantised_goals import Models
from perf.system.files import open_bytes

RECORDS = Path(__file__).parents[1] / "records"
KERNELS = RECORDS / "h200-2026-11-23" / "quick-grid.jsonl.gz"
PACKAGES = [RECORDS / "h200-2026-11-30" / f"{name}.jsonl.gz" for name in ("backends", "backends-fa3", "backends-sinks")]
MUTANTS = RECORDS / "h200-2026-11-30" / "rule-mutants-2.jsonl.gz"
H200 = RECORDS / "h200-2026-11-26"
PAGE = """\
# Results

`python -m perf.studies.results` makes this page from [the records](../perf/records); machines, versions and commands
stand in the README of each folder there. GPU time is CUDA-graph replay from a cold L2 unless a line says otherwise.

## Kernels on one H200

torch 2.11.0+cu130, flash-attn 2.8.3.post2, bf16, batch x n = 16384, heads x head_dim = 2048, 2026-11-23
([record](../perf/records/h200-2026-11-23/README.md)). `error` and `ratio` are by the rule of that day, which was much
milder than today's.

```text
{kernels}
```

{fastest}

## Five packages on one H200

torch 2.11.0+cu130, cuDNN 9.19 and its frontend 1.23.0, flash-attn-4 4.0.0b36, FlashAttention-3 from xformers 0.0.34,
bf16, 16 heads, batch 2 x n = 8192, causal, 2026-11-30 ([record](../perf/records/h200-2026-11-30/README.md)). TFLOP/s of
all visible pairs, the fastest in bold; `fa3` ran in a process of its own, the others in one run, and `sdpa-cudnn` in
both: the last is shown. `flex`'s sinks are of a later run: they were twice as fast in the first, and wrong. ALiBi on
`flex`, `fa4` and `flex-fa4` leaves out blocks whose keys are too far away to matter
(at most 2.4e-4 of a row's weight in bf16), so its figures can pass the limit of the matrix units. flash-attn 2 was not
in this run.

{packages}

## Over n

On one H100 (2026-11-25, [record](../perf/records/h100-2026-11-25/README.md)):

![TFLOP/s over n of softmax attention, forward, on one H100](softmax-forward-h100.png)

## Every function

`python -m perf variants`. The last column compares the fastest backend of a function with the fastest of softmax,
forward, on the H100, causal or full as the function is. An approximate function computes something else than softmax:
what it costs in quality is not in this table. `prefix-softmax` ignores q; its oracle is its own formula.

{variants}

## Quantised and compiled models

`python -m perf.studies.quantised_goals` (torch 2.11.0+cu130, bitsandbytes 0.50.2, torchao 0.18.0, 2026-11-26). Each
ratio is of one run: 32 images compiled on one H200 ([record](../perf/records/h200-2026-11-26/README.md)), the others on
one H100 ([record](../perf/records/h100-2026-11-26/README.md)).

{goals}

{models}

## Mutants on one H200

Variants broken on purpose (docs/mutants.md has all of them on a CPU), by the rule, bf16, 8 heads x 64 on 4 key heads,
n = 2048, 2026-11-30 ([record](../perf/records/h200-2026-11-30/README.md)). In brackets: the error as a share of what is
allowed. "sums in bfloat16" changed nothing: a GPU's products are another operator of PyTorch, which that mutant did not
know then (it does now, not seen on a GPU); of a window's few keys half a per cent of scale moves the sum by less than
rounding.

{mutants}

## Verdicts on one H200

{verdicts}
"""


def page() -> str:
    """Returns the page in Markdown."""
    rows = [row for row in load(KERNELS) if row.outcome == "ok"]
    kernels = table(rows).split("\ncompile seconds")[0].rstrip()
    return PAGE.format(kernels=kernels, fastest=_fastest(rows), packages=_packages(),
                       variants=variants_table(published_rows()),
                       goals=goals_table.table(goals_table.Run(goals_table.GOALS),
                                               goals_table.Run(goals_table.FASTEST), Models()),
                       models=_models(), mutants=_mutants(), verdicts=_verdicts())


def records(path: Path) -> list[dict[str, Any]]:
    """Returns the JSON lines of a record, compressed or not."""
    with open_bytes(path) as file:
        return [json.loads(line) for line in file]


def _fastest(rows: list) -> str:
    """Names the fastest backend of each shape, of those that ran."""
    lines = ["Fastest of the backends that ran:", ""]
    for group in groups(rows):
        best = min(group, key=lambda row: row.median or math.inf)
        w, others = best.workload, ", ".join(sorted({row.workload.backend for row in group} - {best.workload.backend}))
        lines.append(f"- {w.function}, n = {w.n}: `{w.backend}` (against {others})")
    return "\n".join(lines)


def _packages() -> str:
    """Writes a line a function, head dim and phase, and a column a backend."""
    rows = [row for path in PACKAGES for row in load(path) if row.median and row.workload.flops]
    backends = list(dict.fromkeys(row.workload.backend for row in rows))
    lines = [["function", "D", "phase", *(f"`{name}`" for name in backends)], ["---"] * (3 + len(backends))]
    for shape in dict.fromkeys(replace(row.workload, backend="") for row in rows):
        rates = {row.workload.backend: (row.workload.flops or 0) / (row.median or math.inf) / 1e12 for row in rows
                 if replace(row.workload, backend="") == shape}
        best = max(rates, key=lambda name: rates[name])
        cells = ["-" if name not in rates else f"**{rates[name]:.0f}**" if name == best else f"{rates[name]:.0f}"
                 for name in backends]
        lines.append([shape.function, str(shape.head_dim), shape.phase, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mutants() -> str:
    lines = ["| function | refused | what survives |", "| --- | --- | --- |"]
    lines += [f"| `{row['function']}` | {row['killed']} of {row['applied']} | {'; '.join(row['alive'])} |"
              for row in records(MUTANTS)]
    return "\n".join(lines)


def _models() -> str:
    """Says what else the two runs of models measured."""
    [quality] = (record for record in records(H200 / "quality.jsonl.gz") if record["kind"] == "quality")
    goals = records(goals_table.GOALS)
    cold = [record["cold"] for record in goals if record["kind"] == "compiled"]
    warm = [t.compiled["warm"] for t in goals_table.Run(goals_table.GOALS).timed.values() if t.compiled]
    where = {(record["method"], record["batch"]): record for record in goals if record["kind"] == "where"}
    plain, int8, nf4 = (where[method, 1] for method in ("none", "bnb-int8", "bnb-nf4"))
    many = where["bnb-int8", 32]["wall"] / where["none", 32]["wall"]
    return f"""\
- Top-1 of a small ViT on {quality["items"]} digits, float8 against bf16: {quality["base"]:.2f} -> \
{quality["new"]:.2f} %. The change lies between {quality["low"]:.2f} \
and {quality["high"]:+.2f} points (95 %, paired, out of fold).
- Compiling took {min(cold):.0f} to {max(cold):.0f} s; {min(warm):.0f} to {max(warm):.0f} s where the disk's cache \
had the code.
- One image, eager: of the {1e3 * plain["wall"]:.1f} ms of fp16 the GPU works {1e3 * plain["busy"]:.1f}; of the \
{1e3 * nf4["wall"]:.1f} ms of NF4 it works {1e3 * nf4["busy"]:.1f}. The rest is launching.
- bitsandbytes int8 takes {1e3 * int8["wall"]:.1f} ms for one image ({int8["wall"] / plain["wall"]:.1f}x fp16) in \
{int8["launches"]:.0f} kernels instead of {plain["launches"]:.0f}. The host \
waits {int8["syncs"]:.0f} times, so no graph \
can be captured. At 32 images it takes {many:.1f}x."""


def _verdicts() -> str:
    """Says what comparisons of the same code, and planted faults, ended as: the misses beside the catches."""
    words = Counter(record["word"] for record in records(H200 / "aa.jsonl.gz"))
    selftest = json.loads((H200 / "selftest.json").read_text(encoding="utf-8"))
    faults = Counter((trial["fault"], trial["verdict"]["word"]) for trial in selftest["trials"] if trial["fault"])
    lines = [f"- {fault}: {'; '.join(f'{count} {word}' for (name, word), count in faults.items() if name == fault)}"
             for fault in dict.fromkeys(fault for fault, _ in faults)]
    return "\n".join([
        "By the rule of 2026-11-26 ([record](../perf/records/h200-2026-11-26/README.md)).",
        f"The working tree against itself: {words['ok']} ok, {words['inconclusive']} inconclusive, "
        f"{words['regressed'] + words['improved']} called slower or faster.",
        "", "`selftest`, each fault in three variants:", "", *lines])


if __name__ == "__main__":
    print(page(), end="")
