"""Tests where the front page leads: to asv's graphs, with what is shown there chosen, and to its own parts."""
from __future__ import annotations

import json
from dataclasses import replace
from urllib.parse import unquote

from hypothesis import given, settings
from hypothesis import strategies as st

from perf.tests import front_page, published
from perf.web.site import graphs

tree, site, shown = front_page.tree, front_page.site, front_page.shown


def fragment(address: str) -> tuple[str, dict[str, list[str | None]]]:
    """Returns what asv.js's parse_hash_string makes of an address."""
    path, _, after = address.partition("#")
    assert path == graphs.PAGE
    location, _, query = after.partition("?")
    result: dict[str, list[str | None]] = {}
    for part in query.split("&") if query else []:
        key, value = (unquote(word.replace("+", " ")) for word in part.split("="))
        result.setdefault(key, []).append(None if value == graphs.NONE else value)
    return unquote(location), result


@settings(max_examples=50)
@given(st.text(), st.dictionaries(st.text(min_size=1), st.lists(st.none() | st.text(), min_size=1)))
def test_asv_reads_back_what_is_written(benchmark, chosen):
    written = {key: [None if value == graphs.NONE else value for value in values] for key, values in chosen.items()}
    assert fragment(graphs.address(benchmark, chosen)) == (benchmark, written)


def test_links_choose_what_asv_offers(shown, site):
    index = json.loads((site / "asv" / "index.json").read_text())
    fragments = [fragment(address) for address in shown.all("href")
                 if address.startswith(f"{graphs.PAGE}#") and not address.startswith(f"{graphs.PAGE}#/")]
    assert len(fragments) > 50
    for benchmark, chosen in fragments:
        result = index["benchmarks"][benchmark]
        params = dict(zip(result["param_names"], result["params"], strict=True))
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
    within = [address for address in shown.all("href") if address.startswith("#")]
    assert within
    assert {address[1:] for address in within} <= set(ids)


def test_a_commit_that_is_not_on_the_page_is_no_link(tree):
    result = front_page.read(nights=[replace(published.night(tree[1]), base="HEAD~3")])
    assert "HEAD~3" in result.sections["night"]
    assert not [address for address in result.all("href") if address.startswith("#commit-")]
