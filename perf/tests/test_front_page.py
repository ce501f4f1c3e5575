"""The front page: what stands on it, in which order, and that all of it is its own."""
from __future__ import annotations

import re
from dataclasses import replace

from perf.tests import front_page, published
from perf.tests.html_page import Page
from perf.web.page.markup import digest
from perf.web.site import asv_pages, build, commits

tree, site, shown = front_page.tree, front_page.site, front_page.shown


def test_what_regressed_comes_first(shown):
    assert [*shown.sections] == ["summary", "night", "steps", "sweeps", "rows", "commits"]
    words = [name.removeprefix("word ") for name in shown.all("class") if name.startswith("word ")]
    assert words == ["wrong", "regressed", "invalid", "missing", "inconclusive", "improved", "new", "ok", "unchanged",
                     "skipped"]


def test_a_chart_is_of_one_place(shown):
    place, drawn = None, []
    rows = {a["id"]: (a["data-hardware"], a["data-versions"]) for a in shown.named("tr") if "data-hardware" in a}
    for name, attributes in shown.elements:
        if name == "div" and "data-hardware" in attributes:
            place = (attributes["data-hardware"], attributes["data-versions"])
        if attributes.get("class") == "pt":
            drawn.append(place)
            assert rows[f"r{attributes['data-r']}"] == place
    assert len(drawn) == 2 * (len(published.SOFTMAX) + len(published.ON_CPU))


def test_freshness(shown):
    result = re.sub(r"\s+", " ", shown.sections["summary"])
    assert f"{published.COMMITS - 1} of {published.COMMITS} commits measured, 1 failed" in result
    last = published.START + (published.COMMITS - 1) * published.DAY + 3600
    assert str(last) in shown.all("data-t"), "the tile says when it was measured, its script how long ago"


def test_filters_name_every_machine_and_version(shown):
    options = [attributes["value"] for attributes in shown.named("option")]
    assert options == ["", "NVIDIA H200", "AMD EPYC", "", "torch 2.11.0, python 3.12", "torch 2.10.0, python 3.12"]
    rows = [attributes for attributes in shown.named("tr") if "data-hardware" in attributes]
    assert len(rows) == 2 * (len(published.SOFTMAX) + len(published.OTHERS) + len(published.ON_CPU))
    chosen = [attributes["value"] for attributes in shown.named("option") if "selected" in attributes]
    assert chosen == ["NVIDIA H200", "torch 2.11.0, python 3.12"]


def test_its_policy_allows_its_own_script_and_style_and_no_other(site, shown):
    text = (site / "index.html").read_text(encoding="utf-8")
    (policy,) = [meta["content"] for meta in shown.named("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for element in ("style", "script"):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.S)
        assert f"{element}-src '{digest(content)}'" in policy
    assert asv_pages.external("index.html", text) == []


def test_hostile_text_stays_text(tree):
    hostile = '</script><script>alert(1)</script>"\'><img src=x onerror=alert(1)>'
    night = published.night(tree[1])
    finding = replace(night.findings[0], benchmark=hostile, why=hostile, author=hostile, subject=hostile, since=hostile)
    night = replace(night, findings=(finding,), head=hostile, base=hostile, command=hostile, notes=(hostile,),
                    vanished=(hostile,), fingerprint={"gpus": [hostile], "torch": hostile})
    state = commits.State(commits.Commit("0" * 40, 0.0, hostile, hostile), {}, hostile)
    result = front_page.read(project=hostile, nights=[night], states=[state], problems=[hostile])
    assert len(result.named("script")) == 1
    assert not result.named("img")
    assert result.text.count(hostile) > 10


def test_nothing_yet():
    empty = front_page.read()
    assert "No night has been recorded yet." in empty.sections["night"]
    assert [*empty.sections] == ["summary", "night"]
    assert not [address for address in empty.all("href") if not address.startswith("#")]


def test_nights_without_a_history(tree, tmp_path):
    problems, whole = build(published.CONFIG, tree[0], tmp_path / "nothing", tree[0] / "nights", tmp_path / "out")
    assert not whole
    assert len(problems) == 1
    shown = Page((tmp_path / "out" / "index.html").read_text())
    assert "1 regressed" in shown.sections["night"]
    assert "no history yet" in shown.sections["problems"]
    assert not [address for address in shown.all("href") if not address.startswith("#")]


def test_without_asv_the_nights_are_shown(tree, tmp_path, monkeypatch):
    for module in ("perf.web.site", "perf.web.site.front"):
        monkeypatch.setattr(f"{module}.find_spec", lambda name: None)
    problems, whole = build(published.CONFIG, tree[0], tree[0] / "results", tree[0] / "nights", tmp_path / "out")
    assert not whole
    assert problems == ['asv is not installed, so its graphs are left out; pip install -e ".[site]"']
    assert "1 regressed" in Page((tmp_path / "out" / "index.html").read_text()).sections["night"]
