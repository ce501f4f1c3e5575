"""The front page of the published history (published.py), as fixtures, and of contents that a test makes up."""
from __future__ import annotations

from pathlib import Path

import pytest

from perf.history.rows import load
from perf.tests import published
from perf.tests.html_page import Page
from perf.web.site import build
from perf.web.site.front import Contents, page
from perf.web.site.graphs import Graphs
from perf.web.site.latest import Latest, latest, places


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Gives a folder with the repository, its history and two nights of one machine, and its commits."""
    folder = tmp_path_factory.mktemp("tree")
    hashes = published.tree(folder)
    published.night(hashes, time=published.START).save(folder / "nights" / "first.json")
    return folder, hashes


@pytest.fixture(scope="module")
def site(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    assert build(published.CONFIG, tree[0], tree[0] / "results", tree[0] / "nights", out) == ([], True)
    return out


@pytest.fixture(scope="module")
def shown(site):
    return Page((site / "index.html").read_text(encoding="utf-8"))


def rows(folder: Path) -> list[Latest]:
    """Returns the last figures in the folder's history."""
    history = load(folder / "results")
    return latest(history, places(folder / "results", history))


def read(project: str = "a project", **contents) -> Page:
    """Returns the page that shows these, where asv has published nothing."""
    return Page(page(Contents(project, Graphs(Path("none")), **contents)))
