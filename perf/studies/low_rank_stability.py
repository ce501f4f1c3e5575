"""Asks of 003 what half precision does to gradients: how many vanish, and how far the others are off.

The loss is a mean, whose gradients shrink with the number of outputs: fp16 has no number below 6e-8. So AMP scales the
loss, at first by 65536 (Micikevicius et al., arXiv 1710.03740; `torch.amp.GradScaler`), and the gradients back.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch

from attention import DTYPES
from attention.testing import inputs
from perf.bench.treatments import relative_error
from perf.studies.claims import Cell, Claims, table
from perf.studies.low_rank_rows import Candidate
from perf.studies.measuring import Study

SCALES = (1.0, 65536.0)
HALVES = ("fp16", "bf16")
OFF = 0.05  # of a gradient that is still right


def gradients(attend: torch.nn.Module, qkv: Sequence[torch.Tensor], weigh: torch.Tensor,
              scale: float) -> dict[str, torch.Tensor]:
    """Computes the gradients of a mean loss, in float64 and scaled back: of the inputs together, and of the
    parameters, where there are any."""
    qkv = [x.detach().requires_grad_() for x in qkv]
    parameters = list(attend.parameters())
    loss = scale * (attend(*qkv) * weigh).to(torch.promote_types(weigh.dtype, torch.float32)).mean()
    found = [grad.double().flatten() / scale for grad in torch.autograd.grad(loss, [*qkv, *parameters])]
    parts = {"q, k, v": found[:len(qkv)], "parameters": found[len(qkv):]}
    return {name: torch.cat(part) for name, part in parts.items() if part}


def measure(study: Study, claims: Claims, rows: Sequence[Candidate], heads: int, head_dim: int, n: int) -> None:
    """Prints a line for each row, dtype and scale, then claims what the study does."""
    lines: list[dict[str, Cell]] = []
    off: dict[tuple[str, float], float] = {}  # of the first row's parameters
    for row in rows:
        for dtype in HALVES:
            with study.part(f"gradients of {row.name}, {dtype}"):
                study.in_time()
                attend = row.create(heads, head_dim, n, DTYPES[dtype], study.device)
                exact = row.create(heads, head_dim, n, torch.float64, study.device)
                exact.load_state_dict(attend.state_dict())
                *qkv, weigh = (x.to(study.device, DTYPES[dtype])
                               for seed in (0, 1) for x in inputs(batch=1, heads=heads, n=n, head_dim=head_dim,
                                                                  seed=seed)[:3 - 2 * seed])
                right = gradients(exact, [x.double() for x in qkv], weigh.double(), 1.0)
                for scale in SCALES:
                    for what, found in gradients(attend, qkv, weigh, scale).items():
                        zeros = (found == 0).double().mean() - (right[what] == 0).double().mean()
                        line: dict[str, Cell] = {
                            "attention": row.name, "dtype": dtype, "scale": f"{scale:.0f}", "gradient of": what,
                            "vanished, %": 100 * zeros.item(), "finite": "yes" if found.isfinite().all() else "no",
                            "error": relative_error(found, right[what])}
                        if what == "parameters" and dtype == "fp16":
                            off.setdefault((row.name, scale), relative_error(found, right[what]))
                        study.write("gradients", {**line, "n": n, "heads": heads, "head_dim": head_dim})
                        lines.append(line)
    print(table(f"gradients of a mean loss, n={n}, {heads} heads x {head_dim}, against float64", lines), flush=True)
    for name in dict.fromkeys(name for name, _ in off):
        plain, scaled = (off[name, scale] for scale in SCALES)
        claims.add(f"003: {name}: gradients of the projection need a scaled loss in fp16", "required manual scaling",
                   f"off by {plain:.2g} of their size, by {scaled:.2g} with the loss times {SCALES[1]:.0f}",
                   plain > OFF >= scaled)
