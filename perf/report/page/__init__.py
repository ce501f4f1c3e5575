"""One self-contained HTML page of a run's evidence: no request leaves it, and it needs no server.

    python -m perf report .perf/evidence.jsonl -o report.html

What is written is escaped by construction (`markup.tag`), and the page's own policy forbids every
request and every script or style but its own two.
"""
from __future__ import annotations

import argparse
import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from perf.cells import Workload
from perf.measure.evidence import Evidence
from perf.report.command import Parser, read
from perf.report.looks import Look, looks
from perf.report.page import charts, header, reasons, rows_table, summary, sweeps
from perf.report.page.markup import Markup, join, tag
from perf.report.table import Datasheet

TITLE = "Attention performance"


def page(rows: Sequence[Evidence], machines: Mapping[str, Mapping[str, Any]], *,
         fitness: Mapping[str, Any] | None = None, title: str = TITLE, command: str | None = None,
         datasheet: Datasheet | None = None) -> str:
    """The page as text. Of several machines the last one's rows are shown, of several times the last.

    `machines` are fingerprints by id (`evidence.machines`); `fitness` is what more to say of the machine,
    as scalars by name; `command` is what was typed; `datasheet` as in `table`. Raises ValueError if there are no rows.
    """
    if not rows:
        raise ValueError("nothing to report: no evidence; run pytest perf/ --benchmark-only first")
    shown = latest(rows)
    known = looks({row.workload.backend for row in shown})
    numbers = {row.workload: i for i, row in enumerate(shown)}
    problems = reasons.problems(shown, numbers)
    main = (header.header(shown, machines.get(shown[-1].machine, {}), len(rows) - len(shown), fitness, title, command),
            summary.summary(shown, known), problems, sweeps.sweeps(shown, known, numbers),
            rows_table.section(shown, known, datasheet), reasons.skips(shown), reasons.compiled(shown),
            reasons.kernels(shown))
    style, script = Markup(_file("page.css") + _colours(known)), Markup(_file("page.js"))
    policy = (f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
              "base-uri 'none'; form-action 'none'")
    head = tag("head", tag("meta", charset="utf-8"),
               tag("meta", http_equiv="Content-Security-Policy", content=policy),
               tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
               tag("meta", name="color-scheme", content="light dark"),
               tag("title", title), tag("style", style))
    body = tag("body", charts.symbols(known), tag("main", *main), tag("div", id="tip", role="status", hidden=True),
               tag("script", script))
    return join([Markup("<!doctype html>\n"), tag("html", head, body, lang="en")])


def latest(rows: Sequence[Evidence]) -> list[Evidence]:
    """The last measurement of every workload on the machine that measured last, in the order of the first."""
    found: dict[Workload, Evidence] = {}
    for row in rows:
        if row.machine == rows[-1].machine:
            found[row.workload] = row
    return list(found.values())


def write(path: Path, rows: Sequence[Evidence], machines: Mapping[str, Mapping[str, Any]], **options: Any) -> None:
    """Writes `page` with its `options` to `path`. Raises ValueError if there is nothing, or nowhere, to write."""
    text = page(rows, machines, **options)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; name a file that can be written") from error


def report(arguments: Sequence[str]) -> None:
    """Writes the page of an evidence file. Raises ValueError, in one line, for what can't be shown."""
    parser = Parser(prog="python -m perf report", description="a self-contained HTML page of an evidence file")
    parser.add_argument("evidence", type=Path, help="evidence file")
    parser.add_argument("-o", "--output", type=Path, help="the page (default: beside the evidence, ending in .html)")
    parser.add_argument("--title", default=TITLE)
    chosen: argparse.Namespace = parser.parse_args(arguments)
    output = chosen.output or chosen.evidence.with_suffix(".html")
    if output == chosen.evidence:
        raise ValueError(f"-o {output}: is the evidence itself; name another file")
    rows, machines = read(chosen.evidence, "report")
    write(output, rows, machines, title=chosen.title)
    print(output)


def _file(name: str) -> str:
    return (files(__name__) / name).read_text(encoding="utf-8")


def _colours(known: Mapping[str, Look]) -> str:
    return "".join(f".k{i}{{--k:light-dark({look.light},{look.dark})}}\n" for i, look in enumerate(known.values()))


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
