"""--perf-resume: only good rows of this machine and this commit count as measured."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from perf.measure import machine
from perf.measure.evidence import ENDED, TRIES, Evidence, Flight, Writer, mark
from perf.run.options import Settings
from perf.run.session import earlier_rows
from perf.workloads.workload import Workload

CELL = Workload("attention", "softmax", "eager", "forward", True, 1, 8, 8, 512, 512, 64, "fp32")
COMMIT = "0123abcd"


def settings(path) -> Settings:
    return Settings(torch.device("cpu"), "default", [CELL], path, resume=True)


@pytest.fixture
def revision(monkeypatch):
    def says(text):
        monkeypatch.setattr(machine, "revision", lambda: text)

    says(COMMIT)
    return says


def test_only_what_is_surely_the_same_is_measured(tmp_path, revision):
    path = tmp_path / "evidence.jsonl"
    good = Evidence(CELL, "ok", samples=(1.0,), median=1.0, machine=machine.identity(), revision=COMMIT)
    writer = Writer(path)
    others = (good, replace(good, outcome="failed"), replace(good, outcome="invalid"), replace(good, machine="another"),
              replace(good, revision="another"), replace(good, outcome="skipped"))
    for n, row in enumerate(others, start=1):
        writer.append(replace(row, workload=replace(CELL, n=n)))
    assert list(earlier_rows(settings(path))) == [replace(CELL, n=1).id]


def test_the_last_measurement_counts(tmp_path, revision):
    path = tmp_path / "evidence.jsonl"
    writer = Writer(path)
    for seconds in (1.0, 2.0):
        writer.append(Evidence(CELL, "ok", samples=(seconds,), median=seconds, machine=machine.identity(),
                               revision=COMMIT))
    assert earlier_rows(settings(path))[CELL.id].median == 2.0


def test_a_first_run_has_nothing_before_it(tmp_path, revision):
    assert earlier_rows(settings(tmp_path / "none.jsonl")) == {}


def test_a_row_that_ended_the_process_twice_is_tried_no_more(tmp_path, revision):
    """A mark that is left counts; another commit's doesn't, nor one that can't be read."""
    path = tmp_path / "evidence.jsonl"
    for _ in range(TRIES):
        assert Flight(path).fatal is None
        row = Flight(path).row("a")
        row.__enter__()  # and is never left
        left = mark(path).read_text()
        with Flight(tmp_path / "other.jsonl").row("b"):
            pass
    assert Flight(path).fatal == "a"
    revision("another")
    assert Flight(path).fatal is None
    mark(path).write_text("{")
    assert Flight(path).fatal is None
    mark(path).write_text(left)
    revision(COMMIT)
    with Flight(path).row("b"):
        pass
    assert not mark(path).exists()


def test_a_row_that_ended_the_process_is_not_measured_again(tmp_path, revision):
    path = tmp_path / "evidence.jsonl"
    Writer(path).append(Evidence(CELL, "failed", reason=ENDED, machine=machine.identity(), revision=COMMIT))
    assert earlier_rows(settings(path))[CELL.id].reason == ENDED


@pytest.mark.parametrize("text", [None, f"{COMMIT}+dirty"])
def test_without_a_commit_of_its_own_it_is_refused_in_one_line(tmp_path, revision, text):
    revision(text)
    with pytest.raises(ValueError, match="--perf-resume: the working tree is no commit of its own") as error:
        earlier_rows(settings(tmp_path / "evidence.jsonl"))
    assert "\n" not in str(error.value)
