"""Makes the small parts that sections of the front page share."""
from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from perf.web.page.markup import Markup, join, tag


def moment(seconds: float, text: str) -> Markup:
    """Writes a time, beside which the page's script says how long ago that is."""
    return tag("time", text, data_t=f"{seconds:.0f}")


def commit(revision: str, on_page: Collection[str]) -> Markup:
    """Writes a commit by its first digits, as a link if it is among the commits `on_page` (by eight digits) on the
    page."""
    name = revision[:8]
    return tag("a", name, href=f"#commit-{name}") if name in on_page else join([name])


def table(label: str, heads: Sequence[str], rows: Iterable[Markup], *, numbers: Collection[str] = (),
          tall: bool = False) -> Markup:
    """Makes a table that scrolls sideways in its own box, by the keyboard too; `numbers` are the heads of columns of
    them."""
    head = tag("tr", *(tag("th", name, scope="col", class_="num" if name in numbers else None) for name in heads))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll tall" if tall else "scroll",
               tabindex="0", role="region", aria_label=label)
