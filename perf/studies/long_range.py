"""Trains a small classifier with each of several attention functions on ListOps, a task of Long Range Arena (Tay et
al., arXiv 2011.04006): quality, time and memory of all in one table and plot.

    python -m perf.studies.long_range --out lra.jsonl --plot lra.png

All functions have the same budget: weights drawn from the same seed, the same steps on the same lists. They take a step
in turns, in random order, so that their times are compared round by round. Padding is a token like others, since not
every function has a mask; the mean over tokens that gives the answer leaves it out.
"""
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import attention
from models import metrics
from models.data import listops
from models.figures import Figure, compare
from models.packages import needs
from perf.measure.memory import peak_bytes
from perf.studies.claims import Cell, spread, table
from perf.studies.measuring import Study, reading
from perf.studies.options import parser
from perf.studies.ratio import Ratio
from perf.studies.rounds import rounds

WIDTH, HEADS, LAYERS = 64, 2, 2
LEARNING_RATE, CLIP = 1e-3, 1.0
BASE, UNIFORM = "softmax", "uniform weights"  # what others are compared with, and the control


@dataclass(frozen=True)
class Candidate:
    """Is a variant with its options; None has the same weight for all keys."""

    variant: str | None
    options: dict[str, Any] = field(default_factory=dict)


CANDIDATES = {
    BASE: Candidate("softmax:sdpa"), "sliding window": Candidate("sliding-window:sdpa", {"window": 17}),
    "block-sparse": Candidate("block-sparse:chunked", {"block": 16}),
    "Linformer": Candidate("linformer:eager", {"rank": 32}),
    "Performer": Candidate("performer:chunked", {"features": 64}), "linear": Candidate("linear:chunked"),
    UNIFORM: Candidate(None)}


class Layer(nn.Module):
    """A transformer layer (B, N, WIDTH) -> (B, N, WIDTH), normalised first; without `attend` keys weigh alike."""

    def __init__(self) -> None:
        super().__init__()
        self.attend: nn.Module | None = None
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the layer."""
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        out_BHND = self.attend(q, k, v) if self.attend is not None else v.mean(2, keepdim=True).expand_as(v)
        x = x + self.out(out_BHND.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


class Classifier(nn.Module):
    """Gives logits (B, 10) of the digit that each list of tokens (B, N) comes to."""

    def __init__(self, candidate: Candidate, n: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.head, self.embedding = nn.Linear(WIDTH, 10), nn.Embedding(len(listops.VOCABULARY), WIDTH)
            self.positions = nn.Parameter(0.02 * torch.randn(n, WIDTH))
            self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
            for layer in self.layers if candidate.variant else ():  # last, since some draw weights of their own
                layer.attend = attention.create(candidate.variant or "", heads=HEADS, head_dim=WIDTH // HEADS,
                                                seq_len=n, **candidate.options)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens_BN: torch.Tensor) -> torch.Tensor:
        """Computes the logits."""
        keep_BN1 = (tokens_BN != listops.NUMBERS[listops.PADDING]).unsqueeze(-1)
        x = self.norm(self.layers(self.embedding(tokens_BN) + self.positions))
        return self.head((x * keep_BN1).sum(1) / keep_BN1.sum(1))


def trainer(model: nn.Module, tokens_IN: torch.Tensor, digits_I: torch.Tensor, batch: int) -> Callable[[], None]:
    """Makes the call that takes the next training step, on the next lists; once used up they come again."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    batches = list(zip(tokens_IN.split(batch), digits_I.split(batch), strict=True))
    done = 0

    def step() -> None:
        nonlocal done
        tokens, digits = batches[done % len(batches)]
        done += 1
        loss = functional.cross_entropy(model(tokens), digits)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()

    return step


def right(model: nn.Module, tokens_IN: torch.Tensor, digits_I: torch.Tensor) -> Figure:
    """Computes the accuracy in points."""
    with torch.no_grad():
        logits = torch.cat([model.eval()(tokens) for tokens in tokens_IN.split(64)])
    return Figure("accuracy", "points", "higher", metrics.hits(logits.cpu().numpy(), digits_I.cpu().numpy()))


def plot(lines: Sequence[dict[str, Any]], file: Path) -> None:
    """Draws accuracy over the time of a step, a disc for each function, its area the memory."""
    with needs("matplotlib", "for the plot", "site"):
        from matplotlib.figure import Figure as Drawing
    drawing = Drawing(figsize=(7, 4.5), layout="constrained")
    axes = drawing.add_subplot(xlabel="milliseconds a training step", ylabel="accuracy, %",
                               title="ListOps: area of a disc is the peak memory of a step")
    for line in lines:
        axes.scatter(line["ms a step"], line["accuracy"], s=20 * line["peak MB"], alpha=0.5)
        axes.annotate(line["attention"], (line["ms a step"], line["accuracy"]))
    drawing.savefig(file, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; each row is a record."""
    options = parser("long_range", __doc__)
    options.add_argument("--length", type=int, default=128, help="tokens of a list, at most; a quarter at least")
    options.add_argument("--steps", type=int, default=400)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--plot", type=Path, help="file that the plot is written to, PNG or SVG")
    args = options.parse_args(arguments)
    n, steps, tested = (32, 3, 64) if args.tiny else (args.length, args.steps, 1000)
    study, device = Study(args.device, args.out), args.device
    lists = functools.partial(listops.items, shortest=n // 4, longest=n)
    tokens, digits = (x.to(device) for x in lists(steps * args.batch, seed=0))
    held_out = [x.to(device) for x in lists(tested, seed=1)]
    classifiers = {name: Classifier(candidate, n).to(device) for name, candidate in CANDIDATES.items()}
    takers = {name: trainer(model, tokens, digits, args.batch) for name, model in classifiers.items()}
    seconds = rounds({name: functools.partial(reading, step, device) for name, step in takers.items()},
                     seconds=float("inf"), most=steps)
    figures = {name: right(model, *held_out) for name, model in classifiers.items()}
    lines: list[dict[str, Cell]] = []
    for name, model in classifiers.items():
        ratio, change = Ratio.of(seconds[name], seconds[BASE]), compare(figures[BASE], figures[name])
        low, high = figures[name].interval()
        line: dict[str, Cell] = {
            "attention": name, "accuracy": figures[name].value, "interval": f"{low:.1f} to {high:.1f}",
            "ms a step": 1e3 * sorted(seconds[name])[steps // 2], "peak MB": peak_bytes(takers[name], device) / 1e6,
            "weights": sum(weight.numel() for weight in model.parameters())}
        if name != BASE:
            line |= {"time's change": str(ratio), "accuracy's change": spread(change)}
        study.write("listops", {**line, **asdict(CANDIDATES[name]), "steps": steps, "batch": args.batch, "length": n,
                                "ratio": [ratio.median, ratio.interval], "change": asdict(change)})
        lines.append(line)
    often = 100 * digits.bincount().max().item() / len(digits)
    print(table(f"ListOps, {n // 4} to {n} tokens, {steps} steps of {args.batch}, {tested} held-out lists; the most "
                f"frequent digit is {often:.1f} % of the answers; points, 95 %", lines), flush=True)
    if args.plot:
        plot(lines, args.plot)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
