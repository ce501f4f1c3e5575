"""`python -m perf variants`: the registry as a table, and where a function wins by the evidence."""
from __future__ import annotations

from dataclasses import replace

import pytest

import attention
from attention.registry import functions
from perf.__main__ import main
from perf.measure.evidence import Evidence, Writer
from perf.report import docs
from perf.report.docs import HEADER, variants_table, wins
from perf.workloads.workload import Workload

CELL = Workload("attention", "softmax", "eager", "forward", True, 1, 8, 8, 512, 512, 64, "bf16")


def row(function: str, backend: str, n: int, seconds: float, **changed) -> Evidence:
    w = replace(CELL, function=function, backend=backend, n=n, m=n, **changed)
    return Evidence(w, "ok", samples=(seconds,), median=seconds)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_function_and_backend_is_in_the_table():
    header, rule, *rows = map(cells, variants_table().splitlines())
    assert tuple(header) == HEADER
    assert set(rule) == {"---"}
    assert [row[0].strip("`") for row in rows] == list(functions())
    for function, kind, _, cost, backends, won in rows:
        name = function.strip("`")
        assert (kind, cost) == (functions()[name].kind, functions()[name].cost)
        assert [f"{name}:{backend.strip(' `')}" for backend in backends.split(",")] == attention.names(name)
        assert won == "-"  # no evidence was given


def test_papers_are_links():
    row = next(row for row in map(cells, variants_table().splitlines()) if row[0] == "`sliding-window`")
    assert row[2] == "[arXiv 2004.05150](https://arxiv.org/abs/2004.05150)"


SOFTMAX = [row("softmax", "eager", n, 9.0) for n in (512, 1024, 2048)] + [
    row("softmax", "sdpa", n, 1.0) for n in (512, 1024, 2048)]


@pytest.mark.parametrize(("seconds", "told"), [
    ((2.0, 0.8, 0.5), "from 1024: 2.0x at 2048"), ((0.5, 0.5, 0.25), "from 512: 4.0x at 2048"),
    ((2.0, 2.0, 1.0), "never (to 2048)"), ((0.5, 2.0, 0.5), "from 2048: 2.0x at 2048")])
def test_a_function_wins_from_the_length_after_which_it_never_loses(seconds, told):
    mine = [row("linear", "chunked", n, s) for n, s in zip((512, 1024, 2048), seconds, strict=True)]
    assert wins([*SOFTMAX, *mine, row("linear", "eager", 2048, 100.0)]) == {"linear": told}


@pytest.mark.parametrize("changed", [{"causal": False}, {"batch": 2}, {"head_dim": 128}, {"dtype": "fp32"}])
def test_only_the_same_shape_is_compared(changed):
    assert wins([*SOFTMAX, row("linear", "chunked", 512, 0.1, **changed)]) == {}


def test_a_wrong_row_wins_nothing():
    wrong = replace(row("linear", "chunked", 512, 0.1), outcome="wrong")
    assert wins([*SOFTMAX, wrong]) == {}


def test_the_command_reads_the_record_or_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(docs, "RECORDS", tmp_path / "none")
    assert main(["variants"]) == 0
    assert capsys.readouterr().out == variants_table() + "\n"
    path = tmp_path / "some.jsonl"
    writer = Writer(path)
    for one in [*SOFTMAX, row("linear", "chunked", 512, 0.5)]:
        writer.append(one)
    assert main(["variants", str(path)]) == 0
    assert "from 512: 2.0x at 512" in capsys.readouterr().out
    assert main(["variants", str(tmp_path / "other")]) == 2
    assert "no such file" in capsys.readouterr().err
    writer = Writer(tmp_path / "faster.jsonl")
    writer.append(row("linear", "chunked", 2048, 0.25))
    assert main(["variants", str(path), str(writer.path)]) == 0
    assert "from 512: 4.0x at 2048" in capsys.readouterr().out
