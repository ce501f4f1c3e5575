"""The steps of a night by made-up ones: what is kept, what runs again, what still goes on; and its folder."""
from __future__ import annotations

import functools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perf.nightly.steps import Folder, Job, Result, Skipped, Unfit, run, take
from perf.system import files

NAMES = ("machine", "tests", "benchmarks", "verdict", "alert")
DAY = 86400.0


class Night:
    """Jobs that do what `says` tells, and note that they ran."""

    def __init__(self, folder):
        self.folder = Folder(folder, 0.0)
        self.says: dict[str, Exception] = {}
        self.ran: list[str] = []

    def jobs(self):
        needs = {"benchmarks": ("machine",), "verdict": ("machine", "benchmarks")}
        return [Job(name, functools.partial(Night.do, name=name), needs.get(name, ()), always=name == "machine",
                    last=name == "alert") for name in NAMES]

    def do(self, name):
        self.ran.append(name)
        if name in self.says:
            raise self.says[name]

    def run(self, **says):
        self.says, self.ran = says, []
        done = run(self.jobs(), self, self.folder, lambda line: None)
        return {name: one.outcome for name, one in done.items()}


@pytest.fixture
def night(tmp_path):
    return Night(tmp_path)


def test_what_is_done_is_not_done_again(night):
    assert set(night.run().values()) == {"ok"}
    assert night.ran == list(NAMES)
    assert set(night.run().values()) == {"ok"}
    assert night.ran == ["machine"]  # a look at the moment


def test_a_killed_night_goes_on(night):
    with pytest.raises(KeyboardInterrupt):
        night.run(verdict=KeyboardInterrupt())
    assert night.folder.result("benchmarks").outcome == "ok"
    assert night.folder.result("verdict") is None
    night.run()
    assert night.ran == ["machine", "verdict", "alert"]


def test_a_failed_step_is_kept_with_its_reason_and_those_that_tell_go_on(night):
    assert night.run(benchmarks=ValueError("no disk\nand more")) == {
        "machine": "ok", "tests": "ok", "benchmarks": "failed", "verdict": "skipped", "alert": "ok"}
    assert night.folder.result("benchmarks").reason == "no disk"
    assert night.folder.result("verdict").reason == "needs the step benchmarks, which failed"
    assert set(night.run().values()) == {"ok"}
    assert night.ran == ["machine", "benchmarks", "verdict", "alert"]


def test_failing_tests_hold_nothing_up(night):
    assert night.run(tests=ValueError("3 failed")) == {
        "machine": "ok", "tests": "failed", "benchmarks": "ok", "verdict": "ok", "alert": "ok"}


def test_an_unfit_machine_is_told_once(night):
    assert night.run(machine=Unfit("busy")) == {
        "machine": "failed", "tests": "ok", "benchmarks": "skipped", "verdict": "skipped", "alert": "ok"}
    assert night.folder.result("machine").unfit
    night.run(machine=Unfit("busy"))
    assert night.ran == ["machine"]
    night.run()
    assert night.ran == ["machine", "benchmarks", "verdict", "alert"]


def test_what_was_skipped_is_asked_again_and_makes_nothing_else_run(night):
    assert night.run(verdict=Skipped("the first night"))["verdict"] == "skipped"
    night.run(verdict=Skipped("the first night"))
    assert night.ran == ["machine", "verdict"]


def test_an_error_in_a_step_is_a_failed_step_and_in_its_log(night):
    assert night.run(tests=KeyError("x"))["tests"] == "failed"
    assert night.folder.result("tests").reason == "KeyError: 'x'"
    assert "Traceback" in night.folder.log("tests").read_text()
    assert night.run(tests=ValueError())["tests"] == "failed"  # one without words


def test_a_step_whose_result_is_broken_runs_again(night):
    night.run()
    for content in ("", "{", "[]", '{"name": "tests"}', '{"name": "tests", "outcome": "fine"}', "\xff"):
        (night.folder.path / "steps" / "tests.json").write_text(content, encoding="latin-1")
        night.run()
        assert "tests" in night.ran


KEY = {"head": "1" * 40, "more": ("--perf-seqlens=512",)}


def finished(folder, **became):
    for name in NAMES:
        folder.save(Result(name, became.get(name, "ok")))


def test_the_night_that_was_killed_is_taken_up_again(tmp_path):
    first = take(tmp_path, KEY, NAMES, 1e9)
    assert first.path.name == "2001-09-09"
    first.save(Result("tests", "ok"))
    again = take(tmp_path, KEY, NAMES, 1e9 + 3600)
    assert again == first
    assert again.result("tests") == Result("tests", "ok")


@pytest.mark.parametrize("became", ["failed", None])
def test_so_is_one_with_a_failed_step(tmp_path, became):
    first = take(tmp_path, KEY, NAMES, 1e9)
    finished(first, alert="failed")
    assert take(tmp_path, KEY, NAMES, 1e9 + 60) == first


def test_a_finished_night_is_left_alone(tmp_path):
    first = take(tmp_path, KEY, NAMES, 1e9)
    finished(first, verdict="skipped")
    second = take(tmp_path, KEY, NAMES, 1e9 + 60)
    assert second.path.name == "2001-09-09-2"
    assert take(tmp_path, KEY, NAMES, 1e9 + 120) == second


def test_a_night_has_no_name_of_a_record_whose_folder_is_gone(tmp_path):
    (tmp_path / "2001-09-09.json").touch()
    assert take(tmp_path / "work", KEY, NAMES, 1e9, records=tmp_path).path.name == "2001-09-09-2"


@pytest.mark.parametrize(("key", "seconds", "fresh"), [
    (KEY | {"head": "2" * 40}, 60, False), (KEY | {"more": ()}, 60, False), (KEY, DAY, False), (KEY, -60, False),
    (KEY, 60, True)])
def test_another_night_is_another_folder(tmp_path, key, seconds, fresh):
    first = take(tmp_path, KEY, NAMES, 1e9)
    assert take(tmp_path, key, NAMES, 1e9 + seconds, fresh=fresh).path != first.path


def test_a_broken_folder_is_no_night(tmp_path):
    first = take(tmp_path, KEY, NAMES, 1e9)
    for content in ("", "[]", '{"schema": 99}', json.dumps({"schema": 1, "began": "late", "key": KEY})):
        (first.path / "night.json").write_text(content)
        assert take(tmp_path, KEY, NAMES, 1e9 + 60).path != first.path


@settings(deadline=None)  # a busy machine takes its time
@pytest.mark.filterwarnings("ignore:.*cut off")
@given(whole=st.lists(st.dictionaries(st.text("abc:,{}", min_size=1), st.integers(), min_size=1), max_size=4),
       cut=st.integers(0, 40))
def test_half_a_line_takes_no_other_with_it(tmp_path_factory, whole, cut):
    path = tmp_path_factory.mktemp("lines") / "compared.jsonl"
    for one in whole:
        files.append(path, one)
    before = path.read_bytes() if path.exists() else b""
    path.write_bytes(before + b'{"finding": {"benchmark": "softmax:sdpa"}}'[:cut])
    files.append(path, {"last": 1})
    assert list(files.records(path)) == [*whole, {"last": 1}]
