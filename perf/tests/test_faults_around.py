"""Faults around what is measured, each caused: a line says what happened, and nothing that was measured is lost."""
from __future__ import annotations

import time
from dataclasses import replace

import pytest

from perf.measure import roofline
from perf.measure.compiling import Ledger
from perf.measure.evidence import Writer, load
from perf.report.table import latest
from perf.tests.soak import soak
from perf.tests.test_evidence import ROW
from perf.web.site import MARK, _replace


@pytest.fixture
def no_folder(tmp_path):
    """Gives a path where no folder can be made: a file has its name."""
    (tmp_path / "taken").write_text("")
    return tmp_path / "taken"


def test_seconds_that_can_t_be_kept_cost_no_row(no_folder):
    ledger = Ledger(no_folder)
    with pytest.warns(UserWarning, match=r"compiled-.*\.json: .*: the seconds of compilation are not kept"):
        assert ledger.add("a", {"cold": 1.0}) == {"cold": 1.0}


def test_ceilings_that_can_t_be_kept_cost_no_row(no_folder):
    with pytest.warns(UserWarning, match=r"ceilings.json: .*: the ceilings are not kept"):
        roofline._save(no_folder / "ceilings.json", "m", roofline.Ceilings(1.0, {}))


def test_a_site_that_can_t_be_written_leaves_the_one_before(tmp_path):
    site, out = tmp_path / "new", tmp_path / "out"
    for folder in (site, out):
        folder.mkdir()
        (folder / MARK).write_text(folder.name)
    (tmp_path / ".out.new").write_text("in the way, as a full disk is")
    with pytest.raises(ValueError, match=r"out: can't be written: File exists; what was there stays$"):
        _replace(out, site)
    assert (out / MARK).read_text() == "out"
    (tmp_path / ".out.new").unlink()
    _replace(out, site)
    assert (out / MARK).read_text() == "new"


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    path = tmp_path / "evidence.jsonl"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(ValueError, match=r"evidence.jsonl: a pointer of Git LFS, not the file itself; git lfs pull$"):
        load(path)


def test_a_clock_that_goes_backwards_loses_no_row(tmp_path):
    """The row that was written last counts, whatever time stands in it."""
    path, now = tmp_path / "evidence.jsonl", time.time()
    rows = [replace(ROW, time=now), replace(ROW, time=now - 600)]
    for row in rows:
        Writer(path).append(row)
    assert load(path) == rows
    assert latest(load(path)) == rows[1:]


@pytest.mark.slow
def test_every_row_of_a_long_run_with_faults_is_accounted_for(tmp_path):
    records, summary = soak(tmp_path, 140)
    assert [one for one in records if not one["as_wanted"]] == []
    assert all(one["reached"] for one in records if one["fault"])
    assert summary["megabytes"][-1] < 1.1 * summary["megabytes"][0]
