"""Plots of an evidence file: what is drawn, how it styles, and what is refused."""
from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest

from perf.__main__ import main
from perf.measure.evidence import Evidence
from perf.report.plot import LIMIT, caption, draw, panels
from perf.report.styles import backend_styles
from perf.report.units import tflops
from perf.system.files import seal
from perf.workloads.workload import Workload

GPU = {"id": "gpu", "gpus": ["NVIDIA H200"], "driver": "580.1", "cuda": "13.0", "cudnn": 91900, "cpu": "Xeon",
       "threads": 16, "torch": "2.11.0", "triton": "3.6.0", "flash-attn": "2.8.3", "python": "3.12.3"}
CPU = {**GPU, "id": "cpu", "gpus": [], "driver": None, "cuda": None, "cudnn": None, "threads": 2}
SOFTMAX = Workload("attention", "softmax", "eager", "forward", True, 1, 8, 8, 512, 512, 64, "bf16")


def measured(backend="eager", n=512, *, speed=1.0, batch=None, machine="gpu", **changes) -> Evidence:
    """Returns a row at `speed` TFLOP/s, by default with batch x n = 4096."""
    w = replace(SOFTMAX, backend=backend, n=n, m=n, batch=batch or 4096 // n, **changes)
    assert w.flops is not None
    seconds = w.flops / speed / 1e12
    return Evidence(w, "ok", samples=(seconds,), median=seconds, flops=w.flops, clock="cuda events", machine=machine)


ROWS = [measured(backend, n, speed=speed * n / 512, causal=causal)
        for causal in (False, True) for backend, speed in (("eager", 1), ("sdpa", 2), ("fa2", 3), ("their-own", 4))
        for n in (512, 1024, 2048)]


def points(rows, **kwargs):
    """Panels as plain data: (n, TFLOP/s) by backend."""
    def plain(points):
        return [(row.workload.n, round(tflops(row) or 0, 6)) for row in points]

    return {shape: {backend: plain(lines[backend]) for backend in lines}
            for shape, lines in panels(rows, **kwargs).items()}


def written(folder, rows, *machines):
    path = folder / "evidence.jsonl"
    records = [json.dumps({"kind": "machine", "schema": 2, **machine}) for machine in machines]
    path.write_text("\n".join([*records, *(seal(row.record()) for row in rows)]) + "\n")
    return path


def test_a_panel_a_shape_and_a_line_a_backend():
    shown = points(ROWS, functions=["softmax"], phase="forward")
    assert [shape.causal for shape in shown] == [True, False]
    for lines in shown.values():
        assert list(lines) == ["eager", "sdpa", "fa2", "their-own"]
        assert lines["fa2"] == [(512, 3.0), (1024, 6.0), (2048, 12.0)]


def test_only_what_can_be_compared_is_drawn():
    others = [measured("sdpa", phase="backward"), measured("sdpa", function="alibi"),
              measured("sdpa", 512, head_dim=128), Evidence(SOFTMAX, "wrong"), Evidence(SOFTMAX, "skipped"),
              measured("flex", model="distilgpt2"), replace(measured(), workload=replace(SOFTMAX, m=4096))]
    assert points([*ROWS, *others], functions=["softmax"], phase="forward") == points(
        ROWS, functions=["softmax"], phase="forward")


def test_the_last_time_counts():
    (lines,) = points([*ROWS[:3], measured("eager", 1024, speed=7.0, causal=False)],
                      functions=["softmax"], phase="forward").values()
    assert lines == {"eager": [(512, 1.0), (1024, 7.0), (2048, 4.0)]}


def test_all_backends_of_a_length_have_the_same_batch():
    rows = [measured(backend, n, batch=batch) for n in (512, 1024) for batch in (1, 2, 4)
            for backend in ("eager", "sdpa") if (backend, n, batch) != ("eager", 1024, 4)]
    (lines,) = panels(rows, ["softmax"], "forward").values()
    assert {backend: [row.workload.batch for row in lines[backend]] for backend in lines} == {
        "eager": [4, 2], "sdpa": [4, 2]}


def test_the_caption_names_machine_versions_and_load():
    first, second = caption(GPU, ROWS).splitlines()
    assert first == ("NVIDIA H200, driver 580.1, CUDA 13.0, cuDNN 91900, torch 2.11.0, triton 3.6.0, "
                     "flash-attn 2.8.3, Python 3.12.3")
    assert second.startswith("batch x n = 4096; medians, cuda events. FLOPs = 4 B H D x visible")
    rows = [measured(n=n, batch=1) for n in (512, 1024)]
    assert caption(CPU, rows).startswith("Xeon, 2 threads, torch 2.11.0, Python 3.12.3\nbatch 1; ")


def test_the_figure_shows_its_panels():
    shown = panels(ROWS, ["softmax"], "forward")
    figure = draw(shown, "where")
    causal, full = figure.axes
    assert causal.get_title() == "softmax forward, causal, 8 heads x 64, bf16"
    assert full.get_title() == "softmax forward, full, 8 heads x 64, bf16"
    assert causal.get_xscale() == "log"
    assert [label.get_text() for label in causal.get_xticklabels()] == ["512", "1K", "2K"]
    assert causal.get_ylim()[0] == 0
    assert causal.get_ylim() == full.get_ylim()
    assert {line.get_color() for line in causal.lines} == {style.light for style in backend_styles(
        {"eager", "sdpa", "fa2", "their-own"}).values()}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["eager", "sdpa", "fa2", "their-own"]
    assert figure.get_facecolor() == (1, 1, 1, 1)


def test_the_limit_is_drawn_where_it_is_known_at_every_length():
    limited = [replace(row, floor=(row.flops or 0) / 8e12) for row in ROWS]
    figure = draw(panels(limited, ["softmax"], "forward"), "where")
    (limit,) = (line for line in figure.axes[0].lines if line.get_color() == LIMIT["color"])
    assert limit.get_xydata() == pytest.approx(np.array([[512, 8.0], [1024, 8.0], [2048, 8.0]]))
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "limit"
    some = [row if row.workload.n == 512 else replace(row, floor=None) for row in limited]
    assert not [line for line in draw(panels(some, ["softmax"], "forward"), "where").axes[0].lines
                if line.get_color() == LIMIT["color"]]


def test_rows_that_are_not_ok_are_not_drawn():
    unfit = [replace(row, outcome="invalid") for row in ROWS]
    assert not panels(unfit, ["softmax"], "forward")


def test_a_png_and_an_svg_are_written_and_the_same_again(tmp_path, capsys):
    evidence = written(tmp_path, [measured(n=n, machine="cpu", speed=50.0) for n in (512, 4096)] + ROWS, CPU, GPU)
    out = tmp_path / "docs" / "softmax.png"
    assert main(["plot", str(evidence), "--function", "softmax", "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out} and {out.with_suffix('.svg')}\n"
    first = [path.read_bytes() for path in (out, out.with_suffix(".svg"))]
    assert first[0].startswith(b"\x89PNG")
    assert ElementTree.fromstring(first[1]).tag.endswith("svg")
    assert b"NVIDIA H200" in first[1]
    assert len(first[1]) < 40_000
    assert b"Xeon" not in first[1]
    assert main(["plot", str(evidence), "--function", "softmax", "-o", str(out)]) == 0
    assert [path.read_bytes() for path in (out, out.with_suffix(".svg"))] == first


@pytest.mark.parametrize(("arguments", "said"), [
    (["--function", "alibi"], "nothing to plot: no alibi forward at two lengths or more; timed there: softmax forward"),
    (["--function", "softmax,alibi"], "nothing to plot: no alibi forward at"),
    (["--phase", "backward"], "nothing to plot: no softmax backward at two lengths or more; timed there: softmax"),
    (["--phase", "dance"], "argument --phase: invalid choice: 'dance'"),
    (["-o", "plot.pdf"], "-o plot.pdf: a PNG and an SVG are written; give a name that ends in .png"),
])
def test_what_cannot_be_drawn_is_one_line(tmp_path, capsys, arguments, said):
    evidence = written(tmp_path, ROWS, GPU)
    assert main(["plot", str(evidence), "-o", str(tmp_path / "x.png"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("python -m perf plot: ")
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(("content", "said"), [
    (None, "evidence.jsonl: No such file or directory; give an evidence file"),
    (b'{"kind": "evid\n', "evidence.jsonl:1: not evidence: "),
    (b"\x89PNG\xff", "evidence.jsonl:1: not evidence: not text"),
    (b"", "evidence.jsonl: nothing to plot: it holds no evidence"),
])
def test_what_is_no_evidence_is_one_line(tmp_path, capsys, content, said):
    path = tmp_path / "evidence.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert main(["plot", str(path), "-o", str(tmp_path / "x.png")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_without_matplotlib_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    evidence = written(tmp_path, ROWS, GPU)
    assert main(["plot", str(evidence), "-o", str(tmp_path / "x.png")]) == 2
    assert capsys.readouterr().err == ("python -m perf plot: matplotlib is missing; "
                                       "pip install 'attention-perf[site]'\n")
