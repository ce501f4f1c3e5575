"""Evidence becomes asv's results and comes back; what is no number never does, and nothing measured is lost."""
from __future__ import annotations

import json
import math
import multiprocessing
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from asv.results import Results
from hypothesis import given, settings
from hypothesis import strategies as st

from perf.history import matrix
from perf.history import results as record
from perf.history import rows as history
from perf.history.asv_run import MergedResults
from perf.history.results import _date as date
from perf.history.results import write as write_rows
from perf.history.series import FIGURES, VERSION, common
from perf.measure.evidence import Evidence
from perf.system import git
from perf.workloads.workload import Workload

W = Workload("attention", "softmax", "eager", "forward", True, 1, 8, 8, 512, 512, 64, "fp32")
MODEL = Workload("distilgpt2", "softmax", "eager", "prefill", True, 1, 12, 12, 64, 64, 64, "fp32")
COMMIT, OTHER = "a" * 40, "b" * 40
MACHINE = {"gpus": ["NVIDIA H200"], "driver": "580.1", "cuda": "13.0", "cpu": "Xeon(R)", "cores": 16, "threads": 1,
           "python": "3.12.3", "os": "Linux-6-x86_64", "torch": "2.11.0", "clocks_locked_mhz": None}
OK = Evidence(W, "ok", samples=(3e-3, 1e-3, 2e-3), median=2e-3, iterations=4, clock="cuda graph, L2 flushed", host=1e-4,
              peak_bytes=7, kept_bytes=5, error=1e-6, bound=4e-6, counters={"launches": 3}, compiled={"cold": 9.0},
              machine="m", revision=COMMIT, time=1e9)


SERIES = matrix.all_series()


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "_date", lambda root, commit: {COMMIT: 1000, OTHER: 2000}[commit])
        patch.setattr(record, "all_series", lambda: SERIES)
        yield


def write(folder, *rows, machine=MACHINE, **options):
    return write_rows(rows, folder, machines={"m": machine}, **options)


def figures(folder, commit=COMMIT):
    found = history.load(folder)
    assert not found.problems
    return {(row.workload, row.figure): row.value for row in found.rows if row.commit == commit and not row.dirty}


def test_all_figures_of_a_row(tmp_path):
    assert write(tmp_path, OK).numbers == 6
    found = history.load(tmp_path)
    assert {row.figure: row.value for row in found.rows} == {
        "time_call": 2e-3, "track_host_time": 1e-4, "track_compile_cold": 9.0, "track_peak_bytes": 7,
        "track_error": 0.25, "track_launches": 3}
    (time,) = [row for row in found.rows if row.figure == "time_call"]
    assert (time.commit, time.date, time.measured, time.workload, time.unit) == (COMMIT, 1.0, 1e9, W, "seconds")
    assert time.samples == OK.samples
    assert time.interval is not None
    assert time.interval[0] <= 2e-3 <= time.interval[1]


def test_a_model_has_its_bytes_and_quality_is_tracked_as_what_it_lacks(tmp_path):
    write(tmp_path, replace(OK, workload=MODEL, quality={"metric": "accuracy", "unit": "points", "new": 87.5}))
    found = figures(tmp_path)
    assert found[MODEL, "track_model_bytes"] == 5
    assert found[MODEL, "track_quality_loss"] == 0.125


def test_cells_are_those_of_asv_run(tmp_path):
    """Names, axes, order and version."""
    (path,) = write(tmp_path, OK).files
    series = SERIES[common(W)]
    results = Results.load(str(path))
    name = f"{series.benchmark}.time_call"
    values = results.get_result_value(name, [list(map(repr, axis)) for axis in series.axes.values()])
    assert [number for number, value in enumerate(values) if not math.isnan(value)] == [series.index(W)]
    assert results.benchmark_version[name] == VERSION
    listed = json.loads((tmp_path / "benchmarks.json").read_text())
    assert set(listed) - {"version"} == {f"{series.benchmark}.{figure}" for figure in FIGURES}


def test_a_rerun_replaces_its_cells_and_leaves_the_others(tmp_path):
    sdpa = replace(W, backend="sdpa")
    write(tmp_path, OK, replace(OK, workload=sdpa, peak_bytes=70))
    write(tmp_path, replace(OK, peak_bytes=8, compiled={"warm": 1.0}))
    found = figures(tmp_path)
    assert found[W, "track_peak_bytes"] == 8
    assert found[sdpa, "track_peak_bytes"] == 70
    assert found[W, "track_compile_cold"] == 9.0  # this run measured none
    assert found[W, "track_compile_warm"] == 1.0


def test_commits_and_environments_have_files_of_their_own(tmp_path):
    write(tmp_path, OK)
    write(tmp_path, replace(OK, revision=OTHER))
    write(tmp_path, OK, machine={**MACHINE, "driver": "581"})
    found = history.load(tmp_path)
    lines = {line: [row.commit for row in rows] for line, rows in found.lines.items() if line[3] == "time_call"}
    assert sorted(lines.values()) == [[COMMIT], [COMMIT, OTHER]]
    assert len({machine for machine, *_ in lines}) == 1
    assert len({environment for _, environment, *_ in lines}) == 2


@pytest.mark.parametrize("outcome", ["skipped", "failed", "invalid"])
def test_what_is_no_measurement_is_no_number_and_takes_none_away(outcome, tmp_path):
    bad = replace(OK, outcome=outcome, reason="a reason", median=9.9)
    assert not write(tmp_path / "new", bad).files
    write(tmp_path, OK)
    before = figures(tmp_path)
    write(tmp_path, bad)
    assert figures(tmp_path) == before


def test_a_wrong_variant_has_its_error_alone(tmp_path):
    write(tmp_path, OK)
    write(tmp_path, replace(OK, outcome="wrong", reason="is wrong", samples=(), error=8e-6, clock=None))
    assert figures(tmp_path) == {(W, "track_error"): 2.0}


def test_an_unfit_machine_has_no_times(tmp_path):
    written = write(tmp_path, replace(OK, reason="throttled"))
    assert {figure for _, figure in figures(tmp_path)} == {"track_peak_bytes", "track_error", "track_launches"}
    assert written.notes == ["1 row measured on an unfit machine: what was counted is in the history, no time"]


def test_a_dirty_tree_goes_in_as_such_or_not_at_all(tmp_path):
    dirty = replace(OK, revision=f"{COMMIT}+dirty", peak_bytes=1)
    refused = write(tmp_path, dirty)
    assert not refused.files
    assert refused.notes == ["1 row measured with uncommitted changes, so not in the history; commit them, or ask for "
                             "a series of its own (--perf-history-dirty; history add --dirty)"]
    write(tmp_path, OK)
    write(tmp_path, dirty, dirty=True)
    assert figures(tmp_path)[W, "track_peak_bytes"] == 7
    assert [row.value for row in history.load(tmp_path).rows if row.dirty and row.figure == "track_peak_bytes"] == [1]


@pytest.mark.parametrize(("change", "reason"), [
    ({"revision": None}, "1 row measured outside git, so of no commit: not in the history"),
    ({"machine": "x"}, "1 row of machine x, which nothing describes: not in the history"),
    ({"workload": replace(W, n=513, m=513)},
     "1 row of shapes that are on none of asv's axes, the full grid's: not in the history"),
])
def test_what_has_no_place_is_named(change, reason, tmp_path):
    written = write(tmp_path, replace(OK, **change))
    assert written.notes == [reason]
    assert written.numbers == 0


def test_a_commit_that_git_lacks_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"needs the date of commit aaaaaaaa, which the repository at .* lacks"):
        date(Path(__file__).parent, COMMIT)


def test_commits_of_one_second_keep_their_order(tmp_path, monkeypatch):
    """A rebase makes many within a second."""
    hashes = []
    for number, second in enumerate((5, 7, 7, 7, 9)):
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"@{second} +0000")
        monkeypatch.setenv("GIT_AUTHOR_DATE", f"@{9 - number} +0000")
        if not number:
            git.text(tmp_path, "init", "--quiet")
        git.text(tmp_path, "-c", "user.name=a", "-c", "user.email=b", "commit", "--quiet", "--allow-empty", "-m", "c")
        hashes.append(git.text(tmp_path, "rev-parse", "HEAD"))
    assert [date(tmp_path, commit) for commit in hashes] == [5000, 7000, 7001, 7002, 9000]


def write_with_the_other(folder, backend, together):
    for n in (512, 1024, 2048, 4096, 8192, 16384):
        together.wait(30)
        write(folder, replace(OK, workload=replace(W, n=n, m=n, backend=backend)))


def test_two_processes_that_write_at_once_lose_nothing(tmp_path):
    fork = multiprocessing.get_context("fork")  # they find everything imported
    together = fork.Barrier(2)
    runs = [fork.Process(target=write_with_the_other, args=(tmp_path, backend, together))
            for backend in ("eager", "sdpa")]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0]
    assert len({workload for workload, figure in figures(tmp_path) if figure == "time_call"}) == 12


def as_asv_runs(folder, path):
    """Gives asv's object of a commit's file, loaded as before measuring."""
    plain = Results.load(str(path))
    results = MergedResults(plain.params, {}, plain.commit_hash, plain.date, "3.12", plain.env_name, {})
    results.load_data(str(folder))
    return results


def test_asv_run_keeps_what_others_wrote_meanwhile(tmp_path):
    (path,) = write(tmp_path, OK, replace(OK, workload=replace(W, n=1024, m=1024), peak_bytes=70)).files
    asv = as_asv_runs(tmp_path, path)
    sdpa = replace(W, backend="sdpa")
    write(tmp_path, replace(OK, workload=sdpa), replace(OK, workload=replace(W, n=1024, m=1024), peak_bytes=71))
    name = f"{SERIES[common(W)].benchmark}.track_peak_bytes"
    at = SERIES[common(W)].index(W)
    asv._results[name][at] = 8  # what it measured itself
    asv.save(str(tmp_path))
    found = figures(tmp_path)
    assert found[W, "track_peak_bytes"] == 8
    assert found[sdpa, "track_peak_bytes"] == 7
    assert found[replace(W, n=1024, m=1024), "track_peak_bytes"] == 71
    assert found[sdpa, "time_call"] == 2e-3


def test_axes_that_were_longer_stay(tmp_path):
    """Another package, whose workloads lengthen the axes, wrote them."""
    (path,) = write(tmp_path, OK).files
    record_ = json.loads(path.read_text())
    for row in record_["results"].values():
        params = row[record_["result_columns"].index("params")]
        assert params[2].pop(0) == "'eager'"
        params[2].insert(0, "'theirs'")
    path.write_text(json.dumps(record_))
    write(tmp_path, OK)
    found = history.load(tmp_path)
    assert {row.workload.backend for row in found.rows} == {"theirs", "eager"}


def broken(text):
    return lambda path: path.write_bytes(text(path.read_bytes()))


def edited(change):
    def edit(path):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    return edit


@pytest.mark.parametrize(("spoil", "reason"), [
    (broken(lambda whole: whole[:200]), "Error parsing JSON"),
    (broken(lambda whole: b""), "Error parsing JSON"),
    (broken(lambda whole: b"\xff\xfe\x00"), "can't decode"),
    (broken(lambda whole: b"[]"), "No version specified"),
    (broken(lambda whole: b'{"version": 2}'), "'params'|missing"),
    (broken(lambda whole: b'{"hello": "world"}'), "No version specified"),
    (edited(lambda c: c.update(version=99)), "newer"),
    (edited(lambda c: c.update(date="yesterday")), "date is 'yesterday'"),
    (edited(lambda c: c["params"].update(machine="another")), "machine name is not"),
    (edited(lambda c: c.update(results=[])), "."),
])
def test_a_broken_file_is_named_and_the_rest_used(spoil, reason, tmp_path):
    write(tmp_path, OK)
    (path,) = write(tmp_path, replace(OK, revision=OTHER)).files
    spoil(path)
    found = history.load(tmp_path)
    assert {row.commit for row in found.rows} == {COMMIT}
    assert [problem.path for problem in found.problems] == [path]
    assert "\n" not in str(found.problems[0])
    assert re.search(reason, found.problems[0].reason)


@pytest.mark.parametrize(("change", "reason"), [
    (lambda row, at: row.__setitem__(at["result"], row[at["result"]][:-1]), "values for"),
    (lambda row, at: row.__setitem__(at["result"], ["fast" if x == x else x for x in row[at["result"]]]), "no number"),
    (lambda row, at: row[at["params"]].pop(), "11 axes"),
    (lambda row, at: row.__setitem__(at["version"], "1"), "version 1 of the figures; this harness tracks 2"),
])
def test_a_broken_benchmark_is_named_and_the_files_others_used(change, reason, tmp_path):
    (path,) = write(tmp_path, OK).files
    name = f"{SERIES[common(W)].benchmark}.track_launches"

    def spoil(content):
        change(content["results"][name], {column: i for i, column in enumerate(content["result_columns"])})
        content["results"]["mine.Other.time_x"] = content["results"][name]

    edited(spoil)(path)
    found = history.load(tmp_path)
    assert len(found.rows) == 5
    reasons = {problem.reason.partition(": ")[0]: problem.reason for problem in found.problems}
    assert reason in reasons[name]
    assert reasons["mine.Other.time_x"].endswith("not a figure of this harness")


def test_what_writing_finds_broken_is_kept_aside(tmp_path):
    (path,) = write(tmp_path, OK).files
    path.write_text("{")
    (note,) = write(tmp_path, OK).notes
    assert path.with_suffix(".json.broken").read_text() == "{"
    assert "could not be read" in note
    assert len(figures(tmp_path)) == 6


def test_no_folder_is_a_problem():
    found = history.load(Path("/nowhere"))
    assert not found.rows
    assert [str(problem) for problem in found.problems] == ["/nowhere: there is no such folder"]


SECONDS = st.floats(1e-9, 1e3)
CELLS = sorted({w for one in list(SERIES.values())[:6] for w in one.cells()[:9]}, key=lambda w: w.id)
ROWS = st.builds(
    lambda w, samples, peak, error, commit: replace(
        OK, workload=w, samples=tuple(samples), peak_bytes=peak, error=error, bound=1.0, revision=commit),
    st.sampled_from(CELLS), st.lists(SECONDS, min_size=1, max_size=9), st.integers(0, 2**50), st.floats(0, 1),
    st.sampled_from([COMMIT, OTHER]))


@settings(max_examples=15, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4, unique_by=lambda row: (row.workload, row.revision)), st.data())
def test_what_is_written_is_read_back(rows, data):
    """In however many runs it was written."""
    cut = data.draw(st.integers(0, len(rows)))
    with tempfile.TemporaryDirectory() as name:
        for part in (rows[:cut], rows[cut:]):
            write(Path(name), *part)
        found = history.load(Path(name))
    assert not found.problems
    read = {(row.commit, row.workload, row.figure): row for row in found.rows}
    assert len(read) == len(found.rows)
    for row in rows:
        at = {figure: read[row.revision, row.workload, figure] for figure in ("time_call", "track_peak_bytes",
                                                                              "track_error")}
        assert at["time_call"].samples == tuple(float(f"{seconds:.7g}") for seconds in row.samples)
        assert min(row.samples) * (1 - 1e-6) <= at["time_call"].value <= max(row.samples) * (1 + 1e-6)
        assert at["track_peak_bytes"].value == row.peak_bytes
        assert at["track_error"].value == row.error
    assert {(commit, w) for commit, w, _ in read} == {(row.revision, row.workload) for row in rows}
