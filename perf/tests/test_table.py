"""The summary table, from made-up evidence."""
from __future__ import annotations

from dataclasses import replace

import pytest

from perf.cells import Workload
from perf.measure.evidence import Evidence
from perf.report.table import WIDTH, baseline, seconds, size, table

WORKLOAD = Workload("attention", "softmax", "eager", "forward", True, 1, 8, 8, 512, 512, 64, "fp32")


def row(backend="eager", median=1e-3, outcome="ok", **fields) -> Evidence:
    of_workload = {name: fields.pop(name) for name in list(fields) if name in Workload.__annotations__}
    w = replace(WORKLOAD, backend=backend, **of_workload)
    found = {"flops": 10 ** 9, "bytes": 10 ** 6, "peak_bytes": 12_600_000, "error": 3.1e-7, "bound": 2e-6}
    if outcome == "ok":
        found |= {"median": median, "iqr": median / 10}
    return Evidence(w, outcome, **(found | fields))


def line(text: str, start: str) -> list[str]:
    return next(words for words in map(str.split, text.splitlines()) if words and words[0] == start)


def test_a_row_says_what_was_measured():
    text = table([row(), row("sdpa", 2.5e-4)])
    assert line(text, "sdpa") == ["sdpa", "512", "1", "250.0", "us", "10%", "4.00", "4.00", "4.00", "12.6", "MB",
                                  "3.1e-07", "2.0e-06"]
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
    assert line(text, "flex") == ["flex", "512", "1", "WRONG", "5.0e-01", "2.0e-06"]


def test_an_error_that_is_no_number_is_shown():
    assert "nan" in table([row("flex", outcome="wrong", error=float("nan"))])


def test_skips_are_counted_by_reason():
    reasons = ["softmax:fa2: flash-attn is not installed", "softmax:eager: needs 26 GB, 9 GB are free"]
    rows = [row("fa2", outcome="skipped", reason=reasons[0])] * 9
    rows += [row(outcome="skipped", reason=reasons[1]),
             row(outcome="skipped", reason=reasons[1].replace("26", "104"))]
    assert table(rows).splitlines() == [f"9 skipped: {reasons[0]}", f"2 skipped: {reasons[1]}"]


def test_it_fits_the_width():
    long = {"n": 16384, "m": 131072, "kv_heads": 4, "heads": 128, "batch": 1024, "dtype": "bf16",
            "function": "sliding-window", "phase": "forward-backward", "model": "temporal-fusion-transformer"}
    rows = [row("sdpa-efficient", 12.3, peak_bytes=10 ** 12, flops=10 ** 16, **long),
            row("fa2", outcome="skipped", reason="because of " + "very " * 60 + "much")]
    assert max(map(len, table(rows).splitlines())) <= WIDTH == 120


def test_a_row_measured_in_company_is_marked():
    text = table([row(foreign_cores=0.7, clock="perf_counter"), row("sdpa", clock="perf_counter")])
    assert "1.000 ms!" in text
    assert "! 1 of 2 measured while other processes" in text
    assert "!" not in table([row(foreign_cores=0.7, clock="cuda events, L2 flushed")])


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
