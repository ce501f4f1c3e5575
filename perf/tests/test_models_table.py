"""The tables of models: size and speed in one line, quality with its doubt."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from perf.measure.evidence import Evidence
from perf.report.models_table import lines, notes, percentile, quality
from perf.report.table import table
from perf.report.units import items
from perf.workloads.workload import Workload

VIT = Workload("vit-l16", "softmax", "sdpa", "forward", False, 32, 16, 16, 197, 197, 64, "bf16")
FOUND = {"preset": "vit-digits", "name": "top1", "unit": "points", "better": "higher", "base": 97.5, "new": 97.2,
         "low": -1.1, "high": 0.6, "items": 360, "budget": 0.5, "doubt": None}


def row(median=10e-3, weights=600_000_000, outcome="ok", **fields) -> Evidence:
    of_workload = {name: fields.pop(name) for name in ("quantization", "batch", "dtype") if name in fields}
    w = replace(VIT, **of_workload, compiled="compiled" in fields)
    result: dict[str, Any] = {"kept_bytes": weights, "peak_bytes": weights + 10 ** 7, "error": 1e-2, "bound": 2e-2}
    if outcome == "ok":
        result |= {"median": median, "samples": (median,) * 9 + (2 * median,), "counters": {"launches": 7}}
    return Evidence(w, outcome, **(result | fields))


def said(rows, start: str) -> str:
    return next(line for line in lines(rows, "launches") if line.startswith(f"sdpa bf16{start} "))


PLAIN = row()
COMPILED = row(4e-3, compiled={"cold": 41.25, "warm": 3.1})


def test_smaller_but_slower_stand_in_one_line():
    line = said([PLAIN, row(31e-3, 154_000_000, quantization="bnb-nf4")], " bnb-nf4")
    assert line.endswith("3.9x smaller, 3.1x slower")
    assert line.split()[3:8] == ["32", "31.00", "ms", "1032", "154.0"]


def test_a_compiled_row_shows_what_compiling_took():
    assert said([PLAIN, COMPILED], " compiled").endswith("2.5x faster, compile 41.2/3.1 s")
    cold = row(4e-3, compiled={"cold": 90.0})
    assert said([PLAIN, cold], " compiled").endswith("2.5x faster, compile 90.0/- s")


def test_a_quantised_and_compiled_model_is_compared_with_the_compiled_one():
    both = row(2e-3, 300_000_000, quantization="ao-fp8-dynamic", compiled={"warm": 5.0})
    assert said([PLAIN, COMPILED, both], " ao-fp8-dynamic").endswith("2.0x smaller, 2.0x faster, compile -/5.0 s")
    alone = "".join(line.strip() + " " for line in lines([PLAIN, both], "launches"))
    assert "2.0x smaller, 5.0x faster (eager), compile -/5.0 s" in alone


@pytest.mark.parametrize("other", [{"batch": 1}, {"dtype": "fp16"}, {"outcome": "wrong"}])
def test_only_the_same_model_is_compared(other):
    line = said([row(**other), row(31e-3, quantization="bnb-nf4")], " bnb-nf4")
    assert line.endswith("the plain model was not timed")


@pytest.mark.parametrize(("ratio", "words"), [(1.0, "the same size"), (0.5, "2.0x larger"), (1.05, "1.05x smaller")])
def test_no_difference_is_none(ratio, words):
    assert f"{words}, the same speed" in said(
        [PLAIN, row(weights=round(600_000_000 / ratio), quantization="bnb-int8")], " bnb-int8")


def test_the_spread_is_of_the_samples():
    spread = [line for line in lines([PLAIN], "launches") if line.startswith("sdpa bf16")][1]
    assert spread.split()[2:] == ["32", "11.00", "ms", "15.50", "ms", "19.10", "ms", "10.0", "MB", "7", "0.50", "not",
                                  "measured"]
    samples = np.random.default_rng(0).random(77).tolist()
    for part in (0.5, 0.95, 0.99):
        assert percentile(samples, part) == pytest.approx(np.quantile(samples, part))
    assert percentile([1.0], 0.99) is None


def test_quality_stands_with_its_change_and_doubt():
    assert quality(PLAIN) == "not measured"
    assert quality(row(quality=FOUND)) == "97.20 -0.3 [-1.1, +0.6]"
    message = "360 items can't exclude a loss of 1.1 points; the budget is 0.5"
    doubted = row(quality={**FOUND, "doubt": message}, quantization="bnb-nf4")
    assert quality(doubted).endswith("]?")
    assert f"? bnb-nf4: {message}" in notes([doubted])
    missing = row(quality={"reason": "no trained preset of the family bert"})
    assert quality(missing) == "none: see below"
    assert "no quality: no trained preset of the family bert" in notes([missing])
    assert "(--perf-quality)" in notes([PLAIN])[0]
    assert "(--perf-quality)" not in notes([doubted])[0]


def test_a_row_that_failed_its_gate_shows_no_time():
    lost = row(outcome="wrong", quantization="bnb-nf4", quality=FOUND, reason="loses more quality")
    text = table([PLAIN, lost])
    assert "sdpa bf16 bnb-nf4                    32     WRONG" in text
    assert text.splitlines()[-1] == "wrong: softmax:sdpa: loses more quality, 1 row"


def test_treated_models_stand_in_their_own_table_only():
    text = table([PLAIN, row(31e-3, quantization="bnb-nf4")])
    assert text.count("vit-l16: softmax forward") == 2  # the backends', and this one
    assert "speed, size and quality" in text
    assert max(map(len, text.splitlines())) <= 120


def test_items_are_tokens_of_a_language_model_and_images_else():
    assert items(VIT)[0] == 32
    gpt2 = Workload("gpt2", "softmax", "sdpa", "prefill", True, 2, 12, 12, 1024, 1024, 64, "bf16")
    assert items(gpt2)[0] == 2048
    assert items(replace(gpt2, phase="decode", n=1))[0] == 2
    assert items(replace(gpt2, phase="forward", causal=False)) == (2048, "tokens")


def test_bare_kernels_have_no_such_table():
    bare = Evidence(replace(VIT, model="attention"), "ok", median=1.0)
    assert lines([bare], "launches") == notes([bare]) == []
