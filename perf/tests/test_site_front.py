"""The front page: what stands on it, in which order, and where it leads."""
from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perf.report.page.document import digest
from perf.tests import published
from perf.track.history import History, load
from perf.track.site import asv_pages, build, commits, contents, links, nights, steps
from perf.track.site.front import Contents, page
from perf.track.site.graphs import Graphs
from perf.track.site.latest import items, latest, places
from perf.track.site.spark import HEIGHT, WIDTH, sparkline
from perf.track.site.words import change, figure_text, rate

NO_GRAPHS = Graphs(Path("none"))


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text by section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.order: list[str] = []
        self.text: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name == "section":
            self.order.append(dict(attributes).get("id") or "")

    def handle_data(self, data):
        where = self.order[-1] if self.order else ""
        self.text[where] = self.text.get(where, "") + data + " "

    def all(self, attribute):
        return [value for _, attributes in self.elements if (value := attributes.get(attribute)) is not None]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
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


def test_what_regressed_comes_first(shown):
    assert [one for one in shown.order if one] == ["summary", "night", "steps", "sweeps", "rows", "commits"]
    words = [(attributes["class"] or "").removeprefix("word ") for _, attributes in shown.elements
             if (attributes.get("class") or "").startswith("word ")]
    assert words == ["wrong", "regressed", "invalid", "missing", "inconclusive", "improved", "new", "ok", "unchanged",
                     "skipped"]


def test_last_nights_verdicts(shown, tree):
    _, hashes = tree
    night = shown.text["night"]
    assert "10 benchmarks: 1 wrong, 1 regressed" in night
    assert "regressed +40.0% [+39.1%, +41.2%]" in re.sub(r"\s+", " ", night)
    assert f"{hashes[published.SLOW_FROM][:8]}  Ada Example: change {published.SLOW_FROM} <b>&amp;" in night
    assert "607.2 us" in night
    assert f"{hashes[published.NOTHING][:8]}: the GPU fell off the bus <u>" in night
    assert "softmax:gone-forward" in night
    assert "bisect: failed: no time was left" in night
    assert "python -m perf nightly --resume" in night
    assert night.count("10 benchmarks") == 1, "only the newest night of a machine is shown"


def test_the_step_of_the_history(shown, tree):
    _, hashes = tree
    told = re.sub(r"\s+", " ", shown.text["steps"])
    assert told.count("fa2: softmax forward, causal, 16 heads x 128, bf16, n 2K, batch 8") == 1
    slow, before = hashes[published.SLOW_FROM][:8], hashes[published.SLOW_FROM - 1][:8]
    assert f"time NVIDIA H200, torch 2.11.0, python 3.12 {slow} after {before} " in told
    assert re.findall(r"[-+]\d+\.\d%", told) == ["+40.5%"]


def made_up(tree, values, figure="time_call"):
    """A row whose line of `figure` has these values."""
    history = load(tree[0] / "results")
    row = next(row for row in latest(history, places(tree[0] / "results", history)) if row.workload.bare)
    first = row.lines["time_call"][0]
    line = [replace(first, value=value, commit=f"{number:040d}", figure=figure) for number, value in enumerate(values)]
    return replace(row, lines={"time_call": row.lines["time_call"], figure: line})


def test_larger_steps_come_first(tree):
    rows = [made_up(tree, [1.0] * 8 + [ratio] * 8) for ratio in (1.2, 3.0, 1.5)]
    assert [step.ratio for step in steps.steps(rows)] == pytest.approx([3.0, 1.5, 1.2])


def test_what_came_back_is_no_step(tree):
    def found(values, figure="time_call"):
        return [(step.before[-2:], step.after[-2:], round(step.ratio, 2), step.nights)
                for step in steps.steps([made_up(tree, values, figure)]) if step.figure == figure]

    assert found([1.0] * 8 + [1.5] * 8) == [("07", "08", 1.5, 0)]
    assert found([1.0] * 8 + [1.5] * 8 + [1.0] * 8) == []
    assert found([1.5] * 8 + [1.0] * 8) == []
    assert found([1.0] * 16) == []
    assert found([3] * 8 + [4] * 8, "track_launches") == [("07", "08", 1.33, 0)]


def test_a_creep_is_told_as_one(tree, monkeypatch):
    monkeypatch.setattr(steps.drift, "steps", lambda values: [])
    row = made_up(tree, [(1 + 8e-4 * max(0, night - 60)) * (1 + 0.001 * (-1) ** night) for night in range(100)])
    (found,) = steps.steps([row])
    assert (found.before, found.after, found.nights) == ("", "", 30)
    said = Page(page(Contents("p", NO_GRAPHS, [row], {("", ""): row.place}, steps=[found]))).text["steps"]
    assert "a creep over the last 30" in said


def test_larger_regressions_come_first(tree):
    night = published.night(tree[1])
    found = [replace(night.findings[0], benchmark=f"of {ratio}", ratio=ratio) for ratio in (1.2, 3.0, 1.5)]
    said = Page(page(Contents("p", NO_GRAPHS, nights=[replace(night, findings=tuple(found))])))
    assert re.findall(r"of (\d\.\d)", said.text["night"]) == ["3.0", "1.5", "1.2"]


def test_a_chart_is_of_one_place(shown):
    place, drawn = None, []
    rows = {a["id"]: (a["data-hardware"], a["data-versions"]) for name, a in shown.elements
            if name == "tr" and "data-hardware" in a}
    for name, attributes in shown.elements:
        if name == "div" and "data-hardware" in attributes:
            place = (attributes["data-hardware"], attributes["data-versions"])
        if attributes.get("class") == "pt":
            drawn.append(place)
            assert rows[f"r{attributes['data-r']}"] == place
    assert len(drawn) == 2 * (len(published.SOFTMAX) + len(published.ON_CPU))


def test_freshness(shown, tree):
    told = re.sub(r"\s+", " ", shown.text["commits"])
    assert f"{published.COMMITS - 1} of {published.COMMITS} commits measured, 1 failed" in re.sub(
        r"\s+", " ", shown.text["summary"])
    assert "failed: the GPU fell off the bus <u>" in told
    assert "12 figures on AMD EPYC, 57 figures on NVIDIA H200" in told
    last = published.START + (published.COMMITS - 1) * published.DAY + 3600
    assert str(last) in shown.all("data-t"), "the tile says when it was measured, its script how long ago"


def test_why_a_commit_has_no_figures_if_no_night_says(tree):
    folder, hashes = tree
    history = load(folder / "results")
    log = [*commits.log(folder), commits.Commit("0" * 40, 0.0, "", "older than the history")]
    newer = commits.Commit("1" * 40, 0.0, "", "not tried")
    found = commits.states([newer, *log], history, folder / "results", (), folder)
    states = {state.commit.hash: state for state in found}
    assert list(states) == ["1" * 40, *reversed(hashes)]
    assert (states[hashes[published.NOTHING]].word, states[hashes[published.NOTHING]].reason) == (
        "failed", "it has no attention/")
    assert states["1" * 40].word == "not measured"
    assert states[hashes[0]].word == "measured"


def test_what_was_measured_with_uncommitted_changes_is_not_the_commits(tree):
    folder, hashes = tree
    history = load(folder / "results")
    rows = tuple(replace(row, dirty=row.commit == hashes[3]) for row in history.rows)
    found = commits.states(commits.log(folder), History(rows, ()), folder / "results", (), folder)
    words = {state.commit.hash: state.word for state in found}
    assert (words[hashes[3]], words[hashes[2]]) == ("not measured", "measured")


def test_odd_characters_in_a_subject_are_no_end_of_it(tmp_path):
    published.git(tmp_path, "init", "--quiet")
    published.git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "a\u2028b\x0bc\x85d\x1ce")
    (one,) = commits.log(tmp_path)
    assert (one.author, one.subject) == ("Ada Example", "a\u2028b\x0bc\x85d\x1ce")


def test_git_that_fails_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="its commits can't be listed: fatal: not a git repository"):
        commits.log(tmp_path)


def test_derived_figures(tree):
    history = load(tree[0] / "results")
    rows = latest(history, places(tree[0] / "results", history))
    newest = {row.workload: row for row in rows if row.place.versions.startswith("torch 2.11")}
    w = published.SOFTMAX[0]
    time = published.seconds(w, published.COMMITS - 1)
    assert newest[w].evidence.median == pytest.approx(time)
    assert newest[w].evidence.flops == w.flops
    assert newest[w].value("track_peak_bytes") == 10 ** 6 * w.n
    assert [items(each) for each in (w, *published.OTHERS[1:])] == [(16384, "tokens"), (8, "tokens"), (32, "images")]
    text = page(Contents("p", NO_GRAPHS, rows, {(row.place.machine, ""): row.place for row in rows}))
    wanted = {"1024", "eager", "NVIDIA H200", "torch 2.11.0, python 3.12"}
    told = next(row for row in rows_of(text) if wanted <= set(row))
    assert f"{(w.flops or 0) / time / 1e12:#.3g}".rstrip(".") in told
    assert f"{16384 / time / 1e6:#.3g} M" in told


def rows_of(text: str) -> list[list[str]]:
    """The table's rows, each the words of its cells."""
    table = text.partition('id="table"')[2].partition("</table>")[0]
    cells = (re.findall(r"<t[hd].*?</t[hd]>", row) for row in table.split("<tr"))
    return [[re.sub(r"<[^>]+>", " ", cell).replace("tokens", "").strip() for cell in row] for row in cells]


def test_a_figure_of_an_earlier_commit_than_the_time_is_not_shown_beside_it(tree):
    history = load(tree[0] / "results")
    row = latest(history, places(tree[0] / "results", history))[0]
    older = {**row.lines, "track_peak_bytes": row.lines["track_peak_bytes"][:-1]}
    assert row.value("track_peak_bytes") == 10 ** 6 * row.workload.n
    assert replace(row, lines=older).value("track_peak_bytes") is None
    assert row.value("track_none") is None


def test_lines_do_not_go_over_versions(tree):
    history = load(tree[0] / "results")
    rows = latest(history, places(tree[0] / "results", history))
    lengths = {(row.place.hardware, row.place.versions): len(row.lines["time_call"]) for row in rows}
    before, after = published.UPGRADE, published.COMMITS - published.UPGRADE - 1  # less the commit that failed
    assert lengths[("NVIDIA H200", "torch 2.10.0, python 3.12")] == before
    assert lengths[("NVIDIA H200", "torch 2.11.0, python 3.12")] == after


def test_of_many_environments_the_last_are_shown(tree):
    history = load(tree[0] / "results")
    shown = list(places(tree[0] / "results", history, most=1).values())
    assert [(place.hardware, place.versions) for place in shown] == [
        ("NVIDIA H200", "torch 2.11.0, python 3.12"), ("AMD EPYC", "torch 2.11.0, python 3.12")]


def test_filters_name_every_machine_and_version(shown):
    options = [attributes["value"] for name, attributes in shown.elements if name == "option"]
    assert options == ["", "NVIDIA H200", "AMD EPYC", "", "torch 2.11.0, python 3.12", "torch 2.10.0, python 3.12"]
    rows = [attributes for name, attributes in shown.elements if name == "tr" and "data-hardware" in attributes]
    assert len(rows) == 2 * (len(published.SOFTMAX) + len(published.OTHERS) + len(published.ON_CPU))
    chosen = [attributes["value"] for _, attributes in shown.elements if "selected" in attributes]
    assert chosen == ["NVIDIA H200", "torch 2.11.0, python 3.12"]


def fragment(address: str) -> tuple[str, dict[str, list[str | None]]]:
    """What asv.js's parse_hash_string makes of an address."""
    path, _, after = address.partition("#")
    assert path == links.PAGE
    location, _, query = after.partition("?")
    found: dict[str, list[str | None]] = {}
    for part in query.split("&") if query else []:
        key, value = (unquote(word.replace("+", " ")) for word in part.split("="))
        found.setdefault(key, []).append(None if value == links.NONE else value)
    return unquote(location), found


def test_links_choose_what_asv_offers(shown, site):
    index = json.loads((site / "asv" / "index.json").read_text())
    graphs = [fragment(address) for address in shown.all("href")
              if address.startswith(f"{links.PAGE}#") and not address.startswith(f"{links.PAGE}#/")]
    assert len(graphs) > 50
    for benchmark, chosen in graphs:
        told = index["benchmarks"][benchmark]
        params = dict(zip(told["param_names"], told["params"], strict=True))
        properties = {key: values[0] for key, values in chosen.items() if key in index["params"]}
        assert set(properties) == {"machine", "gpu", "num_cpu", "torch"}, "what asv tells series apart by"
        assert any(properties.items() <= known.items() for known in index["graph_param_list"])
        for key, values in chosen.items():
            if key.startswith("p-"):
                assert set(values) <= set(params[key[2:]])
            else:
                assert key in (*index["params"], "x-axis", "y-axis-scale", "commits")
        marked = {one for commits in chosen.get("commits", ()) for one in (commits or "").split("-")}
        assert marked <= set(index["revision_to_hash"].values())
        assert {f"p-{name}" for name, values in params.items() if len(values) > 1} <= set(chosen)


def test_every_link_within_the_page_has_its_end(shown):
    ids = shown.all("id")
    assert len(ids) == len(set(ids))
    for address in shown.all("href"):
        if address.startswith("#"):
            assert address[1:] in ids


def test_a_commit_that_is_not_on_the_page_is_no_link(tree):
    night = replace(published.night(tree[1]), base="HEAD~3")
    said = Page(page(Contents("p", NO_GRAPHS, nights=[night])))
    assert "HEAD~3" in said.text["night"]
    assert not [address for address in said.all("href") if address.startswith("#commit-")]


def test_its_policy_allows_its_own_script_and_style_and_no_other(site, shown):
    text = (site / "index.html").read_text(encoding="utf-8")
    (policy,) = [a["content"] for name, a in shown.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for element in ("style", "script"):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.S)
        assert f"{element}-src '{digest(content)}'" in policy
    assert asv_pages.external("index.html", text) == []


def test_nothing_yet():
    empty = Page(page(Contents("a project", NO_GRAPHS)))
    assert "No night has been recorded yet." in empty.text["night"]
    assert [one for one in empty.order if one] == ["summary", "night"]
    assert not [address for address in empty.all("href") if not address.startswith("#")]


def test_nights_without_a_history(tree, tmp_path):
    problems, whole = build(published.CONFIG, tree[0], tmp_path / "nothing", tree[0] / "nights", tmp_path / "out")
    assert not whole
    assert len(problems) == 1
    shown = Page((tmp_path / "out" / "index.html").read_text())
    assert "1 regressed" in shown.text["night"]
    assert "no history yet" in shown.text["problems"]
    assert not [address for address in shown.all("href") if not address.startswith("#")]


def test_without_asv_the_nights_are_shown(tree, tmp_path, monkeypatch):
    for module in (asv_pages, contents):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    problems, whole = build(published.CONFIG, tree[0], tree[0] / "results", tree[0] / "nights", tmp_path / "out")
    assert not whole
    assert problems == ['asv is not installed, so its graphs are left out; pip install -e ".[site]"']
    assert "1 regressed" in Page((tmp_path / "out" / "index.html").read_text()).text["night"]


def test_a_broken_night_is_named_and_the_others_shown(tree, tmp_path):
    published.night(tree[1]).save(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("{")
    found, problems = nights.read(tmp_path)
    assert len(found) == len(problems) == 1
    assert problems[0].startswith(f"{tmp_path / 'b.json'}: ")
    assert nights.read(tmp_path / "none") == ([], [])


def test_each_machine_has_its_last_night(tree, tmp_path):
    one = published.night(tree[1])
    for name, night in {"a": one, "b": replace(one, time=one.time - 1), "c": replace(one, machine="other"),
                        "d": replace(one, environment="other")}.items():
        night.save(tmp_path / f"{name}.json")
    found, _ = nights.read(tmp_path)
    assert [(night.time, night.machine, night.environment) for night in found] == [
        (one.time, one.machine, one.environment), (one.time, "other", one.environment),
        (one.time, one.machine, "other")]


def test_hostile_text_stays_text(tree):
    hostile = '</script><script>alert(1)</script>"\'><img src=x onerror=alert(1)>'
    night = published.night(tree[1])
    finding = replace(night.findings[0], benchmark=hostile, why=hostile, author=hostile, subject=hostile, since=hostile)
    night = replace(night, findings=(finding,), head=hostile, base=hostile, command=hostile, notes=(hostile,),
                    vanished=(hostile,), fingerprint={"gpus": [hostile], "torch": hostile})
    state = commits.State(commits.Commit("0" * 40, 0.0, hostile, hostile), {}, hostile)
    said = Page(page(Contents(hostile, NO_GRAPHS, nights=[night], states=[state], problems=[hostile])))
    assert [name for name, _ in said.elements].count("script") == 1
    assert "img" not in [name for name, _ in said.elements]


@settings(max_examples=50)
@given(st.text(), st.dictionaries(st.text(min_size=1), st.lists(st.none() | st.text(), min_size=1)))
def test_asv_reads_back_what_is_written(benchmark, chosen):
    written = {key: [None if value == links.NONE else value for value in values] for key, values in chosen.items()}
    assert fragment(links.graph(benchmark, chosen)) == (benchmark, written)


@given(st.lists(st.floats(0, 1e12), min_size=2, max_size=100))
def test_sparklines_stay_in_their_box(values):
    drawn = sparkline(values)
    assert drawn is not None
    (points,) = re.findall(r'points="([^"]*)"', drawn)
    for point in points.split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT


def test_a_small_wobble_is_drawn_small():
    def height(values):
        (points,) = re.findall(r'points="([^"]*)"', sparkline(values) or "")
        ys = [float(point.split(",")[1]) for point in points.split()]
        return max(ys) - min(ys)

    assert height([1.0, 1.01, 1.0]) < 1
    assert height([1.0, 1.4, 1.4]) > 10
    assert sparkline([1.0]) is None


@pytest.mark.parametrize(("value", "said"), [
    (12.34, "12.3"), (950, "950"), (1234, "1.23 k"), (2.5e6, "2.50 M"), (3e9, "3.00 G"), (999_999, "1.00 M")])
def test_rates(value, said):
    assert rate(value) == said


@pytest.mark.parametrize(("ratio", "said"), [
    (1.072, "+7.2%"), (0.5, "-50.0%"), (1.0, "+0.0%"), (11.0, "11x"), (2.0, "2x")])
def test_changes(ratio, said):
    assert change(ratio) == said


@pytest.mark.parametrize(("value", "unit", "said"), [
    (1e-3, "seconds", "1.000 ms"), (2e6, "bytes", "2.0 MB"), (0.25, "error / bound", "0.250"), (3.0, "", "3"),
    (None, "seconds", "-")])
def test_figures_in_words(value, unit, said):
    assert figure_text(value, unit) == said
