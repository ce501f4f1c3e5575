"""Datasheets: dense peaks, and no peak for what is not in the table."""
from __future__ import annotations

import pytest

from perf.measure import roofline
from perf.measure.roofline import (
    DATASHEETS,
    Ceilings,
    Floor,
    datasheet_ceilings,
    datasheet_peak,
    describe_datasheet,
    floor,
)
from perf.workloads.workload import Workload

WINDOW = Workload("attention", "sliding-window", "fa2", "forward", True, 1, 16, 16, 16384, 16384, 64, "bf16")


@pytest.mark.parametrize(("name", "dtype", "teraflops"), [
    ("NVIDIA H200", "bf16", 989.5), ("NVIDIA H200", "fp32", 67), ("NVIDIA H200", "fp32-tf32", 494.5),
    ("NVIDIA H200", "fp64", 67), ("NVIDIA H100 80GB HBM3", "fp16", 989.5), ("NVIDIA H100 PCIe", "bf16", 756.5),
    ("NVIDIA H100 NVL", "bf16", 835.5), ("NVIDIA A100-SXM4-80GB", "bf16", 312), ("A100-SXM4-40GB", "fp32-tf32", 156),
    ("NVIDIA L40S", "bf16", 366.5), ("NVIDIA L4", "fp16", 121), ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
    ("NVIDIA B200", "bf16", 2250),
])
def test_peaks_are_dense(name, dtype, teraflops):
    assert datasheet_peak(name, dtype) == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize("name", ["NVIDIA H100", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 D",
                                  "NVIDIA GeForce RTX 4090 Laptop GPU", "AMD Instinct MI300X", ""])
def test_what_only_resembles_a_known_gpu_is_unknown(name):
    assert datasheet_peak(name, "bf16") is None
    assert datasheet_ceilings(name, ["bf16"]) is None
    assert describe_datasheet(name) == f"no datasheet for {name}"


def test_what_a_datasheet_does_not_print_has_no_peak():
    assert datasheet_peak("NVIDIA L4", "fp64") is None
    assert datasheet_peak("NVIDIA H200", "fp8") is None


@pytest.mark.parametrize("name", DATASHEETS)
def test_a_row_holds_together(name):
    """A tensor core takes half the time for half the bits: numbers with and without sparsity aren't mixed."""
    sheet = DATASHEETS[name]
    assert sheet.half / sheet.tf32 == pytest.approx(2, rel=0.03)
    assert 0.1 < sheet.bandwidth < 10  # TB/s
    assert sheet.source in describe_datasheet(f"NVIDIA {name}")
    fp32, tf32, bf16, fp16 = (datasheet_peak(name, dtype) or 0 for dtype in ("fp32", "fp32-tf32", "bf16", "fp16"))
    assert 0 < fp32 <= tf32 < bf16 == fp16


def test_a_row_s_share_of_the_datasheet():
    measured = Ceilings(4.3e12, {"bf16": 790e12, "fp32": 50e12, "fp32-bf16": 60e12})
    drawn = datasheet_ceilings("NVIDIA H200", measured.matmul)
    assert drawn == Ceilings(4.8e12, {"bf16": 989.5e12, "fp32": 67e12})  # of "fp32-bf16" it prints nothing
    assert drawn is not None
    assert floor(WINDOW, drawn) == Floor(134217728 / 4.8e12, "bytes")


def test_the_report_names_its_source():
    assert describe_datasheet("NVIDIA H200") == (
        "NVIDIA H200 Tensor Core GPU datasheet: 4.8 TB/s, bf16 989.5 TFLOP/s dense")
    assert roofline.datasheet("NVIDIA H200") is DATASHEETS["H200"]
