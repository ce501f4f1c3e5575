"""Measures FlashRNN's fused LSTM (Poeppel, Beck and Hochreiter, arXiv 2412.07752) beside PyTorch's, on a GPU cuDNN's.

    python -m perf.studies.recurrence --out rnn.jsonl             # needs flashrnn: pip install flashrnn einops

On a GPU FlashRNN is its Triton kernel; on a CPU its plain loop, which shows that both have the same weights and
answers, and no speed. Sizes are those of the TFT of 000, 192 steps of 64 series, but for its width of 160: the kernel
takes powers of two. Both compute the product with the inputs too. Each row is held against the LSTM in float64 first.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from attention import DTYPES
from perf.bench.treatments import relative_error
from perf.studies.claims import Cell, table
from perf.studies.measuring import Study
from perf.studies.options import parser
from perf.studies.rounds import Call, able, side_by_side

BASE, FLASH = "PyTorch's LSTM", "FlashRNN"
ALLOWED = {"fp32": 0.01, "bf16": 0.05}  # of the answers; Triton's products of fp32 are TF32's


def flash(lstm: nn.LSTM, x_BTD: torch.Tensor, backend: str) -> torch.Tensor:
    """Computes an LSTM of one layer by FlashRNN, with the same weights: (B, T, D)."""
    try:
        from flashrnn import flashrnn
    except ImportError as error:
        raise ImportError(f"flashrnn is needed for its kernels: pip install flashrnn einops ({error})") from error
    width, weights = lstm.hidden_size, dict(lstm.named_parameters())
    inputs = (x_BTD @ weights["weight_ih_l0"].T).unflatten(-1, (4, 1, width))
    bias = (weights["bias_ih_l0"] + weights["bias_hh_l0"]).view(4, 1, width)
    recurrent = weights["weight_hh_l0"].view(4, 1, width, width)
    states, _ = flashrnn(inputs.contiguous(), recurrent, bias, function="lstm", backend=backend,
                         dtype=str(x_BTD.dtype).removeprefix("torch."))
    return states[0].flatten(2)


def measure(study: Study, width: int, dtype: str, batch: int, steps: int, seconds: float) -> list[dict[str, Cell]]:
    """Measures both rows, forward alone and with backward."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exact, x = nn.LSTM(width, width, batch_first=True).double(), torch.randn(batch, steps, width).double()
        grad = torch.randn(batch, steps, width)
    expected = exact(x)[0].to(study.device)
    lstm = nn.LSTM(width, width, batch_first=True).to(study.device, DTYPES[dtype])
    lstm.load_state_dict(exact.state_dict())
    x, grad = (one.to(study.device, DTYPES[dtype]) for one in (x, grad))
    backend = "triton_fused" if study.device.type == "cuda" else "vanilla"
    rows: dict[str, Callable[[], torch.Tensor]] = {BASE: lambda: lstm(x)[0], FLASH: lambda: flash(lstm, x, backend)}
    errors: dict[str, float] = {}
    for name, row in rows.items():
        with study.part(f"{name}, width {width}, {dtype}"), torch.no_grad():
            if (off := relative_error(row(), expected)) > ALLOWED[dtype]:
                raise ValueError(f"answers are off by {off:.1e}, {ALLOWED[dtype]} is allowed")
            errors[name] = off

    def trained(row: Callable[[], torch.Tensor]) -> Call:
        return lambda: torch.autograd.grad(row(), list(lstm.parameters()), grad)

    lines: list[dict[str, Cell]] = []
    for phase, make in (("forward", torch.no_grad()), ("forward-backward", trained)):
        about = f"width {width}, {dtype}, {phase}"
        calls = able(study, {name: make(rows[name]) for name in errors}, about)
        for name, figures in side_by_side(study, calls, seconds).items():
            line = {"LSTM": name, "width": width, "dtype": dtype, "phase": phase, "error": errors[name], **figures}
            study.write("recurrence", {**line, "batch": batch, "steps": steps, "backend": backend})
            lines.append({key: value for key, value in line.items() if key not in ("ratio", "rounds")})
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; each row is a record. 1 if a row could not be measured."""
    options = parser("recurrence", __doc__)
    options.add_argument("--width", type=int, action="append", help="may be repeated (default: 32, 64 and 128)")
    options.add_argument("--seconds", type=float, default=2.0, help="of the rounds of a width and phase (default: 2)")
    args = options.parse_args(arguments)
    study, gpu = Study(args.device, args.out, 60 * args.minutes), args.device.type == "cuda"
    batch, steps = (2, 6) if args.tiny else (64, 192)
    lines: list[dict[str, Cell]] = []
    for dtype in ("fp32", "bf16") if gpu else ("fp32",):
        for width in [16] if args.tiny else args.width or (32, 64, 128):
            with study.part(f"width {width}, {dtype}"):
                study.in_time()
                lines += measure(study, width, dtype, batch, steps, 0.1 if args.tiny else args.seconds)
    print(table(f"{batch} series of {steps} steps, by the stopwatch; change of {BASE}'s time", lines))
    print(*[f"NOT MEASURED {part}" for part in study.failures], f"records: {study.out}", sep="\n")
    return 1 if study.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
