"""The roofline says what this machine's memory and matrix units were seen to reach, and the floor they set.

Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009. A call that moves b bytes and computes f FLOPs
takes at least max(b / copy rate, f / matmul rate) seconds; its share is that floor over its time.
A GPU's datasheet draws another roofline, of what its maker prints.

A ceiling is a rate that the hardware was seen to reach, measured once a machine and kept in a file named
after its identity. Rows don't raise it, else no two runs could be compared: a row that beats it shows a
share above 100 %, which says that a plain copy or product is not this machine's best. Without the file
it is measured anew.
"""
from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from perf.measure import machine, rates
from perf.measure.clocks import clock
from perf.measure.fitness import Watch, unfit
from perf.system import files
from perf.workloads.workload import Workload

SCHEMA = 1
FASTEST = ("fp32", "bf16", "fp16")  # one of these is the fastest dtype of a machine
BEYOND = 2.0  # times the highest ceiling: what nothing computes at


@dataclass(frozen=True)
class Ceilings:
    """Holds `copy` in bytes/s, read and written, and `matmul` in FLOP/s by the labels of `rates.labels`."""

    copy: float
    matmul: dict[str, float]

    def flops(self, dtype: str) -> float | None:
        """Gives the highest FLOP/s of a dtype, in IEEE arithmetic or as torch is set; None if none was measured."""
        return max((rate for label, rate in self.matmul.items() if label.partition("-")[0] == dtype), default=None)


@dataclass(frozen=True)
class Floor:
    """Holds the least `seconds` of a call, and the `limit` that sets them: "bytes" or "FLOPs"."""

    seconds: float
    limit: str


def floor(w: Workload, ceilings: Ceilings) -> Floor | None:
    """Gives the least time of `w` by those of its bytes and FLOPs that are known; None if neither is.

    The exponentials of softmax are left out. Their unit can bind: an H100's makes 3.9 T/s beside 989 TFLOP/s,
    so at head_dim 64 they take as long as the products (FlashAttention-3, arXiv 2407.08608, section 3.1).
    But a kernel may compute a part of them elsewhere (FlashAttention-4 does, by polynomials), so what the
    unit takes for all of them is no floor.
    """
    floors = []
    if w.bytes is not None:
        floors.append(Floor(w.bytes / ceilings.copy, "bytes"))
    if w.flops is not None and (rate := ceilings.flops(w.dtype)) is not None:
        floors.append(Floor(w.flops / rate, "FLOPs"))
    return max(floors, key=lambda floor: floor.seconds, default=None)


def least(w: Workload, ceilings: Ceilings) -> Floor | None:
    """Gives the time below which no call of `w` is believed, by its FLOPs: at `BEYOND` times the most of any dtype.

    A call may compute in a dtype that is faster here than its own (on some CPUs float32 is several times as fast as
    bf16), in eight bits, or leave out what it can prove to be nothing. Bytes are no limit: caches hold some of them.
    None where the FLOPs are not known, and where a function's far pairs may be left out by what they weigh (ALiBi on
    an H200 at 8192 tokens: 1.35 times the rate of its visible pairs, more at longer ones).
    """
    from attention import registry

    rate = max(ceilings.matmul.values(), default=None)
    if w.bare and registry.function(w.function).skips:
        return None
    return None if w.flops is None or rate is None else Floor(w.flops / (BEYOND * rate), "FLOPs")


def ceilings(device: torch.device, dtypes: Iterable[str], *, folder: Path) -> Ceilings:
    """Gives this machine's ceilings of `dtypes`: those in `folder`; what they lack is measured, and written there.

    The first time takes 1 or 2 seconds. What is measured on an unfit machine is returned, with a warning that
    says why, but not kept.
    """
    identity = machine.identity()
    number = (torch.cuda.current_device() if device.index is None else device.index) if device.type == "cuda" else ""
    path = folder / f"ceilings-{identity}-{device.type}{number}.json"
    labels = rates.labels(dtypes, device)
    before = _load(path, identity)
    missing = [label for label in labels if before is None or label not in before.matmul]
    if before is None or missing:
        watch = Watch(device)
        watch.begin()
        before = _measure(device, missing, before)
        if reason := unfit(watch.end()):
            warnings.warn(f"perf: the ceilings may be too low, and are not kept: {reason}", stacklevel=2)
        else:
            _save(path, identity, before)
    return Ceilings(before.copy, {label: before.matmul[label] for label in labels})


def _measure(device: torch.device, missing: Iterable[str], before: Ceilings | None) -> Ceilings:
    """Adds to the ceilings the products that they lack; nothing is measured twice."""
    timer = clock(device)
    copy, matmul = (before.copy, before.matmul) if before else (rates.copy(device, timer), {})
    after = Ceilings(copy, matmul | {label: rates.matmul(device, label, timer) for label in missing})
    if device.type == "cuda":
        torch.cuda.empty_cache()  # gigabytes that no row is to inherit
    return after


def _load(path: Path, identity: str) -> Ceilings | None:
    """Reads the ceilings in a file; None if there is none, and with a warning if it holds something else."""
    try:
        record = files.from_json(path.read_text(encoding="utf-8"))
        if (record["schema"], record["machine"]) != (SCHEMA, identity):
            raise ValueError("another machine's, or another version's")
        return Ceilings(_rate(record["copy"]), {label: _rate(rate) for label, rate in record["matmul"].items()})
    except FileNotFoundError:
        return None
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(f"perf: {path} doesn't hold this machine's ceilings ({reason}): measured anew", stacklevel=3)
        return None


def _rate(value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{value} is no rate")
    return float(value)


def _save(path: Path, identity: str, ceilings: Ceilings) -> None:
    """Writes the whole file at once: other processes may read it, or write it too."""
    record = {"schema": SCHEMA, "machine": identity, "copy": ceilings.copy, "matmul": ceilings.matmul}
    try:
        files.write(path, json.dumps(record, indent=2) + "\n")
    except OSError as error:
        warnings.warn(f"perf: {path}: {error.strerror}: the ceilings are not kept", stacklevel=3)


@dataclass(frozen=True)
class Datasheet:
    """Holds TFLOP/s and TB/s as printed in `source`. None is not printed there.

    `fp64` is the tensor cores' where they have it, `fp32` the ordinary units', `half` fp16 and bf16 accumulated
    in fp32. `sparse`: `tf32` and `half` are printed with 2:4 sparsity, at twice the dense peaks, and halved here.
    """

    source: str
    bandwidth: float
    fp64: float | None
    fp32: float
    tf32: float
    half: float
    sparse: bool


H100 = "NVIDIA H100 Tensor Core GPU datasheet"
A100 = "NVIDIA A100 Tensor Core GPU datasheet"
BLACKWELL = "NVIDIA Blackwell datasheet (HGX B200, each GPU)"
ADA = "NVIDIA Ada GPU architecture whitepaper"

# By the exact name that the driver gives: a MIG slice or a laptop's chip is another GPU, and has no datasheet here.
DATASHEETS = {  # source, TB/s, fp64, fp32, tf32, half
    "B200": Datasheet(BLACKWELL, 7.7, 37, 75, 2200, 4500, sparse=True),
    "H200": Datasheet("NVIDIA H200 Tensor Core GPU datasheet", 4.8, 67, 67, 989, 1979, sparse=True),
    "H100 80GB HBM3": Datasheet(f"{H100} (SXM)", 3.35, 67, 67, 989, 1979, sparse=True),
    "H100 NVL": Datasheet(f"{H100} (NVL)", 3.9, 60, 60, 835, 1671, sparse=True),
    "H100 PCIe": Datasheet(f"{H100} (PCIe, 2022)", 2.0, 51, 51, 756, 1513, sparse=True),
    "A100-SXM4-80GB": Datasheet(f"{A100} (80GB SXM)", 2.039, 19.5, 19.5, 156, 312, sparse=False),
    "A100 80GB PCIe": Datasheet(f"{A100} (80GB PCIe)", 1.935, 19.5, 19.5, 156, 312, sparse=False),
    "A100-SXM4-40GB": Datasheet(f"{A100} (40GB SXM)", 1.555, 19.5, 19.5, 156, 312, sparse=False),
    "A100-PCIE-40GB": Datasheet(f"{A100} (40GB PCIe)", 1.555, 19.5, 19.5, 156, 312, sparse=False),
    "L40S": Datasheet("NVIDIA L40S datasheet", 0.864, None, 91.6, 366, 733, sparse=True),
    "L4": Datasheet("NVIDIA L4 Tensor Core GPU datasheet", 0.3, None, 30.3, 120, 242, sparse=True),
    "GeForce RTX 4090": Datasheet(ADA, 1.008, None, 82.6, 82.6, 165.2, sparse=False),
}


def datasheet(gpu_name: str) -> Datasheet | None:
    """Finds the datasheet of a GPU by `torch.cuda.get_device_name()`; None where the table has none."""
    return DATASHEETS.get(gpu_name.removeprefix("NVIDIA "))


def datasheet_peak(gpu_name: str, dtype: str) -> float | None:
    """Gives the dense FLOP/s of a dtype, or of a label of `rates.labels` such as "fp32-tf32"; None where not known."""
    sheet = datasheet(gpu_name)
    if sheet is None:
        return None
    dense = 0.5 if sheet.sparse else 1.0
    peaks = {"fp64": sheet.fp64, "fp32": sheet.fp32, "fp32-tf32": dense * sheet.tf32,
             "bf16": dense * sheet.half, "fp16": dense * sheet.half}
    teraflops = peaks.get(dtype)
    return None if teraflops is None else teraflops * 1e12


def datasheet_ceilings(gpu_name: str, labels: Iterable[str]) -> Ceilings | None:
    """Gives the roofline that the datasheet draws, of those `labels` that it prints; None where the table has none.

    The `floor` by them, over a row's seconds, is its share of the datasheet's peak: of its bandwidth where bytes bind,
    of its FLOP/s where FLOPs do.
    """
    sheet = datasheet(gpu_name)
    if sheet is None:
        return None
    peaks = {label: datasheet_peak(gpu_name, label) for label in labels}
    return Ceilings(sheet.bandwidth * 1e12, {label: rate for label, rate in peaks.items() if rate is not None})


def describe_datasheet(gpu_name: str) -> str:
    """Writes one line for a report: whose numbers they are, or that there are none."""
    sheet = datasheet(gpu_name)
    if sheet is None:
        return f"no datasheet for {gpu_name}"
    half = (datasheet_peak(gpu_name, "bf16") or 0) / 1e12
    return f"{sheet.source}: {sheet.bandwidth:g} TB/s, bf16 {half:g} TFLOP/s dense"
