"""`asv run` starts processes for the selected cells only; it and `asv compare` show no others."""
from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from asv import benchmarks, results, util
from asv.commands import compare, run

from perf.history import asv_run, matrix

PARAMS = [["'eager'", "'sdpa'"], ["512", "1024", "2048"]]


def found(regex=None):
    names = ["attention.Softmax.time_call", "attention.Alibi.time_call", "mine.Other.time_x"]
    conf = SimpleNamespace(benchmark_dir="nowhere")
    listed = [{"name": name, "params": PARAMS, "param_names": ["backend", "n"], "unit": "seconds"} for name in names]
    return asv_run.SelectedBenchmarks(conf, listed, regex=regex)


def chosen():
    return matrix.Matrix("quick", "cpu", [], {"attention.Softmax": [1, 4], "attention.Alibi": []})


def test_selected_cells_are_left():
    selected = found()
    selected.narrow(chosen())
    assert selected.benchmark_selection["attention.Softmax.time_call"] == [1, 4]
    assert set(selected) == {"attention.Softmax.time_call", "mine.Other.time_x"}


def test_what_is_no_series_keeps_its_cells():
    selected = found()
    selected.narrow(chosen())
    assert selected.benchmark_selection["mine.Other.time_x"] == list(range(6))


def test_bench_narrows_further():
    selected = found("eager")
    assert selected.narrow(chosen()) == {"attention.Softmax": [1], "attention.Alibi": []}
    assert selected.benchmark_selection["attention.Softmax.time_call"] == [1]


def test_table_shows_what_was_measured():
    benchmark = {"params": PARAMS, "param_names": ["backend", "n"], "unit": "seconds"}
    values = [math.nan, 0.25, math.nan, math.nan, None, math.nan]
    table = asv_run.shorten(results._format_benchmark_result)
    text = "\n".join(table([(value, None) for value in values], benchmark))
    assert "250ms" in text
    assert "failed" in text
    assert "512" not in text
    assert "2048" not in text


def test_table_of_nothing():
    benchmark = {"params": PARAMS, "param_names": ["backend", "n"], "unit": "seconds"}
    table = asv_run.shorten(results._format_benchmark_result)
    assert table([(math.nan, None)] * 6, benchmark) == ["nothing could be measured here"]


def test_compare_shows_what_was_measured():
    values = [math.nan, 0.25, math.nan, math.nan, None, math.nan]  # None failed
    cells = asv_run.measured(compare.unroll_result)("Softmax", PARAMS, values, None, None)
    assert list(cells) == [("Softmax('eager', 1024)", 0.25, None, None), ("Softmax('sdpa', 1024)", None, None, None)]


def test_installed_once(monkeypatch):
    monkeypatch.setattr(run, "Benchmarks", benchmarks.Benchmarks)
    monkeypatch.setattr(results, "_format_benchmark_result", results._format_benchmark_result)
    monkeypatch.setattr(compare, "unroll_result", compare.unroll_result)
    asv_run.install()
    table, unroll = results._format_benchmark_result, compare.unroll_result
    asv_run.install()
    assert run.Benchmarks is asv_run.SelectedBenchmarks
    assert results._format_benchmark_result is table
    assert compare.unroll_result is unroll


def test_another_asv_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(run, "Benchmarks", object())
    with pytest.raises(util.UserError, match=r"install asv 0\.6\.6$"):
        asv_run.install()
