"""Writes one self-contained HTML page of a run's evidence: no request leaves it, and it needs no server.

    python -m perf report .perf/evidence.jsonl -o report.html

What is written is escaped by construction (`markup.tag`), and the page's own policy forbids every
request and every script or style but its own two.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from perf.measure.evidence import Evidence
from perf.report.styles import Style, backend_styles, treatment_styles
from perf.report.table import Datasheet, latest
from perf.web.page import charts, header, reasons, rows_table, summary, sweeps
from perf.web.page.markup import Markup, document, tag

TITLE = "Attention performance"


def page(rows: Sequence[Evidence], machines: Mapping[str, Mapping[str, Any]], *,
         title: str = TITLE, command: str | None = None, datasheet: Datasheet | None = None) -> str:
    """Returns the page as text. It shows the last machine's rows, and of each workload the last time.

    `machines` are fingerprints by id (`evidence.machines`); `command` is what was typed; `datasheet` as in `table`.
    Raises ValueError if there are no rows.
    """
    if not rows:
        raise ValueError("nothing to report: no evidence; run pytest perf/ --benchmark-only first")
    shown = latest(rows)
    backends = backend_styles({row.workload.backend for row in shown})
    styles = {**backends, **treatment_styles(sweeps.treatment_names(shown))}  # a class of colour each
    numbers = {row.workload: i for i, row in enumerate(shown)}
    problems = reasons.problems(shown, numbers)
    main = (header.header(shown, machines.get(shown[-1].machine, {}), len(rows) - len(shown), title, command),
            summary.summary(shown, styles), problems, sweeps.sweeps(shown, backends, numbers),
            sweeps.speed_against_size(shown, styles, numbers),
            rows_table.section(shown, styles, datasheet), reasons.skips(shown), reasons.compile_seconds(shown),
            reasons.kernels(shown))
    return frame(title, styles, *main)


def frame(title: str, styles: Mapping[str, Style], *main: Markup | None, style: str = "", script: str = "") -> str:
    """Returns the page around its sections `main`, with the markers and colours of `styles`, and as text more `style`
    and `script` than the page's own."""
    colours = (f".k{i}{{--k:light-dark({one.light},{one.dark})}}\n" for i, one in enumerate(styles.values()))
    return document(title, charts.symbols(styles), tag("main", *main), tag("div", id="tip", role="status", hidden=True),
                    style=file(__name__, "page.css") + style + "".join(colours),
                    script=file(__name__, "page.js") + script)


def write(path: Path, rows: Sequence[Evidence], machines: Mapping[str, Mapping[str, Any]], **options: Any) -> None:
    """Writes `page` with its `options` to `path`. Raises ValueError if there is nothing, or nowhere, to write."""
    text = page(rows, machines, **options)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; name a file that can be written") from error


def file(package: str, name: str) -> str:
    """Returns the text of a style sheet or script."""
    return (files(package) / name).read_text(encoding="utf-8")
