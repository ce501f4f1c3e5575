"""The table that ends a comparison, as an engineer reads it."""
from __future__ import annotations

import math
from dataclasses import replace

import pytest

from perf.compare.record import Row
from perf.report.table import WIDTH
from perf.report.verdicts import counts, interval, means, table
from perf.verdict.verdict import Verdict
from perf.workloads.workload import BARE, Workload

CELL = Workload(BARE, "softmax", "sdpa", "forward", True, 1, 8, 8, 512, 512, 64, "fp32")
SLOWER = "7.2 % slower [6.1, 8.4], 12 pairs; 3 more launches: aten::clone 12 times, aten::empty_like 4 times"


def row(word: str, ratio: float | None = None, why: str = "", of: Workload = CELL, **changed) -> Row:
    low, high = (ratio * 0.99, ratio * 1.01) if ratio else (None, None)
    verdict = Verdict("ok" if word == "unchanged" else word, ratio, low, high, 12 if ratio else 0, why or word, 0)
    return Row(of, verdict, word, base=1e-3 if ratio else None, head=1e-3 * ratio if ratio else None, **changed)


REGRESSED = row("regressed", 1.072, SLOWER)


def lines(*rows: Row) -> list[str]:
    return table(rows).splitlines()


def test_a_row_shows_base_head_ratio_interval_and_verdict():
    _, header, first, *_ = lines(REGRESSED)
    assert header.split() == ["backend", "n", "b", "base", "head", "ratio", "interval", "verdict", "why"]
    assert first.split()[:12] == ["sdpa", "512", "1", "1.000", "ms", "1.072", "ms", "1.072", "[1.061,", "1.083]",
                                  "regressed", "7.2"]


def test_all_of_the_reason_stands_in_its_column():
    _, header, *shown = lines(REGRESSED)
    column = header.index("why")
    result = shown[:shown.index("")]
    assert len(result) > 1
    assert " ".join(line[column:].strip() for line in result) == SLOWER
    assert all(not line[:column].strip() for line in result[1:])


LONG = replace(CELL, model="tft-160", function="sliding-window", backend="sdpa-efficient", heads=32, kv_heads=8,
               n=16384, m=65536, batch=128, phase="forward-backward")


@pytest.mark.parametrize("ratio", [1e-9, 0.5, 99.9994, 99.9999, 12345.6, 1e9])
def test_it_is_never_wider_than_the_others(ratio):
    many = [replace(CELL, backend=f"backend{i}") for i in range(30)]
    text = table([row("inconclusive", ratio, SLOWER * 3, of=LONG), row("skipped", why=SLOWER * 3),
                  *(row("unchanged", of=w) for w in many)])
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "sdpa-efficient  16384" in text


def test_sections_are_titled_and_rows_ordered_by_length():
    longer, vit = replace(CELL, n=1024, m=1024), replace(CELL, model="vit-b16", causal=False)
    result = lines(row("ok", 1.0, of=longer), row("ok", 1.0), row("ok", 1.0, of=vit))
    assert result[0].strip("- ") == "softmax forward, causal, 8 heads x 64, fp32"
    assert [line.split()[1] for line in result[2:4]] == ["512", "1024"]
    assert result[5].strip("- ") == "vit-b16: softmax forward, full, 8 heads x 64, fp32"


def test_what_was_not_timed_shows_no_time():
    _, _, line, *_ = lines(row("missing", why="the head can't do it: unknown variant"))
    assert line.split()[:9] == ["sdpa", "512", "1", "-", "-", "-", "-", "missing", "the"]


def test_unchanged_and_skipped_are_told_once():
    text = table([row("unchanged"), row("unchanged", of=replace(CELL, n=1024)),
                  row("unchanged", of=replace(CELL, backend="eager")), row("skipped", why="softmax:fa2: no GPU")])
    assert "softmax:sdpa 2, softmax:eager 1" in text
    assert "1 skipped: softmax:fa2: no GPU" in text
    assert "backend " not in text  # no rows


def words(rows):
    return [row.word for row in rows]


def test_counts_name_each_word_the_worst_first():
    rows = [row("ok", 1.0), row("unchanged"), row("unchanged"), REGRESSED, row("wrong")]
    assert counts(words(rows)) == "5 benchmarks: 1 wrong, 1 regressed, 1 ok, 2 ok, unchanged"
    assert counts(["new"]) == "1 benchmark: 1 new"
    assert table(rows, ["a note"]).splitlines()[-2:] == ["a note", counts(words(rows))]


def test_every_word_is_counted():
    from perf.verdict.verdict import WORDS

    rows = [row(word) for word in (*WORDS, "unchanged", "skipped")]
    result = counts(words(rows)).partition(": ")[2].split(", 1 ")
    assert len(result) == len(rows)


def test_a_function_s_line_is_the_geometric_mean_of_what_was_timed():
    rows = [row("ok", 0.5), row("ok", 2.0), row("unchanged"), row("improved", 0.9, of=replace(CELL, function="alibi"))]
    first, second = means(rows)
    assert first == "softmax: 1.000x the base's time (geometric mean), 0.500 to 2.000, 2 benchmarks"
    assert second.startswith("alibi: 0.900x")
    assert second.endswith("1 benchmark")
    assert list(means([row("unchanged"), row("missing")])) == []


def test_an_interval_of_too_few_pairs_is_not_shown():
    unknown = replace(REGRESSED, verdict=replace(REGRESSED.verdict, low=0.0, high=math.inf))
    assert interval(unknown) == "-"
    assert interval(REGRESSED) == "[1.061, 1.083]"
