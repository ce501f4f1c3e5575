"""Measures the kernels of 003 by length: error against softmax attention, time, memory, FLOPs, parameters; weights and
inits."""
from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from attention import DTYPES, Attention
from attention.testing import inputs
from perf.measure.memory import peak_bytes
from perf.studies.calls import bounded, confirm
from perf.studies.claims import Cell, table
from perf.studies.low_rank_rows import BASELINE, EXACT, INITS, Candidate, initialise, weights
from perf.studies.measuring import Study
from perf.studies.ratio import Ratio
from perf.studies.rounds import in_turns
from perf.workloads.workload import BARE, Workload


@dataclass(frozen=True)
class Cost:
    """Holds the costs of a forward pass. `ratio` is its time over that of softmax attention on eager, taken in turns;
    `mse` the mean squared difference to softmax attention's output in float32; `relative` that as a part of the mean
    square of that output, 1 being what zeros would have."""

    seconds: float
    ratio: Ratio
    peak: int
    mse: float
    relative: float
    flops: int
    parameters: int


@dataclass(frozen=True)
class Weights:
    """Holds how far the n x n weights are from softmax's: the largest difference, and mean squared ones; `zeros` has no
    weights at all."""

    worst: float
    mse: float
    zeros: float


class Kernels:
    """Measures on standard normal q, k, v of one batch; `costs` are by (row's name, n, dtype)."""

    def __init__(self, study: Study, heads: int, head_dim: int, limit: float) -> None:
        self.study, self.heads, self.head_dim, self.limit = study, heads, head_dim, limit
        self.costs: dict[tuple[str, int, str], Cost] = {}
        self.weights: dict[str, Weights] = {}

    def measure(self, rows: Sequence[Candidate], n: int, dtype: str) -> None:
        """Measures all rows at a length, and prints their table."""
        lines: list[dict[str, Cell]] = []
        with self.study.part(f"softmax attention, n={n}, {dtype}"):
            self.study.in_time()
            qkv = self._inputs(n, dtype)
            wide = [x.float() for x in qkv]
            exact = self._built(EXACT, n, "fp32")(*wide)
            for row in rows:
                if self._skipped(row, n, dtype):
                    continue
                with self.study.part(f"{row.name}, n={n}, {dtype}"), torch.no_grad():
                    self.study.in_time()
                    lines.append(self._cost(row, n, dtype, qkv, exact))
        print(table(f"n={n}, {dtype}, {self.heads} heads x {self.head_dim}", lines), flush=True)

    def _cost(self, row: Candidate, n: int, dtype: str, qkv: list[torch.Tensor],
              exact: torch.Tensor) -> dict[str, Cell]:
        attend = self._built(row, n, dtype)
        base = self._built(BASELINE, n, dtype)
        with bounded(self.limit):
            attend(*qkv)
            function, _, backend = row.variant.partition(":")
            confirm(lambda: attend(*qkv), Workload(BARE, function, backend, "forward", False, 1, self.heads, self.heads,
                                                   n, n, self.head_dim, dtype), self.study.device)
            peak = peak_bytes(lambda: attend(*qkv), self.study.device)
        ratio = in_turns(lambda: base(*qkv), lambda: attend(*qkv), self.study.device, self.limit)
        mse = (attend(*qkv).float() - exact).square().mean().item()
        cost = Cost(statistics.median(ratio.seconds), ratio, peak, mse, mse / exact.square().mean().item(),
                     row.flops(self.heads, self.head_dim, n), sum(p.numel() for p in attend.parameters()))
        self.costs[row.name, n, dtype] = cost
        self.study.write("003", {"row": row.name, "variant": row.variant, "options": dict(row.options), "n": n,
                                 "dtype": dtype, "heads": self.heads, "head_dim": self.head_dim, **asdict(cost)})
        return {"attention": row.name, "MSE": f"{mse:.1e}", "of zeros'": f"{cost.relative:.2g}",
                "ms": f"{1e3 * cost.seconds:.2f}", "x softmax": f"{ratio.median:.2f}",
                "±": f"{ratio.median * ratio.interval:.2f}", "peak MB": f"{peak / 1e6:.1f}",
                "GFLOP": f"{cost.flops / 1e9:.3f}", "parameters": cost.parameters}

    def look_at_weights(self, rows: Sequence[Candidate], n: int) -> None:
        """Compares the weights with the probabilities of softmax attention, in float32."""
        lines: list[dict[str, Cell]] = []
        q, k, _ = self._inputs(n, "fp32")
        with torch.no_grad(), self.study.part(f"weights, n={n}"):
            self.study.in_time()
            exact = weights(self._built(EXACT, n, "fp32"), q, k)
            zeros = exact.square().mean().item()
            for row in rows:
                if row.why_not(self.heads, self.head_dim, n, device=self.study.device):
                    continue
                with self.study.part(f"weights of {row.name}, n={n}"), bounded(self.limit):
                    difference = weights(self._built(row, n, "fp32"), q, k) - exact
                    weights_of_row = Weights(difference.abs().max().item(), difference.square().mean().item(), zeros)
                    self.weights[row.name] = weights_of_row
                    self.study.write("weights", {"row": row.name, "n": n, **asdict(weights_of_row)})
                    lines.append({"attention": row.name, "largest difference": f"{weights_of_row.worst:.1e}",
                                 "MSE": f"{weights_of_row.mse:.1e}", "MSE of zeros": f"{zeros:.1e}"})
        print(table(f"weights, n={n}, fp32", lines), flush=True)

    def look_at_inits(self, rows: Sequence[Candidate], n: int) -> None:
        """Measures the error of what has parameters, by how they are started."""
        lines: list[dict[str, Cell]] = []
        with torch.no_grad(), self.study.part(f"inits, n={n}"):
            self.study.in_time()
            qkv = self._inputs(n, "fp32")
            exact = self._built(EXACT, n, "fp32")(*qkv)
            for row in rows:
                if row.why_not(self.heads, self.head_dim, n, device=self.study.device):
                    continue
                attend = self._built(row, n, "fp32")
                if next(attend.parameters(), None) is None:
                    continue
                errors = {how: (initialise(attend, how)(*qkv) - exact).square().mean().item() for how in INITS}
                self.study.write("inits", {"row": row.name, "n": n, "mse": errors})
                lines.append({"MSE by init": row.name, **{how: f"{mse:.1e}" for how, mse in errors.items()}})
        print(table(f"inits, n={n}, fp32", lines), flush=True)

    def baseline(self, n: int, dtype: str) -> Cost | None:
        return self.costs.get((BASELINE.name, n, dtype))

    def _skipped(self, row: Candidate, n: int, dtype: str) -> bool:
        reason = row.why_not(self.heads, self.head_dim, n, device=self.study.device, dtype=DTYPES[dtype])
        if reason:
            self.study.write("skipped", {"part": f"{row.name}, n={n}, {dtype}", "reason": reason})
            print(f"  {row.name}, n={n}, {dtype}: n/a, {reason}", flush=True)
        return reason is not None

    def _built(self, row: Candidate, n: int, dtype: str) -> Attention:
        return row.create(self.heads, self.head_dim, n, DTYPES[dtype], self.study.device)

    def _inputs(self, n: int, dtype: str) -> list[torch.Tensor]:
        return list(inputs(batch=1, heads=self.heads, n=n, head_dim=self.head_dim, dtype=DTYPES[dtype],
                           device=self.study.device))
