"""Datasheets print the peaks of well-known GPUs: those of their matrix units, and their memory's bandwidth.

Dense peaks: where a datasheet prints a tensor core's peak with 2:4 sparsity, twice the dense one, the
table has the printed number and halves it. GPUs are known by the exact name that the driver gives
them: a MIG slice or a laptop's chip is another GPU, and has no datasheet here.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from perf.measure.roofline import Ceilings


@dataclass(frozen=True)
class Datasheet:
    """Holds TFLOP/s and TB/s as printed in `source`. None is not printed there.

    `fp64` is the tensor cores' where they have it, `fp32` the ordinary units', `half` fp16 and bf16 accumulated
    in fp32. `sparse`: `tf32` and `half` are printed with sparsity.
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

DATASHEETS = {  # name of the device: source, TB/s, fp64, fp32, tf32, half
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


def peak(gpu_name: str, dtype: str) -> float | None:
    """Gives the dense FLOP/s of a dtype, or of a label of `rates.labels` such as "fp32-tf32"; None where not known."""
    sheet = datasheet(gpu_name)
    if sheet is None:
        return None
    dense = 0.5 if sheet.sparse else 1.0
    peaks = {"fp64": sheet.fp64, "fp32": sheet.fp32, "fp32-tf32": dense * sheet.tf32,
             "bf16": dense * sheet.half, "fp16": dense * sheet.half}
    teraflops = peaks.get(dtype)
    return None if teraflops is None else teraflops * 1e12


def ceilings(gpu_name: str, labels: Iterable[str]) -> Ceilings | None:
    """Gives the roofline that the datasheet draws, of those `labels` that it prints; None where the table has none.

    `share(floor(w, ceilings(gpu_name, measured.matmul)), seconds)` is a row's share of the datasheet's peak:
    of its bandwidth where bytes bind, of its FLOP/s where FLOPs do.
    """
    sheet = datasheet(gpu_name)
    if sheet is None:
        return None
    peaks = {label: peak(gpu_name, label) for label in labels}
    return Ceilings(sheet.bandwidth * 1e12, {label: rate for label, rate in peaks.items() if rate is not None})


def describe(gpu_name: str) -> str:
    """Writes one line for a report: whose numbers they are, or that there are none."""
    sheet = datasheet(gpu_name)
    if sheet is None:
        return f"no datasheet for {gpu_name}"
    return f"{sheet.source}: {sheet.bandwidth:g} TB/s, bf16 {(peak(gpu_name, 'bf16') or 0) / 1e12:g} TFLOP/s dense"
