"""Launch pairs, over workers that answer what the test tells them to; one test has real ones."""
from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from perf.cells import BARE, Workload
from perf.decide import company, pair, process
from perf.decide.launcher import Launcher
from perf.decide.pair import Pair, schedule
from perf.decide.pairs import Found, compare
from perf.decide.process import Died, variables
from perf.decide.verdict import Side, Thresholds
from perf.measure import nvml

pytestmark = pytest.mark.slow  # starts processes

ROOT = Path(__file__).parents[2]
SMALL = Workload(BARE, "softmax", "eager", "forward", True, 1, 2, 2, 32, 32, 8, "fp32")
OTHER = replace(SMALL, n=64, m=64)
THIRD = replace(SMALL, n=128, m=128)
CLEAR = Thresholds(least_pairs=3, most_pairs=8)

# Takes what is in behaviour.json for its answers. The machine gets slower with each turn of either side.
FAKE = """
import json, os, pathlib, subprocess, sys, time
here = pathlib.Path.cwd()
told, log = json.loads((here / "behaviour.json").read_text()), here.parent / "log"
n = turn = 0
for line in sys.stdin:
    request = json.loads(line)
    kind = next(iter(request))
    if kind == "quit" and not told.get("stays"):
        break
    begun = time.monotonic()
    n = request["prepare"]["n"] if kind == "prepare" else n
    does = told.get(f"{kind} {n}", told.get(kind))
    if isinstance(does, list):  # one after the other
        does = does.pop(0) if does else None
    if does == "die":
        print("a line before", file=sys.stderr)
        sys.exit("the last line")
    if does == "kill":
        os.kill(os.getpid(), 9)
    if does == "hang":
        child = subprocess.Popen(["sleep", "100"])
        (here.parent / "pids").write_text(f"{os.getpid()} {child.pid}")
        time.sleep(100)
    if kind == "rounds":
        turns = here.parent / "turns"
        done = int(turns.read_text()) if turns.exists() else 0
        turns.write_text(str(done + 1))
        seconds = told.get("seconds", 0.02) * (1 + told.get("drift", 0) * done)
        if turn in told.get("disturbed", []):
            seconds *= 10
        turn += 1
        answer = does or {"seconds": [seconds] * request["rounds"]}
        time.sleep(0.002)
    else:
        clock = told.get("clock", "graph") if request.get("graph", True) else "events"
        answer = does or {"prepare": {"ready": True, "counters": {"operators": 3}, "error": 1e-6, "peak_bytes": 8},
                          "plan": {"seconds": 0.02, "iterations": 1, "clock": clock},
                          "state": {"unfit": None, "imports": ["json"]}, "release": {}}[kind]
    with log.open("a") as file:
        file.write(json.dumps([here.name, kind, n, begun, time.monotonic(), request.get("check"), answer]) + "\\n")
    print(json.dumps(answer), flush=True)
"""

Sides = Callable[..., tuple[Path, Path]]


@pytest.fixture
def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sides:
    """Folders of a base and a head whose workers behave as told."""
    monkeypatch.setattr(process, "WORKER", "fake_worker")
    monkeypatch.setattr(pair, "choose_core", lambda: 0)
    monkeypatch.setattr(company, "SHORTEST", math.inf)  # the machine that tests run on may be busy

    def made(base: dict[str, Any] | None = None, head: dict[str, Any] | None = None) -> tuple[Path, Path]:
        for name, told in (("base", base), ("head", head)):
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            (folder / "fake_worker.py").write_text(FAKE)
            (folder / "behaviour.json").write_text(json.dumps(told or {}))
        return tmp_path / "base", tmp_path / "head"

    return made


def log(folder: Path) -> list[list[Any]]:
    return [json.loads(line) for line in (folder.parent / "log").read_text().splitlines()]


@pytest.fixture(autouse=True)
def _no_worker_is_left() -> Iterator[None]:
    yield
    left = [child for child in psutil.Process().children(recursive=True) if "fake_worker" in child.cmdline()]
    assert not left


@pytest.mark.parametrize("head_first", [False, True])
def test_turns_go_abba_and_never_at_the_same_time(sides: Sides, head_first: bool) -> None:
    base, head = sides()
    with Pair(base, head, "cpu", head_first=head_first) as made:
        made.prepare(SMALL)
        made.log_ratio(SMALL, rounds=4)
    turns = [entry for entry in log(base) if entry[1] == "rounds"]
    order = "BAABBAAB" if head_first else "ABBAABBA"
    assert [name for name, *_ in turns] == [{"A": "base", "B": "head"}[side] for side in order]
    timed = [entry for entry in log(base) if entry[1] in ("plan", "rounds")]
    assert all(before[4] <= after[3] for before, after in pairwise(timed))


def test_both_sides_are_timed_by_the_same_clock(sides: Sides) -> None:
    """A call that can't be captured is launched; the other side's graph would lack what launching takes."""
    base, head = sides(head={"clock": "events"})
    with Pair(base, head, "cpu") as made:
        made.prepare(SMALL)
        made.log_ratio(SMALL)
    planned = [(side, answer["clock"]) for side, kind, *_, answer in log(base) if kind == "plan"]
    assert planned == [("base", "graph"), ("head", "events"), ("base", "events"), ("head", "events")]


def test_a_drift_of_the_machine_is_no_difference(sides: Sides) -> None:
    base, head = sides({"seconds": 0.02, "drift": 0.02}, {"seconds": 0.021, "drift": 0.02})
    with Pair(base, head, "cpu") as made:
        made.prepare(SMALL)
        ratio = made.log_ratio(SMALL, rounds=20)
    assert ratio == pytest.approx(math.log(1.05), abs=0.002)
    assert len(made.times.base) == len(made.times.head) == 20


def test_a_few_disturbed_turns_are_no_difference(sides: Sides) -> None:
    base, head = sides({"seconds": 0.02}, {"seconds": 0.021, "disturbed": [0, 1, 2, 3, 4]})
    with Pair(base, head, "cpu") as made:
        made.prepare(SMALL)
        assert made.log_ratio(SMALL, rounds=12) == pytest.approx(math.log(1.05))


@pytest.mark.parametrize(("seconds", "rounds", "of_turn", "turns"), [
    (0.0002, None, 50, 50), (0.01, None, 1, 50), (0.002, None, 5, 50), (0.1, None, 1, 6), (3.0, None, 1, 4),
    (1e-5, None, 1000, 50), (0.02, 10, 1, 10), (0.001, 10, 10, 4)])
def test_rounds_suit_the_call(seconds: float, rounds: int | None, of_turn: int, turns: int) -> None:
    assert schedule(seconds, rounds) == (of_turn, turns)
    assert rounds or seconds > 0.1 or 2 * of_turn * turns * seconds <= 1.3 * pair.SECONDS["cpu"]
    assert rounds or seconds > 0.02 or schedule(seconds, None, 0.1)[1] * of_turn * 2 * seconds <= 0.15


def test_what_a_side_says_of_itself(sides: Sides) -> None:
    base, head = sides({"prepare": {"missing": "no such variant"}}, {"prepare": {"wrong": "out 0.5 > 0.1"}})
    with Pair(base, head, "cpu") as made:
        old, new = made.prepare(SMALL)
    assert (old.missing, new.wrong) == ("no such variant", "out 0.5 > 0.1")
    with Pair(*sides(), "cpu") as made:
        old, new = made.prepare(SMALL)
    assert old == new
    assert old.counters == {"operators": 3}
    assert (old.error, old.peak_bytes, old.missing, old.wrong) == (1e-6, 8, None, None)


def test_what_fails_on_the_head_alone_is_wrong_and_otherwise_missing(sides: Sides) -> None:
    failed = {"prepare": {"failed": "TypeError: unexpected keyword"}}
    for base_told, head_told in ((failed, {}), ({}, failed), (failed, failed)):
        with Pair(*sides(base_told, head_told), "cpu") as made:
            base, head = made.prepare(SMALL)
        assert bool(base.missing) == bool(base_told)
        assert bool(head.wrong) == (bool(head_told) and not base_told)
        assert bool(head.missing) == bool(head_told and base_told)


FULL = {"missing": "softmax:eager: does not fit: needs 9 GB, 8 GB are free"}


@pytest.mark.parametrize(("base_told", "head_told", "missing"), [
    ([], [FULL], [False, False]), ([FULL], [FULL], [False, False]),  # in the way of each other while they were checked
    ([], [FULL, FULL], [False, True]), ([FULL, FULL], [], [True, False]),  # alone as well
    ([FULL, None, FULL], [], [True, True])])  # not both at once
def test_what_does_not_fit_is_tried_without_the_other_side(sides: Sides, base_told: list, head_told: list,
                                                           missing: list[bool]) -> None:
    with Pair(*sides({"prepare": base_told}, {"prepare": head_told}), "cpu") as made:
        found = made.prepare(SMALL)
    assert [bool(side.missing) for side in found] == missing
    assert not any(side.wrong for side in found)
    assert all(side.counters or side.missing for side in found)  # it was checked, too


@pytest.mark.parametrize(("kind", "answer", "side"), [
    ("plan", FULL, "both"), ("rounds", FULL, "both"), ("rounds", {"failed": "RuntimeError: it broke"}, "head")])
def test_what_can_not_go_on_is_told_and_no_time(sides: Sides, kind: str, answer: dict, side: str) -> None:
    with Pair(*sides({}, {kind: answer}), "cpu") as made, pytest.raises(Died) as error:
        _measured(made)
    assert error.value.side == side
    assert error.value.reason in answer.values()


@pytest.mark.parametrize(("does", "reason"), [
    ("die", r"^head: its worker died \(exit status 1\): the last line$"),
    ("kill", r"^head: its worker died \(SIGKILL\)"),
    ("hang", r"^head: its worker gave no answer in \d s$")])
@pytest.mark.parametrize("kind", ["prepare", "rounds"])
def test_a_worker_that_dies_or_hangs_is_told_in_one_line(sides: Sides, monkeypatch: pytest.MonkeyPatch, kind: str,
                                                         does: str, reason: str) -> None:
    if does == "hang":
        monkeypatch.setattr(pair, "PREPARING", 3.0)
        monkeypatch.setattr(pair, "ANSWERING", 0.6)
    base, head = sides({}, {kind: does})
    with Pair(base, head, "cpu") as made:
        with pytest.raises(Died, match=reason) as error:
            _measured(made)
        assert error.value.side == "head"
    if does == "hang":
        pids = map(int, (base.parent / "pids").read_text().split())
        assert _gone(*pids)  # it, and what it started


def _measured(made: Pair) -> float:
    made.prepare(SMALL)
    return made.log_ratio(SMALL)


def _gone(*pids: int, seconds: float = 5.0) -> bool:
    """Within a moment: what is killed with its parent's group need not be gone when that is."""
    end = time.monotonic() + seconds
    while left := any(_runs(pid) for pid in pids):
        if time.monotonic() > end:
            break
        time.sleep(0.01)
    return not left


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_both_dead_is_nobodys_fault(sides: Sides) -> None:
    with Pair(*sides({"prepare": "die"}, {"prepare": "die"}), "cpu") as made, pytest.raises(Died) as error:
        made.prepare(SMALL)
    assert error.value.side == "both"


def test_a_worker_that_does_not_quit_is_ended(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "QUIT", 0.2)
    with Pair(*sides({"stays": True, "quit": "hang"}), "cpu") as made:
        pid = made.base.pid
    assert not _runs(pid)


def test_a_fault_is_put_into_the_head_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERF_INJECT", "clone")
    base, head = (variables(side, ROOT, "cpu") for side in ("base", "head"))
    assert "PERF_INJECT" not in base
    assert head.pop("PERF_INJECT") == "clone"
    assert base == head
    assert base["OMP_NUM_THREADS"] == "1"
    assert base["PERF_FAMILY"] == str(os.getpid())
    assert variables("base", ROOT, "cuda").get("OMP_NUM_THREADS") == os.environ.get("OMP_NUM_THREADS")


def test_on_a_gpu_the_sibling_is_no_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from a process that is not the child's parent."""
    monkeypatch.setattr(nvml, "os", SimpleNamespace(getpid=lambda: 2 ** 22 + 7, environ=os.environ))
    child = psutil.Popen(["sleep", "100"])
    try:
        monkeypatch.delenv(nvml.FAMILY, raising=False)
        assert not nvml._ours(child.pid)
        monkeypatch.setenv(nvml.FAMILY, str(psutil.Process(child.pid).ppid()))
        assert nvml._ours(child.pid)
    finally:
        child.kill()
        child.wait()


# compare


def verdicts(base: Path, head: Path, *workloads: Workload, seconds: float = 60.0,
             thresholds: Any = CLEAR) -> tuple[dict[str, str], dict[str, Found]]:
    found: dict[str, Found] = {}
    told = compare(workloads, base, head, "cpu", thresholds, seconds, found=found)
    return {w.id: verdict.word for w, verdict in told}, found


def test_pairs_are_made_until_each_benchmark_is_decided(sides: Sides) -> None:
    base, head = sides({"seconds": 0.02}, {"seconds": 0.024})
    said: list[str] = []
    found: dict[str, Found] = {}
    words = [(w, verdict.word) for w, verdict in compare([SMALL, OTHER], base, head, "cpu", CLEAR, 60, said.append,
                                                         found=found)]
    assert words == [(SMALL, "regressed"), (OTHER, "regressed")]
    launches = len(found[SMALL.id].ratios)
    assert 3 <= launches < 8
    assert found[SMALL.id].ratios == pytest.approx([math.log(1.2)] * launches)
    assert len(found[SMALL.id].head_seconds) >= 4 * launches
    assert said[-1].startswith(f"pair {launches}, ")
    prepared = [entry for entry in log(base) if entry[1] == "prepare"]
    assert [check for *_, check, _ in prepared] == [True] * 4 + [False] * 4 * (launches - 1)  # once a side
    first = [next(name for name, kind, *_ in part if kind == "rounds") for part in _launches(log(base))]
    assert first == list(islice(cycle(["base", "head"]), launches))


def _launches(entries: list[list[Any]]) -> list[list[list[Any]]]:
    """Entries of each pair: a new one begins where the first benchmark is prepared."""
    starts = [i for i, (name, kind, n, *_) in enumerate(entries) if (kind, n) == ("prepare", SMALL.n)][::2]
    return [entries[start:end] for start, end in zip(starts, [*starts[1:], len(entries)], strict=True)]


def test_where_counters_have_decided_six_pairs_tell_how_much() -> None:
    """What took 24 pairs on a busy machine to narrow, when the peak memory had said it after one."""
    patient = replace(CLEAR, most_pairs=64)
    ratios = [0.3, -0.1, 0.2, 0.0, 0.25, -0.05]
    same, larger = Side({"operators": 3}, 1e-6, 1000), Side({"operators": 3}, 1e-6, 2000)
    assert Found(SMALL, patient, same, larger, ratios, checked=True).done
    assert not Found(SMALL, patient, same, larger, ratios[:5], checked=True).done
    assert not Found(SMALL, patient, same, same, ratios, checked=True).done
    assert Found(SMALL, patient, same, larger, ratios, checked=True).verdict().word == "regressed"
    slower_by_launches = Side({"operators": 4}, 1e-6, 1000)  # forgiven where the time improves, so time has to tell
    assert not Found(SMALL, patient, same, slower_by_launches, ratios, checked=True).done


@pytest.mark.parametrize(("base_told", "head_told", "word"), [
    ({"prepare 64": {"missing": "no"}}, {}, "new"), ({}, {"prepare 64": {"missing": "no"}}, "missing"),
    ({}, {"prepare 64": {"wrong": "no"}}, "wrong"), ({"rounds 64": "die"}, {}, "new"),
    ({}, {"rounds 64": "die"}, "wrong"), ({"prepare 64": "die"}, {"prepare 64": "die"}, "missing")])
def test_one_that_can_not_be_compared_leaves_the_others_alone(sides: Sides, base_told: dict, head_told: dict,
                                                              word: str) -> None:
    words, found = verdicts(*sides(base_told, head_told), SMALL, OTHER, THIRD)
    assert words == {SMALL.id: "ok", OTHER.id: word, THIRD.id: "ok"}
    assert not found[OTHER.id].ratios


def test_an_unfit_machine_gives_no_evidence(sides: Sides) -> None:
    words, found = verdicts(*sides({"state": {"unfit": "the GPU throttled", "imports": []}}), SMALL)
    assert words == {SMALL.id: "invalid"}
    assert not found[SMALL.id].ratios
    assert found[SMALL.id].verdict().why == "the GPU throttled"
    assert len(found[SMALL.id].unfit) == 3


def test_the_budget_ends_it(sides: Sides) -> None:
    started = time.monotonic()
    words, found = verdicts(*sides(), SMALL, seconds=0.0)
    assert words == {SMALL.id: "inconclusive"}
    assert len(found[SMALL.id].ratios) == 1
    assert time.monotonic() - started < 10


def test_thresholds_may_differ_by_benchmark(sides: Sides) -> None:
    coarse = Thresholds(effect=0.3, least_pairs=3, most_pairs=8)
    folders = sides({"seconds": 0.02}, {"seconds": 0.0206})
    for thresholds in ({SMALL.id: CLEAR, OTHER.id: coarse}, lambda w: coarse if w == OTHER else CLEAR):
        words, found = verdicts(*folders, SMALL, OTHER, thresholds=thresholds)
        assert (found[SMALL.id].thresholds, found[OTHER.id].thresholds) == (CLEAR, coarse)
        assert words[OTHER.id] == "ok"


def test_rounds_that_history_chose_are_taken(sides: Sides) -> None:
    folders = sides({"seconds": 0.02}, {"seconds": 0.02})
    _, found = verdicts(*folders, SMALL, OTHER, thresholds=lambda w: replace(CLEAR, rounds=5 if w == SMALL else 0))
    chosen, timed = (len(found[w.id].head_seconds) / len(found[w.id].ratios) for w in (SMALL, OTHER))
    assert (chosen, timed) == (6, 26)  # turns are even in number; a second for both sides


def test_with_cores_to_spare_the_next_pair_waits_while_one_is_timed(sides: Sides) -> None:
    base, head = sides()
    started = []
    with Launcher(base, head, "cpu", ahead=True) as launcher:
        for head_first in (False, True, False):
            with launcher.pair(head_first=head_first) as made:
                assert made.head_first is head_first
                assert [made.base.side, made.head.side] == ["base", "head"]
                waiting = launcher._waiting
                assert waiting is not None
                pids = [made.base.pid, made.head.pid, waiting.base.pid, waiting.head.pid]
                assert all(psutil.pid_exists(pid) for pid in pids)
                made.prepare(SMALL)
                made.log_ratio(SMALL, rounds=4)
            started.append(pids)
    assert [late[:2] for late in started[1:]] == [early[2:] for early in started[:-1]]  # that it waited is who serves
    assert not any(psutil.pid_exists(pid) for pids in started for pid in pids)


def test_what_a_pair_had_to_import_a_later_one_begins_with(sides: Sides) -> None:
    begin = []
    with Launcher(*sides(), "cpu", ahead=True) as launcher:
        for _ in range(3):
            with launcher.pair(head_first=False) as made:
                begin += [psutil.Process(process.pid).cmdline()[4:] for process in (made.base, made.head)]
                made.prepare(SMALL)
                made.log_ratio(SMALL, rounds=4)
    assert begin == [[]] * 4 + [["json"]] * 2  # the second was started with the first


def test_a_pair_goes_with_the_one_that_can_not_be_started(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Launcher(*sides(), "cpu", ahead=True)
    started = [launcher._started()]

    def next_one() -> Pair:
        if not started:
            raise OSError("no more processes")
        return started.pop()

    monkeypatch.setattr(launcher, "_started", next_one)
    with pytest.raises(OSError, match="no more"), launcher:
        launcher.pair(head_first=False)


def test_a_cpu_has_nobody_waiting_beside_the_pair_that_is_timed(sides: Sides) -> None:
    with Launcher(*sides(), "cpu") as launcher, launcher.pair(head_first=False):
        assert launcher._waiting is None
    assert Launcher(*sides(), "cuda").ahead is ((os.cpu_count() or 1) >= 6)


def test_breaking_off_ends_the_workers(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(Pair, "log_ratio", interrupt)
    with pytest.raises(KeyboardInterrupt):
        verdicts(*sides(), SMALL)


def test_a_tree_is_no_slower_than_itself() -> None:
    """Real workers, one benchmark that both can and one that neither can."""
    nowhere = replace(SMALL, backend="fa2")
    words, found = verdicts(ROOT, ROOT, SMALL, nowhere, thresholds=Thresholds(least_pairs=2, most_pairs=2))
    assert words[nowhere.id] == "missing"
    assert words[SMALL.id] in ("ok", "inconclusive")
    assert found[SMALL.id].base == found[SMALL.id].head  # what is counted repeats to the last byte
    assert len(found[SMALL.id].ratios) == 2
