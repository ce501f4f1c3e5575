"""The short table of a run of many rows, from made-up evidence."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

from perf.measure.evidence import Evidence
from perf.report.short import lines
from perf.workloads.workload import Workload

KERNEL = Workload("attention", "softmax", "eager", "forward", True, 1, 8, 8, 512, 512, 64, "fp32")
MODEL = replace(KERNEL, model="tft-160", n=24, m=192)


def row(w: Workload, median: float = 1e-3, outcome: str = "ok", **fields) -> Evidence:
    result: dict[str, Any] = {"median": median, "interval": 0.01} if outcome == "ok" else {}
    return Evidence(w, outcome, **result, **fields)


def words(rows: list[Evidence]) -> list[list[str]]:
    return [line.split() for line in lines(rows)]


def test_the_fastest_leads_and_the_others_have_their_factor():
    shown = words([row(KERNEL, 3e-3), row(replace(KERNEL, backend="sdpa"), 1e-3, floor=5e-4, limit="FLOPs",
                                          kernel_shares={"aten::bmm": 0.61})])
    assert shown[0][:6] == ["kernels:", "8", "heads", "x", "64,", "fp32"]
    assert shown[1] == ["softmax", "forward,", "causal", "512", "1", "sdpa", "1.000", "ms", "1.0%", "50%", "F", "bmm",
                        "61%"]
    assert shown[2] == ["eager", "3.00"]


def test_only_the_same_workload_is_compared():
    shown = words([row(KERNEL, 3e-3), row(replace(KERNEL, causal=False), 1e-3)])
    assert len([line for line in shown if line and line[0] == "softmax"]) == 2


def test_the_others_stand_below_the_fastest():
    backends = ("sdpa", "sdpa-math", "sdpa-flash", "tiled", "flex", "fa2", "fa3")
    shown = lines([row(KERNEL), *(row(replace(KERNEL, backend=name), 2e-3) for name in backends)])
    assert max(map(len, shown)) <= 120
    assert shown[2].strip().startswith("sdpa 2.00, sdpa-math 2.00, ")


def test_a_wrong_row_says_so_and_one_in_company_is_marked():
    shown = words([row(KERNEL, foreign_cores=1.0, clock="perf_counter"),
                   row(replace(KERNEL, backend="flex"), outcome="wrong")])
    assert "ms!" in shown[1]
    assert shown[2] == ["flex", "WRONG"]
    assert words([row(KERNEL, outcome="invalid")])[1][-2:] == ["eager", "INVALID"]


def test_a_model_has_attentions_share_and_a_treated_one_what_it_was_done_to():
    treated = replace(MODEL, quantization="ptq-int8")
    shown = words([row(MODEL, 2e-3, attention_share=0.031, kept_bytes=4000, kernel_shares={"aten::copy_": 0.96}),
                   row(treated, 1e-3, kept_bytes=1000)])
    assert shown[1][-3:] == ["3.1%", "copy_", "96%^"]
    assert shown[2][:4] == ["tft-160", "forward,", "ptq-int8", "24/192"]
    assert "4.0x smaller, 2.0x faster" in lines([row(MODEL, 2e-3, kept_bytes=4000), row(treated, kept_bytes=1000)])[3]


def test_nothing_tried_is_nothing():
    assert lines([row(KERNEL, outcome="skipped", reason="no GPU")]) == []
