"""The front page: what a reader wants to know first, and the way into asv's graphs."""
from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from perf.report.page.markup import Markup, join, tag
from perf.track.site import links

TITLE = "Performance history"
PAGES = {"": "asv's graphs", "summarylist": "asv's list", "regressions": "asv's regressions"}


def page(problems: Sequence[str], with_graphs: bool) -> str:
    """The page as text; `problems` are what couldn't be shown, a line each."""
    style = Markup((files("perf.report.page") / "page.css").read_text(encoding="utf-8"))
    policy = f"default-src 'none'; style-src '{_digest(style)}'; base-uri 'none'; form-action 'none'"
    head = tag("head", tag("meta", charset="utf-8"),
               tag("meta", http_equiv="Content-Security-Policy", content=Markup(policy)),
               tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
               tag("meta", name="color-scheme", content="light dark"), tag("title", TITLE), tag("style", style))
    ways = tag("nav", *(tag("a", text, href=links.page(name)) for name, text in PAGES.items()), class_="bar",
               aria_label="asv's pages")
    body = tag("body", tag("main", tag("header", tag("h1", TITLE), ways if with_graphs else None), _problems(problems)))
    return join([Markup("<!doctype html>\n"), tag("html", head, body, lang="en")])


def _problems(problems: Sequence[str]) -> Markup | None:
    return tag("section", tag("h2", "Not shown"), tag("ul", *(tag("li", problem) for problem in problems)),
               id="problems", class_="problems") if problems else None


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
