"""A page as a test reads it."""
from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """Collects all elements with their attributes, the text outside style and script, whole and by section, and tables'
    rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.sections: dict[str, str] = {}  # by id, in their order
        self.rows: list[list[str]] = []
        self._inside: list[str] = []
        self._section = ""
        self.feed(text)
        self.text = " ".join(self.words)

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        self._inside.append(name)
        if name == "section":
            self._section = dict(attributes).get("id") or ""
        if name == "tr":
            self.rows.append([])
        if name in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, name):
        while self._inside and self._inside.pop() != name:
            pass

    def handle_data(self, data):
        if self._inside and self._inside[-1] in ("style", "script"):
            return
        self.words.append(data)
        if self._section:
            self.sections[self._section] = f"{self.sections.get(self._section, '')}{data} "
        if self.rows and {"td", "th"} & set(self._inside):
            self.rows[-1][-1] += data

    def named(self, name):
        return [attributes for element, attributes in self.elements if element == name]

    def all(self, attribute):
        return [value for _, attributes in self.elements if (value := attributes.get(attribute)) is not None]
