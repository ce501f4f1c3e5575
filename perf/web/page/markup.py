"""Makes HTML and SVG that is escaped by construction: text becomes markup through `tag` only."""
from __future__ import annotations

import html
from collections.abc import Iterable

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
