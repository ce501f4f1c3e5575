"""asv's pages as published: whole, from any folder, and nothing in them from another host."""
from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import asv
import pytest

from perf.__main__ import main
from perf.history.results import cut
from perf.tests import front_page, published
from perf.web.site import asv_pages, build, graphs, vendored
from perf.web.site.asv_pages import stage

TEMPLATE = Path(asv.__file__).parent / "www"

tree, site = front_page.tree, front_page.site


def addresses(path: Path) -> list[str]:
    """Returns what an HTML or CSS file names."""
    text = path.read_text(encoding="utf-8")
    return re.findall(r"""(?:src|href)=["']([^"']*)["']""" if path.suffix == ".html" else r"url\(([^)]*)\)", text)


def test_every_link_leads_to_a_file_of_the_site(site):
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert pages
    for page in pages:
        for address in addresses(page):
            parts = urlsplit(address.strip("'\""))
            if address in asv_pages.LINKS or parts.scheme == "data":
                continue
            assert not parts.scheme, (page, address)
            assert not parts.netloc, (page, address)
            assert not parts.path.startswith("/"), "only relative links work under a sub-path"
            target = (page.parent / unquote(parts.path)).resolve()
            assert not parts.path or target.is_relative_to(site.resolve()), (page, address)
            assert not parts.path or target.is_file(), (page, address)


def test_nothing_but_vendored_files_names_another_host(site):
    for path in [*site.glob("asv/*.html"), *site.glob("asv/*.js"), *site.glob("asv/*.css")]:
        assert asv_pages.external(path.name, path.read_text(encoding="utf-8")) == []


def test_asv_of_today_loads_what_the_lock_names_and_nothing_else():
    html = (TEMPLATE / "index.html").read_text(encoding="utf-8")
    assert sorted(asv_pages.external("index.html", html)) == sorted(file.replaces for file in vendored.files())


@pytest.mark.parametrize("put", [
    '<script src="https://cdn.example.org/new.js"></script>', '<link rel="stylesheet" href="//cdn.example.org/new.js">',
    '<img src="http://cdn.example.org/new.js">', '<a href="https://cdn.example.org/new.js">'])
def test_an_address_that_is_not_known_is_named(put, site, tmp_path):
    shutil.copytree(TEMPLATE, tmp_path / "asv")
    index = tmp_path / "asv" / "index.html"
    index.write_text(index.read_text(encoding="utf-8").replace("</head>", put + "</head>"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"asv's index.html loads \S*//cdn.example.org/new.js, which .*lock.toml"):
        asv_pages.contain(tmp_path / "asv")


@pytest.mark.parametrize(("name", "text"), [
    ("a.js", 'load("https://cdn.example.org/new.js")'), ("a.css", "@import url(//cdn.example.org/new.js);")])
def test_an_address_in_a_script_or_style_is_named(name, text, tmp_path):
    shutil.copytree(TEMPLATE, tmp_path / "asv")
    (tmp_path / "asv" / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"asv's {name} loads \S*//cdn.example.org/new.js"):
        asv_pages.contain(tmp_path / "asv")


def test_vendored_files_are_what_the_lock_says(tmp_path):
    copy = tmp_path / "vendor"
    shutil.copytree(vendored.FOLDER, copy)
    listed = {file.name for file in vendored.files(copy)}
    assert {path.name for path in copy.iterdir()} == listed | {"lock.toml", vendored.LICENCES}
    for file in vendored.files(copy):
        assert file.read(copy) == file.read()
    first = vendored.files(copy)[0]
    (copy / first.name).write_bytes(first.read() + b" ")
    with pytest.raises(ValueError, match=r"is not jquery 3\.3\.1's dist/jquery\.min\.js"):
        first.read(copy)
    (copy / first.name).unlink()
    with pytest.raises(ValueError, match="No such file"):
        first.read(copy)


def test_every_package_has_its_licence():
    text = (vendored.FOLDER / vendored.LICENCES).read_text(encoding="utf-8")
    for package in vendored.packages():
        assert f"{package.name} {package.version}: " in text
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", package.integrity)
        assert package.licence == "MIT"


def test_vendored_command(capsys):
    assert vendored.main([]) == 0
    assert "jquery 3.3.1" in capsys.readouterr().out
    assert vendored.main(["get"]) == 1
    assert "unknown argument 'get'" in capsys.readouterr().err


def test_axes_keep_the_values_that_were_measured(site):
    index = json.loads((site / "asv" / "index.json").read_text())
    one = index["benchmarks"]["attention.SoftmaxForwardH16D128Bf16.time_call"]
    axes = dict(zip(one["param_names"], one["params"], strict=True))
    assert axes["backend"] == ["'eager'", "'sdpa'", "'fa2'", "'flex'"]
    assert axes["n"] == ["1024", "2048", "4096", "8192"]
    rows = [row for path in site.glob("asv/graphs/**/summary.json") for row in json.loads(path.read_text())]
    assert rows
    assert all(row["last_value"] is not None for row in rows)


def test_cut():
    assert cut([["a", "b"], ["1", "2", "3"]], [("a", "1"), ("a", "3")]) == [["a"], ["1", "3"]]


def test_asv_finds_the_step_and_no_other(site):
    result = json.loads((site / "asv" / "regressions.json").read_text())["regressions"]
    assert [entry[0].partition("(")[0] for entry in result] == ["attention.SoftmaxForwardH16D128Bf16.time_call"]
    assert "'fa2'" in result[0][0]
    assert "2048" in result[0][0]


BROKEN = {
    "truncated": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a list": lambda text: "[1, 2]",
    "another version": lambda text: json.dumps(json.loads(text) | {"version": 99}),
    "without results": lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "results"}),
    "with text for results": lambda text: json.dumps(json.loads(text) | {"results": "none"}),
    "with too few cells": lambda text: json.dumps(json.loads(text) | {"results": {
        name: [(row[0] or [0])[:1], *row[1:]] for name, row in json.loads(text)["results"].items()}}),
    "of another machine": lambda text: json.dumps(json.loads(text) | {"params": {"machine": "another"}}),
    "of an unknown commit": lambda text: json.dumps(json.loads(text) | {"commit_hash": "f" * 40}),
    "not text": None,
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_results_file_is_named_and_left_out(what, tree, tmp_path):
    folder, _ = tree
    results = tmp_path / "results"
    shutil.copytree(folder / "results", results)
    victim = sorted((results / published.H200).glob("*-links-*.json"))[3]
    if (change := BROKEN[what]) is None:
        victim.write_bytes(b"\xff\xfe\x00")
    else:
        victim.write_text(change(victim.read_text()))
    left_out = stage(results, tmp_path / "staged", folder)
    assert list(left_out) == [victim]
    assert "\n" not in left_out[victim]
    assert len(list((tmp_path / "staged").glob("*/*-links-*.json"))) == len(list(results.glob("*/*-links-*.json"))) - 1


def test_the_rest_is_published_beside_a_broken_file(tree, tmp_path, capsys, monkeypatch):
    folder, _ = tree
    shutil.copytree(folder, tmp_path / "tree")
    (tmp_path / "tree" / "asv.conf.json").write_text(json.dumps(published.CONFIG))
    (tmp_path / "tree" / "results" / published.CPU / "machine.json").write_text("{")
    monkeypatch.chdir(tmp_path / "tree")
    assert main(["site", "--out", "out"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"{published.CPU}/machine.json: left out: " in lines[0]
    machines = json.loads(Path("out/asv/index.json").read_text())["machines"]
    assert list(machines) == [published.H200]


def test_no_history_is_one_line(tree, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("asv.conf.json").write_text(json.dumps(published.CONFIG))
    assert main(["site"]) == 0
    assert capsys.readouterr().err == ("python -m perf site: results: no history yet (no benchmarks.json); run asv "
                                       "run, or pytest perf/ --benchmark-only --perf-history\n")
    assert Path(".site", "perf-site.txt").exists()


def test_a_folder_with_other_things_is_not_overwritten(tree, tmp_path):
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        build(published.CONFIG, tree[0], tree[0] / "results", tree[0] / "nights", tmp_path)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_site_is_replaced_whole(tree, site):
    (site / "old.html").write_text("")
    build(published.CONFIG, tree[0], tree[0] / "results", tree[0] / "nights", site)
    assert not (site / "old.html").exists()


@pytest.mark.parametrize(("text", "said"), [(None, "no asv.conf.json here"), ("{", "not JSON")])
def test_configuration_missing_or_broken(text, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("asv.conf.json").write_text(text)
    assert main(["site"]) == 2
    assert said in capsys.readouterr().err


def test_addresses_of_graphs():
    assert graphs.address("a.B.time_call", {}) == "asv/index.html#a.B.time_call"
    chosen: dict[str, list[str | None]] = {"machine": ["x y"], "torch": [None], "p-backend": ["'fa2'", "'a&b=c'"]}
    assert graphs.address("a.B.time_call", chosen, commits=["abc"], over="n") == (
        "asv/index.html#a.B.time_call?machine=x%20y&torch=%5Bnone%5D&p-backend='fa2'&p-backend='a%26b%3Dc'"
        "&x-axis=n&y-axis-scale=log&commits=abc")
    assert graphs.asv_page("regressions") == "asv/index.html#/regressions"
