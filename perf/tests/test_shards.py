"""One run on several machines: how it is split, put together again, and refused."""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attention import fastest
from perf.__main__ import main
from perf.compare.record import WORDS, Comparison, Finding, Row
from perf.compare.record import load as load_verdicts
from perf.measure import machine
from perf.measure.evidence import Evidence, Shard, Writer, load, machines, row_seconds, shards
from perf.plugin import settings_key
from perf.report.verdicts import table
from perf.run.progress import Progress
from perf.run.shard import groups, split
from perf.system import files
from perf.system.exit_codes import FAILED, OK, REFUSED, UNDECIDED, UNFIT
from perf.tests import test_options
from perf.tests.test_options import SMALL, collected
from perf.verdict.verdict import Verdict
from perf.workloads.workload import Workload

pytest_plugins = "pytester"
project = test_options.project
CELL = Workload("attention", "softmax", "eager", "forward", True, 1, 8, 8, 512, 512, 64, "fp32")
MODEL = replace(CELL, model="gpt2")
BACKENDS = ("eager", "sdpa", "tiled", "flex")


@st.composite
def runs(draw):
    """Draws workloads in groups of one to four backends, models with treatments among them; how long most of them took;
    and the number of shards."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=12))
    plain = [replace(draw(st.sampled_from((CELL, MODEL))), backend=backend, n=n)
             for n, size in enumerate(sizes, start=1) for backend in BACKENDS[:size]]
    treated = [replace(w, quantization="bnb-int8") for w in plain if w.model == "gpt2" and draw(st.booleans())]
    rows = [*plain, *treated]
    times = st.none() | st.just(0.0) | st.floats(1e-3, 1e3)
    seconds = {w.id: time for w in rows if (time := draw(times)) is not None}
    return rows, draw(st.integers(1, len(groups(rows)))), seconds


@settings(max_examples=60, deadline=None)
@given(runs(), st.randoms(use_true_random=False))
def test_a_run_is_split_whole_and_alike_everywhere(run, random):
    """Every row is in one shard, no shard is empty, no comparison is torn apart, and the order does not matter."""
    rows, count, seconds = run
    of = split(rows, count, seconds)
    assert list(of) == [w.id for w in rows]
    assert set(of.values()) == set(range(1, count + 1))
    assert all(of[w.id] == of[w.plain.id] for w in rows)
    for one in rows:
        assert len({of[w.id] for w in rows if w.n == one.n and w.model == one.model}) == 1
    random.shuffle(rows)
    assert split(rows, count, seconds) == of


@settings(max_examples=60, deadline=None)
@given(runs())
def test_no_shard_has_more_than_the_mean_and_one_group(run):
    rows, count, seconds = run
    known = [seconds[w.id] for w in rows if w.id in seconds]
    mean = sum(known) / len(known) if known else 1.0
    of = split(rows, count, seconds)
    time = {w.id: seconds.get(w.id, mean) for w in rows}
    loads = [math.fsum(time[name] for name in of if of[name] == index) for index in range(1, count + 1)]
    largest = max(math.fsum(time[w.id] for w in group) for group in groups(rows))
    assert max(loads) <= sum(loads) / count + (1 - 1 / count) * largest + 1e-9 * sum(loads)


def test_long_rows_are_spread_by_what_they_took():
    rows = [replace(CELL, n=n) for n in range(1, 7)]
    of = split(rows, 2, {w.id: 100.0 if w.n < 3 else 1.0 for w in rows})
    assert of[rows[0].id] != of[rows[1].id]
    assert Counter(of.values()) == {1: 3, 2: 3}


def test_no_more_shards_than_groups():
    with pytest.raises(ValueError, match="only 1 groups of rows"):
        split([CELL, replace(CELL, backend="sdpa")], 2, {})


# The evidence.

ROWS = [replace(CELL, backend=backend, n=n, m=n) for n in (64, 128, 256) for backend in ("eager", "sdpa")]
SPLIT = {w.id: (64, 128, 256).index(w.n) + 1 for w in ROWS}
SHARD = Shard(1, 3, machine.identity(), "c0ffee", {"device": "cpu", "precision": 0.01}, SPLIT)


def measured(w: Workload, when: float = 0.0) -> Evidence:
    return Evidence(w, "ok", samples=(0.1 / w.n,), median=0.1 / w.n, machine=machine.identity(), revision="c0ffee",
                    time=when)


def write(path: Path, index: int, rows: int = 2, **changes) -> Path:
    """Writes a shard of two rows, or its first."""
    writer = Writer(path, replace(SHARD, index=index, **changes))
    for i, w in enumerate([w for w in ROWS if SPLIT[w.id] == index][:rows]):
        writer.append(measured(w, when=100.0 * index + 7.0 * i))
    return path


def merge(folder: Path, *paths: Path) -> tuple[int, Path]:
    return main(["merge", *map(str, paths), "-o", str(folder / "all.jsonl")]), folder / "all.jsonl"


def test_shards_become_one_file_like_any_other(tmp_path, capsys):
    paths = [write(tmp_path / f"{index}.jsonl", index) for index in (3, 1, 2)]
    code, whole = merge(tmp_path, *paths)
    assert code == OK
    assert capsys.readouterr().out == f"{whole}: 6 of 6 rows, 3 of 3 shards\n"
    assert [row.workload for row in load(whole)] == ROWS
    assert list(machines(whole)) == [machine.identity()]
    assert [shard.name for shard in shards(whole)] == ["1/3", "2/3", "3/3"]
    assert whole.read_text() == "".join(paths[i].read_text() for i in (1, 2, 0))  # line by line, with its checksums
    assert main(["report", str(whole)]) == OK


def test_a_reader_that_knows_no_shards_reads_the_rows(tmp_path):
    """attention/ has a reader of its own; that of earlier versions took any other line with an id for a machine."""
    path = write(tmp_path / "1.jsonl", 1)
    ranks = fastest.ranking("softmax", n=64, head_dim=64, causal=True, dtype="fp32", phase="forward",
                            machine=fastest.machine(machine.torch.device("cpu")), files=[path])
    assert {timing.variant for timing in ranks} == {"softmax:eager", "softmax:sdpa"}
    assert [(line["kind"], line["id"]) for line in files.records(path) if line["kind"] != "evidence"] == [
        ("machine", machine.identity()), ("shard", "1/3")]


def test_rows_took_the_time_since_the_row_before(tmp_path):
    """The first row of a run has none before it, and a clock may be set back."""
    _, whole = merge(tmp_path, *(write(tmp_path / f"{index}.jsonl", index) for index in (1, 2, 3)))
    assert row_seconds(whole) == {w.id: 7.0 for w in ROWS if w.backend == "sdpa"}
    Writer(back := tmp_path / "back.jsonl").append(measured(ROWS[0], when=5.0))
    files.append(back, measured(ROWS[1], when=4.0).record(), measured(ROWS[2], when=6.0).record())
    assert row_seconds(back) == {ROWS[2].id: 2.0}


def test_what_is_missing_is_said_and_the_rest_is_written(tmp_path, capsys):
    code, whole = merge(tmp_path, write(tmp_path / "1.jsonl", 1, rows=1), write(tmp_path / "3.jsonl", 3))
    assert code == FAILED
    assert capsys.readouterr().out.splitlines() == [
        f"missing: shard 1/3: 1 of 2 rows, {ROWS[1].id} the first; measure them there by --perf-resume",
        "missing: shard 2/3: 2 rows", f"{whole}: 3 of 6 rows, 2 of 3 shards"]
    assert len(load(whole)) == 3


@pytest.mark.parametrize(("changes", "said"), [
    ({"revision": "beef"}, "the commit is 'beef' and 'c0ffee'"),
    ({"machine": "0123"}, f"the machine is '0123' and '{machine.identity()}'"),
    ({"options": {"device": "cpu", "precision": 0.1}}, "the option 'precision' is 0.1 and 0.01"),
    ({"split": SPLIT | {"another": 3}}, "the shard of 'another' is 3 and None"),
    ({"split": SPLIT | {ROWS[0].id: 3}}, f"the shard of '{ROWS[0].id}' is 3 and 1"),
    ({"count": 4, "split": SPLIT | {"another": 4}}, "the number of shards is 4 and 3"),
])
def test_what_does_not_belong_together_is_refused(tmp_path, capsys, changes, said):
    code, whole = merge(tmp_path, write(tmp_path / "1.jsonl", 1), write(tmp_path / "2.jsonl", 2, **changes))
    assert code == REFUSED
    assert not whole.exists()
    line, = capsys.readouterr().err.splitlines()
    assert f"2.jsonl and {tmp_path}/1.jsonl don't belong together: {said}; measure one again" in line


def plain(path: Path) -> Path:
    Writer(path).append(measured(ROWS[0]))
    return path


def broken(path: Path) -> Path:
    files.append(path, SHARD.record() | {"count": 10**9})
    return path


@pytest.mark.parametrize(("make", "said"), [
    (lambda p: write(p, 1), "are both shard 1/3; give one of them"),
    (plain, "is no shard: it was measured without --perf-shard"),
    (lambda p: write(plain(p), 2), "holds another run beside shard 2/3; give each a file of its own"),
    (lambda p: write(write(p, 2), 3), "holds another run beside shard 2/3"),
    (broken, "not evidence: '1/3' is no shard"),
    (lambda p: p, "No such file or directory"),
])
def test_a_file_that_is_no_shard_of_its_own_is_refused(tmp_path, capsys, make, said):
    code, whole = merge(tmp_path, write(tmp_path / "1.jsonl", 1), make(tmp_path / "2.jsonl"))
    assert code == REFUSED
    assert not whole.exists()
    line, = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/2.jsonl" in line
    assert said in line


def test_a_shard_that_was_resumed_is_one(tmp_path):
    path = write(write(tmp_path / "1.jsonl", 1, rows=1), 1)
    assert merge(tmp_path, path, *(write(tmp_path / f"{index}.jsonl", index) for index in (2, 3)))[0] == OK


@pytest.mark.parametrize("name", ["1.jsonl", "all.jsonl.gz"])
def test_the_output_is_a_file_of_text_and_no_shard(tmp_path, name):
    path = write(tmp_path / "1.jsonl", 1)
    before = path.read_bytes()
    assert main(["merge", str(path), "-o", str(tmp_path / name)]) == REFUSED
    assert path.read_bytes() == before


# Verdicts.

def row(w: Workload, word: str, **facts: Any) -> Row:
    if word in ("regressed", "improved", "ok", "inconclusive"):
        verdict = Verdict(word, 1.1, 1.05, 1.15, 6, "10.0 % slower [5.0, 15.0], 6 pairs", 0, 0.02, **facts)
        return Row(w, verdict, word, 1e-3, 1.1e-3, (1.0e-3, 1.1e-3, 1.2e-3))
    counted = {"unchanged": "ok", "skipped": "missing"}.get(word, word)
    return Row(w, Verdict(counted, None, None, None, 0, "why", 0, **facts), word)


def compared(folder: Path, index: int, words: Sequence[str] = ("ok", "ok"), **changes: Any) -> Path:
    """Writes the verdicts of a shard of two rows, or of as many as there are words."""
    shard = replace(SHARD, index=index, **{"options": {"base": "beef", "timed": 6}, **changes})
    mine = [w for w in ROWS if SPLIT[w.id] == index]
    findings = tuple(Finding.of(row(w, word), rounds=True) for w, word in zip(mine, words, strict=False))
    path = folder / f"{index}.json"
    Comparison(100.0 + index, shard.machine, {"gpus": []}, "", "beef", "c0ffee", "pytest", findings,
               notes=("a note of all",), shard=shard.record()).save(path)
    return path


@pytest.mark.parametrize("word", WORDS)
def test_a_row_comes_back_from_its_finding(word):
    made = row(CELL, word, slower=True, cause="host")
    back = Finding.of(made, rounds=True).row()
    assert back == made
    assert table([back]) == table([made])
    gone = replace(made, workload=replace(CELL, backend="no-such-backend"))
    assert Finding.of(gone).row().workload == gone.workload


def test_verdicts_of_shards_become_one_comparison(tmp_path, capsys):
    paths = [compared(tmp_path, index, ("regressed", "regressed")) for index in (2, 3, 1)]
    code, whole = merge(tmp_path, *paths)
    assert code == FAILED
    text = capsys.readouterr().out
    assert "6 benchmarks: 6 regressed" in text
    assert text.count("a note of all") == 1
    assert "one finding: 6 of 6 benchmarks regressed" in text
    assert text.endswith(f"{whole}: 6 of 6 rows, 3 of 3 shards\n")
    kept = load_verdicts(whole)
    assert [finding.benchmark for finding in kept.findings] == [w.id for w in ROWS]
    assert (kept.time, kept.shard, kept.failed) == (101.0, {}, ())
    assert not any(finding.rounds for finding in kept.findings)
    assert main(["alert", str(whole)]) == OK


@pytest.mark.parametrize(("words", "lenient", "code"), [
    ("ok ok ok ok unchanged improved", False, OK),
    ("ok ok ok ok ok inconclusive", False, UNDECIDED),
    ("ok ok ok ok ok inconclusive", True, OK),
    ("ok ok invalid ok ok missing", False, UNDECIDED),
    ("invalid unchanged invalid inconclusive invalid invalid", False, UNFIT),
    ("invalid invalid invalid invalid wrong invalid", False, FAILED),
    ("unchanged regressed ok ok ok ok", True, FAILED),
])
def test_verdicts_of_shards_end_as_one_run(tmp_path, words, lenient, code):
    listed = words.split()
    paths = [compared(tmp_path, index, listed[2 * index - 2:2 * index], options={"lenient": lenient})
             for index in (1, 2, 3)]
    assert merge(tmp_path, *paths)[0] == code


def test_verdicts_that_are_missing_are_no_pass(tmp_path, capsys):
    code, whole = merge(tmp_path, compared(tmp_path, 1, ("ok",)), compared(tmp_path, 3))
    assert code == FAILED
    assert capsys.readouterr().out.splitlines()[-3:] == [
        f"missing: shard 1/3: 1 of 2 rows, {ROWS[1].id} the first; measure that shard again",
        "missing: shard 2/3: 2 rows", f"{whole}: 3 of 6 rows, 2 of 3 shards"]
    assert [one.what for one in load_verdicts(whole).failed] == ["shard 1/3", "shard 2/3"]


def alone(folder: Path) -> Path:
    path = compared(folder, 2)
    replace(load_verdicts(path), shard={}).save(path)
    return path


@pytest.mark.parametrize(("make", "said"), [
    (lambda p: compared(p, 2, options={"base": "beef", "timed": 5}), "the option 'timed' is 5 and 6"),
    (lambda p: compared(p, 2, options={"base": "f00d", "timed": 6}), "the option 'base' is 'f00d' and 'beef'"),
    (lambda p: compared(p, 2, revision="beef"), "the commit is 'beef' and 'c0ffee'"),
    (lambda p: compared(p, 2, machine="0123"), "the machine is '0123' and"),
    (lambda p: compared(p, 2, split={name: 4 - at for name, at in SPLIT.items()} | {ROWS[2].id: 2}), "the shard of"),
    (lambda p: compared(p, 2, split={name: 4 - at for name, at in SPLIT.items()} | {ROWS[2].id: 1}), "is no shard"),
    (lambda p: compared(p, 2, count=5), "is no shard: '2/5' is no shard; measure it again"),
    (lambda p: write(p / "2.jsonl", 2), "don't belong together: one holds evidence, one verdicts"),
    (alone, "is no shard: it was compared without --perf-shard"),
])
def test_verdicts_that_do_not_belong_together_are_refused(tmp_path, capsys, make, said):
    code, whole = merge(tmp_path, compared(tmp_path, 1), make(tmp_path))
    assert code == REFUSED
    assert not whole.exists()
    line, = capsys.readouterr().err.splitlines()
    assert said in line


# pytest

@pytest.fixture
def committed(monkeypatch):
    monkeypatch.setattr(machine, "revision", lambda: "c0ffee")


def test_pytest_collects_a_shard(project, committed):
    listed = ("--collect-only", "-q", *SMALL)
    parts = [collected(project.runpytest_inprocess(*listed, f"--perf-shard={index}/2")) for index in (1, 2)]
    assert parts[0] | parts[1] == collected(project.runpytest_inprocess(*listed))
    assert not parts[0] & parts[1]
    assert all(len(part) == 2 for part in parts)


def test_progress_counts_the_rows_that_are_left():
    anything: Any = None
    progress = Progress(anything, {"it[one]", "it[two]"})
    session: Any = SimpleNamespace(items=[SimpleNamespace(nodeid=name) for name in ("it[two]", "other")])
    progress.pytest_collection_finish(session)
    assert progress.measured == {"it[two]"}


@pytest.mark.parametrize("words", [("--perf-shard=1/2",), ("-k", "n32")])
def test_only_the_rows_that_are_left_are_compiled_ahead(project, committed, words):
    class Spy:
        @pytest.hookimpl(trylast=True)
        def pytest_collection_finish(self, session):
            self.left = [w.n for w in session.config.stash[settings_key].workloads]

    spy = Spy()
    project.inline_run(*SMALL, "--collect-only", *words, plugins=[spy])
    assert spy.left == [32, 32]


def test_the_ini_file_s_seconds_are_for_runs_that_are_split(project, committed):
    write(project.path / "1.jsonl", 1)
    project.makeini("[pytest]\nperf_shard_seconds = 1.jsonl\n")
    listed = (*SMALL, "--perf-heads=8", "--collect-only")
    assert project.runpytest_inprocess(*listed).ret == 0
    split = project.runpytest_inprocess(*listed, "--perf-shard=1/2")
    split.stdout.fnmatch_lines(["*split by the seconds of 1 rows*"])


def test_a_shard_says_how_it_was_split(project, committed):
    listed = (*SMALL, "--perf-heads=8", "--perf-shard=1/2", "--collect-only")
    result = project.runpytest_inprocess(*listed)
    result.stdout.fnmatch_lines(["*2 deselected*", "shard 1/2: 2 of 4 rows, split by number, for no --perf-shard-sec*"])
    write(project.path / "1.jsonl", 1)
    again = project.runpytest_inprocess(*listed, "--perf-shard-seconds=1.jsonl")
    again.stdout.fnmatch_lines(["shard 1/2: 2 of 4 rows, split by the seconds of 1 rows in *1.jsonl, 3 unknown"])


@pytest.mark.parametrize(("arguments", "said"), [
    (SMALL[1:], "--perf-shard: splits benchmarks only; add --benchmark-only"),
    ((*SMALL, "--perf-shard-seconds=none.jsonl"), "none.jsonl: No such file or directory; give an evidence file"),
    ((*SMALL, "-k", "n64"), "--perf-shard 1/2: only 1 groups of rows"),
    ((*SMALL, "test_other.py"), "--perf-shard: the tests named measure no workload; drop it"),
])
def test_what_can_not_be_split_is_refused(project, committed, arguments, said):
    project.makepyfile(test_other="def test_other():\n    pass\n")
    result = project.runpytest_inprocess(*arguments, "--perf-shard=1/2", "--collect-only")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in result.stderr.str() + result.stdout.str()


@pytest.mark.parametrize("revision", [None, "c0ffee+dirty"])
def test_only_a_commit_is_split(project, monkeypatch, revision):
    monkeypatch.setattr(machine, "revision", lambda: revision)
    result = project.runpytest_inprocess(*SMALL, "--perf-shard=1/2", "--collect-only")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "the working tree is no commit of its own" in result.stderr.str()
