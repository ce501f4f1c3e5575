"""`python -m perf variants`: the registry as a table."""
from __future__ import annotations

import attention
from attention.registry import functions
from perf.__main__ import main
from perf.report.variants import HEADER, table


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_function_and_backend_is_in_the_table():
    header, rule, *rows = map(cells, table().splitlines())
    assert tuple(header) == HEADER
    assert set(rule) == {"---"}
    assert [row[0].strip("`") for row in rows] == list(functions())
    for function, kind, _, _, backends in rows:
        name = function.strip("`")
        assert kind == functions()[name].kind
        assert [f"{name}:{backend.strip(' `')}" for backend in backends.split(",")] == attention.names(name)


def test_papers_are_links_and_options_have_their_defaults():
    row = next(row for row in map(cells, table().splitlines()) if row[0] == "`sliding-window`")
    assert row[2] == "[arXiv 2004.05150](https://arxiv.org/abs/2004.05150)"
    assert row[3] == "`window=256`"


def test_the_command_prints_it_and_takes_no_argument(capsys):
    assert main(["variants"]) == 0
    assert capsys.readouterr().out == table() + "\n"
    assert main(["variants", "all"]) == 2
    assert capsys.readouterr().err == "python -m perf variants: unknown argument 'all'; it takes none\n"
