"""The nights of the front page: which are shown, and what is told of one."""
from __future__ import annotations

import re
from dataclasses import replace

from perf.tests import front_page, published
from perf.web.site import nights

tree, site, shown = front_page.tree, front_page.site, front_page.shown


def test_last_nights_verdicts(shown, tree):
    _, hashes = tree
    night = shown.sections["night"]
    assert "10 benchmarks: 1 wrong, 1 regressed" in night
    assert "regressed +40.0% [+39.1%, +41.2%]" in re.sub(r"\s+", " ", night)
    assert f"{hashes[published.SLOW_FROM][:8]}  Ada Example: change {published.SLOW_FROM} <b>&amp;" in night
    assert "607.2 us" in night
    assert f"{hashes[published.NOTHING][:8]}: the GPU fell off the bus <u>" in night
    assert "softmax:gone-forward" in night
    assert "bisect: failed: no time was left" in night
    assert "python -m perf nightly --resume" in night
    assert night.count("10 benchmarks") == 1, "only the newest night of a machine is shown"


def test_larger_regressions_come_first(tree):
    night = published.night(tree[1])
    found = [replace(night.findings[0], benchmark=f"of {ratio}", ratio=ratio) for ratio in (1.2, 3.0, 1.5)]
    said = front_page.read(nights=[replace(night, findings=tuple(found))])
    assert re.findall(r"of (\d\.\d)", said.sections["night"]) == ["3.0", "1.5", "1.2"]


def test_each_machine_has_its_last_night(tree, tmp_path):
    one = published.night(tree[1])
    for name, night in {"a": one, "b": replace(one, time=one.time - 1), "c": replace(one, machine="other"),
                        "d": replace(one, environment="other")}.items():
        night.save(tmp_path / f"{name}.json")
    found, _ = nights.read(tmp_path)
    assert [(night.time, night.machine, night.environment) for night in found] == [
        (one.time, one.machine, one.environment), (one.time, "other", one.environment),
        (one.time, one.machine, "other")]


def test_a_broken_night_is_named_and_the_others_shown(tree, tmp_path):
    published.night(tree[1]).save(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("{")
    found, problems = nights.read(tmp_path)
    assert len(found) == len(problems) == 1
    assert problems[0].startswith(f"{tmp_path / 'b.json'}: ")
    assert nights.read(tmp_path / "none") == ([], [])
