"""Makes HTML and SVG that is escaped by construction: text becomes markup through `tag` only.

A whole page has its own style and script inside it, and a policy that forbids all others, and every request.
"""
from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Collection, Iterable, Sequence

VOID = ("br", "input", "meta")  # elements that have no end


class Markup(str):
    """Is text that is markup already, and so isn't escaped again."""


def escape(text: object) -> Markup:
    """Escapes `text`, quotes too, so that it may stand in an attribute."""
    return text if isinstance(text, Markup) else Markup(html.escape(str(text)))


def join(parts: Iterable[object]) -> Markup:
    """Joins parts, each escaped unless it is markup."""
    return Markup("".join(map(escape, parts)))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Writes `<name attributes>children</name>`.

    A child of None is left out, and so is an attribute of None or False; one of True has no value. In an
    attribute's name "_" stands for "-", and one at its end for nothing (`class_`).
    """
    written_attributes = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(value)}"')
        for key, value in attributes.items() if value is not None and value is not False)
    inside = join(child for child in children if child is not None)
    return Markup(f"<{name}{written_attributes}>" if name in VOID else f"<{name}{written_attributes}>{inside}</{name}>")


def scroll(label: str, *children: object, tall: bool = False) -> Markup:
    """Makes a box in which a wide table scrolls sideways, by the keyboard too."""
    return tag("div", *children, class_="scroll tall" if tall else "scroll", tabindex="0", role="region",
               aria_label=label)


def table(label: str, heads: Sequence[str], rows: Iterable[Markup], *, numbers: Collection[str] = (),
          tall: bool = False) -> Markup:
    """Makes a table that scrolls in its own box; `numbers` are the heads of columns of them."""
    head = tag("tr", *(tag("th", name, scope="col", class_="num" if name in numbers else None) for name in heads))
    return scroll(label, tag("table", tag("thead", head), tag("tbody", *rows)), tall=tall)


def heading(title: str) -> Markup:
    """Makes the title of the page, with the button that changes its theme."""
    return tag("div", tag("h1", title), tag("button", "Theme", type="button", id="theme"), class_="bar")


def document(title: str, *body: Markup | None, style: str, script: str) -> str:
    """Returns a whole HTML page as text, around the children `body` of its body."""
    policy = (f"default-src 'none'; style-src '{digest(style)}'; script-src '{digest(script)}'; "
              "img-src data:; base-uri 'none'; form-action 'none'")
    head = tag("head", tag("meta", charset="utf-8"),
               tag("meta", http_equiv="Content-Security-Policy", content=policy),
               tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
               tag("meta", name="color-scheme", content="light dark"),
               tag("title", title), tag("style", Markup(style)))
    return join([Markup("<!doctype html>\n"),
                 tag("html", head, tag("body", *body, tag("script", Markup(script))), lang="en")])


def digest(text: str) -> str:
    """Names a style or script as a policy does that allows it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
