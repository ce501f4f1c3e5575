"""Writes docs/studies.md as one HTML page with its plots in it: `python -m perf.studies.page studies.html`.

The Markdown is the only source: nothing is added but the style of the harness's pages. HTML in it is shown as text,
links lead to the same files from wherever the page lies, and the page asks for nothing.
"""
from __future__ import annotations

import argparse
import base64
import mimetypes
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.packages import needs
from perf.web.page import file
from perf.web.page.markup import Markup, document, tag

if TYPE_CHECKING:
    from markdown_it.token import Token

SOURCE = Path(__file__).parents[2] / "docs" / "studies.md"
STYLE = """
main > p, main > ul { max-width: 90ch; }
main > h2 { margin-top: 44px; }
main > h1, main > pre, .scroll { margin-bottom: 12px; }
pre { overflow: auto; }
img { max-width: 100%; }
.scroll td:nth-last-child(-n+3) { white-space: normal; }
"""
TABLE = Markup('<div class="scroll" tabindex="0" role="region" aria-label="table"><table>')


def page(text: str, folder: Path, out: Path) -> str:
    """Renders Markdown whose links are relative to `folder` as a page that will lie in the folder `out`. Raises OSError
    for a plot that is not there."""
    with needs("markdown-it-py", "to read Markdown", "site"):
        from markdown_it import MarkdownIt
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    for i, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", anchor(tokens[i + 1]))
        for child in token.children or ():
            if child.type == "image":
                child.attrSet("src", inlined(folder / str(child.attrGet("src"))))
            target = str(child.attrGet("href") or "#")
            if not re.match(r"#|\w+:", target):
                child.attrSet("href", Path(os.path.relpath(folder / target, out)).as_posix())
    rules: dict[str, Any] = {"table_open": lambda *_: TABLE, "table_close": lambda *_: "</table></div>"}
    markdown.renderer.rules |= rules  # type: ignore[attr-defined]
    main = Markup(markdown.renderer.render(tokens, markdown.options, {}))
    return document(tokens[1].content, tag("main", main), style=file("perf.web.page", "page.css") + STYLE, script="")


def anchor(heading: Token) -> str:
    """Names a heading as GitHub does, for the links that lead to it."""
    words = "".join(child.content for child in heading.children or ())
    return re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")


def inlined(path: Path) -> str:
    """Gives a picture as an address that holds it."""
    return f"data:{mimetypes.guess_type(path.name)[0]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page."""
    options = argparse.ArgumentParser(prog="python -m perf.studies.page", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path, help="file to write")
    out = options.parse_args(arguments).out
    try:
        text = page(SOURCE.read_text(encoding="utf-8"), SOURCE.parent, out.parent)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        options.error(f"{error.filename}: {error.strerror}")
    print(out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
