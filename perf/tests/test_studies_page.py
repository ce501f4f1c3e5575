"""The studies' page: the whole of docs/studies.md, nothing that it loads, no HTML of others, and links that lead on."""
from __future__ import annotations

import os
from pathlib import Path

import pytest

from perf.studies import page
from perf.tests.html_page import Page

TEXT = page.SOURCE.read_text(encoding="utf-8")


def test_all_rows_and_plots_are_in_the_page_and_every_link_leads_somewhere(tmp_path):
    assert page.main([str(tmp_path / "new" / "studies.html")]) == 0
    shown = Page((tmp_path / "new" / "studies.html").read_text(encoding="utf-8"))
    assert len(shown.rows) == sum(line.startswith("|") and not line.startswith("| ---") for line in TEXT.splitlines())
    assert [image["src"].partition(",")[0] for image in shown.named("img")] == TEXT.count("![") * [
        "data:image/png;base64"]
    links = [link["href"] for link in shown.named("a")]
    assert len(links) == TEXT.count("](") - TEXT.count("![")
    for link in links:
        if link.startswith("#"):
            assert link[1:] in shown.all("id"), link
        elif not link.startswith("https://"):
            assert Path(os.path.normpath(tmp_path / "new" / link.partition("#")[0])).exists(), link
    (policy,) = (meta["content"] for meta in shown.named("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy
    assert "img-src data:" in policy


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>",
                                     "[a](javascript:alert(1))", "| a |\n| --- |\n| <b onclick=x>c</b> |"])
def test_html_and_scripts_in_the_text_stay_text(hostile, tmp_path):
    plain, shown = (Page(page.page(f"# Title\n\n{text}\n", tmp_path, tmp_path)) for text in ("b", hostile))
    new = {name for name, _ in shown.elements} - {name for name, _ in plain.elements}
    assert new <= {"div", "table", "thead", "tbody", "tr", "th", "td"}
    assert not shown.all("onclick") + shown.all("onerror") + shown.named("img") + shown.named("a")
    assert "alert(1)" in shown.text or "onclick" in shown.text
