"""Trains a small classifier with each attention function that can, on the five tasks of Long Range Arena (Tay et al.,
arXiv 2011.04006): quality, time and memory of all in one table and plot.

    python -m perf.studies.long_range --out lra.jsonl --plot lra.png                                  # a CPU: minutes
    python -m perf.studies.long_range --out lra.jsonl --length 1024 --steps 300 --batch 32                   # a GPU

All functions have the same budget: weights drawn from the same seed, the same steps on the same items. They take a step
in turns, in random order, so that their times are compared round by round.
"""
from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attention.registry import functions
from models.data.arena import TASKS
from models.figures import Change, Figure, compare
from models.packages import needs
from perf.measure.memory import peak_bytes
from perf.studies.claims import Cell, spread, table
from perf.studies.long_range_model import BASE, UNIFORM, Candidate, Classifier, candidates, right, trainer
from perf.studies.measuring import Study, reading
from perf.studies.options import parser
from perf.studies.ratio import Ratio
from perf.studies.rounds import able, rounds


@dataclass
class Row:
    """Collects what one function has done: by task its accuracy, seconds of each step, bytes at the peak."""

    figures: dict[str, Figure] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)

    @property
    def steps(self) -> list[float]:
        """Lists the seconds of the steps of all tasks."""
        return [second for seconds in self.seconds.values() for second in seconds]


def task_rows(study: Study, name: str, chosen: dict[str, Candidate], n: int, steps: int, batch: int, tested: int,
              rows: dict[str, Row]) -> tuple[str, float]:
    """Trains all on one task, in as many steps each as the study's time allows, and adds what they did to their rows;
    gives the task's name, with the steps where they are fewer, and the points that the most frequent answer has.

    Raises TimeoutError where there is no time to begin."""
    study.in_time()
    task, device = TASKS[name], study.device
    items, labels = (x.to(device) for x in task.items(steps * batch, n, False))
    held_out = [x.to(device) for x in task.items(tested, n, True)]
    models = {each: Classifier(candidate, task, n).to(device) for each, candidate in chosen.items()}
    takers = {each: trainer(model, items, labels, batch) for each, model in models.items()}
    takers = able(study, takers, name)  # which takes the first step
    if BASE not in takers:
        raise ValueError(f"{BASE} failed, which the others are compared with")
    seconds = rounds({each: functools.partial(reading, taker, device) for each, taker in takers.items()},
                     seconds=study.left, most=steps - 1)
    if (done := 1 + len(seconds[BASE])) < steps:
        name, steps = f"{name}, {done} of {steps} steps", done
    for each, taker in takers.items():
        with study.part(f"{each}, {name}"):
            figure, peak = right(models[each], *held_out), peak_bytes(taker, device)
            row = rows.setdefault(each, Row())
            row.figures[name], row.seconds[name], row.peaks[name] = figure, seconds[each], peak
            change, ratio = _change(rows, each, name), Ratio.of(seconds[each], seconds[BASE])
            study.write("long range", {
                "task": name, "attention": each, **asdict(chosen[each]), "steps": steps, "batch": batch, "length": n,
                "accuracy": figure.value, "interval": figure.interval(), "tested": len(held_out[1]),
                "change": asdict(change), "ms a step": 1e3 * statistics.median(seconds[each]),
                "ratio": [ratio.median, ratio.interval], "peak MB": peak / 1e6,
                "weights": sum(weight.numel() for weight in models[each].parameters())})
    return name, 100 * held_out[1].bincount().max().item() / len(held_out[1])


def _change(rows: dict[str, Row], name: str, task: str) -> Change:
    return compare(rows[BASE].figures[task], rows[name].figures[task])


def lines(rows: dict[str, Row], often: dict[str, float]) -> list[dict[str, Cell]]:
    """Makes the lines of the table: accuracy by task, as softmax's interval and the others' change from it."""
    written: list[dict[str, Cell]] = []
    for name, row in rows.items():
        line: dict[str, Cell] = {"attention": name}
        for task in often:
            if name == BASE:
                low, high = row.figures[task].interval()
                line[task] = f"{row.figures[task].value:.1f} ({low:.1f} to {high:.1f})"
            else:
                line[task] = spread(_change(rows, name, task)) if task in row.figures else None
        line |= {"mean": statistics.mean(figure.value for figure in row.figures.values())
                 if row.figures.keys() == often.keys() else None,
                 "ms a step": 1e3 * statistics.median(row.steps), "peak MB": max(row.peaks.values()) / 1e6}
        if name != BASE:
            shared = [task for task in row.seconds if task in rows[BASE].seconds]
            line["time's change"] = str(Ratio.of([second for task in shared for second in row.seconds[task]],
                                                 [second for task in shared for second in rows[BASE].seconds[task]]))
        written.append(line)
    return [*written, {"attention": "the most frequent answer", **{task: f"{points:.1f}"
                                                                   for task, points in often.items()}}]


def plot(written: Sequence[dict[str, Any]], file: Path) -> None:
    """Draws mean accuracy over the time of a step, a disc for each function, its area the memory."""
    with needs("matplotlib", "for the plot", "site"):
        from matplotlib.figure import Figure as Drawing
    drawing = Drawing(figsize=(9, 6), layout="constrained")
    axes = drawing.add_subplot(xscale="log", xlabel="milliseconds a training step", ylabel="accuracy, mean of tasks, %",
                               title="Long Range Arena: area of a disc is the peak memory of a step")
    shown = [line for line in written if line.get("mean") is not None]
    most = max(line["peak MB"] for line in shown)
    for line in shown:
        axes.scatter(line["ms a step"], line["mean"], s=400 * line["peak MB"] / most, alpha=0.4)
        axes.annotate(line["attention"], (line["ms a step"], line["mean"]), fontsize=7)
    drawing.savefig(file, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; each task and function is a record. 1 if a function failed that should run."""
    options = parser("long_range", __doc__)
    options.add_argument("--task", action="append", default=[], choices=TASKS, help="only this task; may be repeated")
    options.add_argument("--function", action="append", default=[], choices=functions(),
                         help="beside softmax only this function; may be repeated")
    options.add_argument("--length", type=int, default=64, help="tokens of a text; images are as large as fits")
    options.add_argument("--steps", type=int, default=80)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--plot", type=Path, help="file that the plot is written to, PNG or SVG")
    args = options.parse_args(arguments)
    steps, tested = (3, 64) if args.tiny else (args.steps, 1000)
    study = Study(args.device, args.out, 60 * args.minutes)
    chosen, reasons = candidates(args.length, args.device)
    if args.function:
        chosen = {name: chosen[name] for name in chosen if name in (BASE, UNIFORM, *args.function)}
    rows: dict[str, Row] = {}
    often: dict[str, float] = {}
    for task in args.task or TASKS:
        with study.part(task):
            label, points = task_rows(study, task, chosen, args.length, steps, args.batch, tested, rows)
            often[label] = points
            print(f"  {label}:", ", ".join(f"{name} {row.figures[label].value:.1f}" for name, row in rows.items()
                                           if label in row.figures), flush=True)
    written = lines(rows, often)
    print(table(f"{args.length} tokens, {steps} steps of {args.batch}, at most {tested} held-out items; points, "
                "softmax's with their 95 % interval, the others' change from softmax's", written))
    print(*[f"not trained: {name}: {reason}" for name, reason in reasons.items()],
          *[f"NOT MEASURED {part}" for part in study.failures], f"records: {study.out}", sep="\n")
    if args.plot and rows:
        plot(written, args.plot)
    return 1 if study.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
