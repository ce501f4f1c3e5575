"""The figures of the front page: the last of every workload at every place, and what derives from them."""
from __future__ import annotations

from dataclasses import replace

import pytest

from perf.history.rows import load
from perf.report.units import items
from perf.tests import front_page, published
from perf.web.site.latest import places

tree = front_page.tree


def test_derived_figures(tree):
    rows = front_page.rows(tree[0])
    newest = {row.workload: row for row in rows if row.place.versions.startswith("torch 2.11")}
    w = published.SOFTMAX[0]
    time = published.seconds(w, published.COMMITS - 1)
    assert newest[w].evidence.median == pytest.approx(time)
    assert newest[w].evidence.flops == w.flops
    assert newest[w].value("track_peak_bytes") == 10 ** 6 * w.n
    assert [items(each) for each in (w, *published.OTHERS[1:])] == [(16384, "tokens"), (8, "tokens"), (32, "images")]
    outcome = front_page.read(rows=rows, places={(row.place.machine, ""): row.place for row in rows})
    wanted = {"1024", "eager", "NVIDIA H200", "torch 2.11.0, python 3.12"}
    result = next(cells for cells in outcome.rows if wanted <= set(cells))
    assert f"{(w.flops or 0) / time / 1e12:#.3g}".rstrip(".") in result
    assert f"{16384 / time / 1e6:#.3g} Mtokens" in result


def test_a_figure_of_an_earlier_commit_than_the_time_is_not_shown_beside_it(tree):
    row = front_page.rows(tree[0])[0]
    older = {**row.lines, "track_peak_bytes": row.lines["track_peak_bytes"][:-1]}
    assert row.value("track_peak_bytes") == 10 ** 6 * row.workload.n
    assert replace(row, lines=older).value("track_peak_bytes") is None
    assert row.value("track_none") is None


def test_lines_do_not_go_over_versions(tree):
    lengths = {(row.place.hardware, row.place.versions): len(row.lines["time_call"])
               for row in front_page.rows(tree[0])}
    before, after = published.UPGRADE, published.COMMITS - published.UPGRADE - 1  # less the commit that failed
    assert lengths[("NVIDIA H200", "torch 2.10.0, python 3.12")] == before
    assert lengths[("NVIDIA H200", "torch 2.11.0, python 3.12")] == after


def test_of_many_environments_the_last_are_shown(tree):
    history = load(tree[0] / "results")
    shown = list(places(tree[0] / "results", history, most=1).values())
    assert [(place.hardware, place.versions) for place in shown] == [
        ("NVIDIA H200", "torch 2.11.0, python 3.12"), ("AMD EPYC", "torch 2.11.0, python 3.12")]


def test_a_gpu_comes_first_whatever_was_measured_last(tree):
    history = load(tree[0] / "results")
    late = [replace(row, measured=2e9) if "epyc" in row.machine else row for row in history.rows]
    assert any(row.measured == 2e9 for row in late)
    shown = places(tree[0] / "results", replace(history, rows=tuple(late)), most=1)
    assert [place.hardware for place in shown.values()] == ["NVIDIA H200", "AMD EPYC"]
