"""The summary table, from made-up evidence."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import attention
from perf.measure.evidence import Evidence
from perf.report.table import WIDTH, baseline, groups, reasons_for_no_time, table
from perf.report.units import error_ratio, number, percent, seconds, share, size
from perf.workloads.workload import Workload

WORKLOAD = Workload("attention", "softmax", "eager", "forward", True, 1, 8, 8, 512, 512, 64, "fp32")


def row(backend="eager", median=1e-3, outcome="ok", **fields) -> Evidence:
    of_workload = {name: fields.pop(name) for name in list(fields)
                   if name in Workload.__annotations__ and not isinstance(fields[name], dict)}
    w = replace(WORKLOAD, backend=backend, **of_workload)
    result = {"flops": 10 ** 9, "bytes": 10 ** 6, "peak_bytes": 12_600_000, "error": 3.1e-7, "bound": 2e-6}
    if outcome == "ok":
        result |= {"median": median, "iqr": median / 10, "interval": 0.003}
    return Evidence(w, outcome, **(result | fields))


def line(text: str, start: str) -> list[str]:
    return next(words for words in map(str.split, text.splitlines()) if words and words[0] == start)


def test_a_row_says_what_was_measured():
    text = table([row(), row("sdpa", 2.5e-4, floor=1e-4, limit="FLOPs", counters={"launches": 3, "memcpys": 1})])
    assert line(text, "sdpa") == ["sdpa", "512", "1", "250.0", "us", "0.3%", "4.00", "4.00", "4.00", "40%", "F", "3",
                                  "12.6", "MB", "3.1e-07", "0.15"]
    assert line(text, "eager")[9:12] == ["-", "-", "12.6"]
    assert line(text, "eager")[6] == "1.00*"
    assert "softmax forward, causal, 8 heads x 64, fp32" in text
    assert "FLOPs = 4 B H D x visible query-key pairs; backward 2.5x" in text


@pytest.mark.parametrize("change", [
    {"function": "alibi"}, {"phase": "backward"}, {"causal": False}, {"heads": 4, "kv_heads": 4}, {"head_dim": 128},
    {"dtype": "bf16"}, {"model": "gpt2"}, {"m": 1024}, {"n": 1024, "m": 1024}, {"batch": 2}])
def test_only_the_same_workload_is_compared(change):
    text = table([row("eager", 1e-3), row("sdpa", 1e-4, **change)])
    assert line(text, "sdpa")[6] == "1.00*"  # its own baseline


def test_rows_of_one_section_stand_by_length_and_batch():
    text = table([row(n=n, m=n, batch=b) for n, b in ((2048, 1), (512, 2), (512, 1))])
    assert [words.split()[1:3] for words in text.splitlines() if words.startswith("eager")] == [
        ["512", "1"], ["512", "2"], ["2048", "1"]]
    assert text.count("softmax forward") == 1


def test_the_baseline_is_eager_else_sdpa_else_the_first():
    flash, sdpa, eager = row("sdpa-flash"), row("sdpa"), row("eager")
    assert baseline([flash, sdpa, eager]) is eager
    assert baseline([flash, sdpa]) is sdpa
    assert baseline([flash]) is flash
    assert baseline([row(outcome="wrong"), flash]) is flash
    assert baseline([row(outcome="wrong")]) is None


def test_a_wrong_variant_shows_its_error_and_no_time():
    text = table([row(), row("flex", outcome="wrong", reason="flex is numerically wrong", error=0.5)])
    assert line(text, "flex") == ["flex", "512", "1", "WRONG", "5.0e-01", "250000"]


def test_an_error_that_is_no_number_is_shown():
    assert "nan" in table([row("flex", outcome="wrong", error=float("nan"))])


def test_skips_are_counted_by_reason():
    reasons = ["softmax:fa2: flash-attn is not installed", "softmax:eager: needs 26 GB, 9 GB are free"]
    rows = [row("fa2", outcome="skipped", reason=reasons[0])] * 9
    rows += [row(outcome="skipped", reason=reasons[1]),
             row(outcome="skipped", reason=reasons[1].replace("26", "104"))]
    assert table(rows).splitlines() == ["skipped: fa2: flash-attn is not installed, 9 rows",
                                        "skipped: eager: needs 26 GB, 9 GB are free, 2 rows"]


def test_what_only_a_gpu_runs_is_one_reason():
    """Its backends say so in different words."""
    rows = []
    for name in attention.names("softmax"):
        why = attention.why_not(name, device="cpu", dtype=torch.float32, head_dim=64, causal=False)
        if why and "GPU" in why:
            rows.append(row(name.partition(":")[2], outcome="skipped", reason=why))
    assert len({(r.reason or "").partition(": ")[2] for r in rows}) > 2
    line = " ".join(reasons_for_no_time(rows))
    assert line.startswith("skipped: ")
    assert line.endswith(f": each needs a CUDA GPU, {len(rows)} rows")
    assert "fa2, fa3, fa4" in line
    assert reasons_for_no_time(rows[:1])[0].endswith("needs a CUDA GPU, 1 row")


def test_a_reason_reads_right_for_one_backend_and_for_several():
    rows = [row(name, outcome="wrong", reason=f"softmax:{name} is numerically wrong: out 0.{i}")
            for i, name in enumerate(("eager", "sdpa"), 2)]
    assert reasons_for_no_time(rows[:1]) == ["wrong: softmax:eager is numerically wrong: out 0.2, 1 row"]
    assert reasons_for_no_time(rows) == [
        "wrong: softmax:eager, softmax:sdpa: each is numerically wrong: out 0.2, 2 rows"]
    ran = [replace(one, reason=f"softmax:{one.workload.backend} (forward) ran mm") for one in rows]
    assert reasons_for_no_time(ran) == ["wrong: softmax:eager, softmax:sdpa (forward) ran mm, 2 rows"]


def test_it_fits_the_width():
    long = {"n": 16384, "m": 131072, "kv_heads": 4, "heads": 128, "batch": 1024, "dtype": "bf16",
            "function": "sliding-window", "phase": "forward-backward", "model": "temporal-fusion-transformer"}
    rows = [row("sdpa-efficient", 12.3, peak_bytes=10 ** 12, flops=10 ** 16, floor=12.7, limit="bytes", interval=1.234,
                counters={"operators": 123456}, compiled={"cold": 1234.5, "warm": 987.6}, error=3e-10, bound=1e-20,
                clock="perf_counter", foreign_cores=9.0, **long),
            row("fa2", outcome="skipped", reason="because of " + "very " * 60 + "much"),
            row("fa2", no_graph="because of " + "very " * 60 + "much")]
    assert max(map(len, table(rows, lambda row: 12.9 if row.floor else None).splitlines())) <= WIDTH == 120


def test_a_row_measured_in_company_is_marked():
    text = table([row(foreign_cores=0.7, clock="perf_counter"), row("sdpa", clock="perf_counter")])
    assert "1.000 ms!" in text
    assert "! 1 of 2 is doubtful: other processes kept more than 0.1 of a core busy" in text
    assert "!" not in table([row(foreign_cores=0.7, clock="cuda events, L2 flushed")])
    kept = table([row(reason="the GPU throttled")])
    assert "1.000 ms!" in kept
    assert "! 1 of 1 is doubtful: the GPU throttled" in kept


def test_unknown_flops_are_a_dash():
    assert line(table([row(flops=None, bytes=None)]), "eager")[7:9] == ["-", "-"]


def test_nothing_measured_is_nothing():
    assert table([]) == ""


@pytest.mark.parametrize(("value", "text"), [(2.5, "2.500 s"), (1.234e-3, "1.234 ms"), (9.87e-6, "9.870 us"),
                                             (0.1234, "123.4 ms")])
def test_seconds(value, text):
    assert seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (26e9, "26.0 GB"), (3_100_000, "3.1 MB"), (512, "0.5 kB")])
def test_size(value, text):
    assert size(value) == text


def test_an_unfit_row_shows_no_time_and_is_nobodys_baseline():
    reason = "the GPU throttled in 3 of 9 readings"
    unfit = replace(row("eager", outcome="invalid", reason=reason), median=1e-3)
    text = table([unfit, row("fa2", 5e-4)])
    assert line(text, "eager") == ["eager", "512", "1", "INVALID", "3.1e-07", "0.15"]
    assert line(text, "fa2")[6] == "1.00*"
    assert text.splitlines()[-1] == f"invalid: softmax:eager: {reason}, 1 row"


def test_rows_without_a_time_are_counted_by_outcome_and_reason():
    rows = [row("fa2", outcome="failed", reason="RuntimeError: no"),
            row("flex", outcome="wrong", reason="flex: dq 0.2"),
            row("flex", outcome="wrong", reason="flex: dq 0.3", n=64), row("sdpa", outcome="skipped")]
    assert table(rows).splitlines()[-3:] == ["skipped: sdpa: no reason given, 1 row",
                                             "failed: softmax:fa2: RuntimeError: no, 1 row",
                                             "wrong: softmax:flex: flex: dq 0.2, 2 rows"]


def test_on_the_cpu_operators_are_counted():
    assert "operators" in table([row(counters={"operators": 7})])
    assert "launches" in table([row(counters={"launches": 7, "operators": 9})])
    assert line(table([row(counters={"operators": 7})]), "eager")[10] == "7"


def test_the_datasheets_share_is_a_column_where_it_is_known():
    text = table([row(median=1e-3)], lambda row: 2.5e-4)
    assert line(text, "eager")[10] == "25%"
    assert "peak = datasheet's least time / time" in text
    assert " peak" not in table([row()])


@pytest.mark.parametrize(("fields", "said"), [
    ({"ended": "budget"}, "1 of 2 ended by the time budget"),
    ({"no_graph": "flash-attn copies"}, "1 of 2 timed by events: no graph: flash-attn copies"),
    ({"loose": {"dk": "3% of the rows are small"}},
     "1 of 2 is allowed errors above a tenth of a value: dk, where 3% of the rows are small"),
    ({}, "limit is -: this machine's copy and matmul ceilings were not measured"),
])
def test_what_to_mind_is_said_below_the_table(fields, said):
    assert said in table([row("sdpa"), row(**fields)])
    assert said not in table([row("sdpa", floor=1e-4, limit="bytes"), row(floor=1e-4, limit="bytes")])


def test_compile_seconds_stand_apart_from_run_time():
    rows = [row("flex", n=n, m=n, compiled={"cold": cold, "warm": 0.5, "recompiles": 1})
            for n, cold in ((512, 4.0), (1024, 8.0))]
    text = table([row(), *rows, row("flex", phase="backward", compiled={"cold": 2.0})])
    assert line(text, "softmax:flex") == ["softmax:flex", "forward", "2", "4.0-8.0", "(12.0)", "0.5", "(1.0)", "2"]
    assert [words.split() for words in text.splitlines() if "flex backward" in words] == [
        ["softmax:flex", "backward", "1", "2.0", "-", "0"]]
    assert "compile seconds" not in table([row()])


def test_groups_hold_what_may_be_compared():
    rows = [row("eager"), row("sdpa"), row("eager", batch=2), row("eager", phase="backward")]
    assert [[r.workload.backend for r in group] for group in groups(rows)] == [["eager", "sdpa"], ["eager"], ["eager"]]


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0004, "0.04%"), (0.003, "0.3%"), (0.02, "2.0%"),
                                             (0.5, "50%"), (1.04, "104%")])
def test_percent(value, text):
    assert percent(value) == text


@pytest.mark.parametrize(("error", "bound", "ratio"), [(None, 1.0, None), (1.0, 2.0, 0.5), (0.0, 0.0, 0.0),
                                                       (0.1, 0.0, float("inf"))])
def test_error_ratio(error, bound, ratio):
    assert error_ratio(row(error=error, bound=bound)) == ratio


def test_share_is_of_the_floor():
    assert share(row(median=4.0, floor=1.0)) == 0.25
    assert share(row(outcome="wrong", floor=1.0)) is None


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (12.345, "12.3"), (100.4, "100"), (4321.0, "4321"),
                                             (1.2e7, "1e+07"), (1.2e-5, "1e-05"), (0.0, "0.00"), (float("inf"), "inf")])
def test_number(value, text):
    assert number(value) == text


def test_where_the_time_goes_is_a_line_a_row():
    text = table([row(kernel_shares={"aten::bmm": 0.7}),
                  row("sdpa", model="tft-160", kernel_shares={"void at::native::upsample_linear1d<float>(int)": 0.96},
                      attention_share=0.031)])
    assert line(text, "softmax:eager")[1:] == ["forward", "causal", "fp32", "512", "1", "bmm", "70%"]
    assert line(text, "tft-160")[1:] == ["softmax:sdpa", "forward", "fp32", "512", "1", "3.1%", "upsample_linear1d",
                                         "96%^"]
    assert "^ marks one that is no matrix product" in " ".join(text.split())
