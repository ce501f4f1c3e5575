"""Tests what a night keeps for later nights, and whom it compares: on nights made by hand."""
from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from perf.bench import controls as frozen
from perf.compare.checkout import working_tree
from perf.measure import machine
from perf.measure.evidence import Evidence, Writer
from perf.nightly import compare, measure, memory, screen, verdict
from perf.nightly.compare import Request
from perf.nightly.night import Machine, Night, Options
from perf.nightly.steps import Folder, Result, Skipped
from perf.policy.thresholds import Thresholds
from perf.system import files
from perf.tests.comparisons import comparison as night_of
from perf.tests.comparisons import finding
from perf.verdict.nightly import Suspect
from perf.verdict.nights import Comparison, Measurement
from perf.verdict.verdict import Verdict
from perf.workloads.workload import BARE, Workload

CELL = Workload(BARE, "softmax", "sdpa", "forward", True, 1, 8, 8, 512, 512, 64, "fp32")
CELLS = [replace(CELL, n=n, m=n) for n in (512, 1024, 2048)]
A, B, C = (cell.id for cell in CELLS)
GOOD, HEAD = "a" * 40, "b" * 40
LEARNED = Thresholds(spread=0.01, weight=15.0)


def row(cell=CELL, median=1e-3, outcome="ok", **changed):
    samples = (median, 1.01 * median, 0.99 * median) if outcome == "ok" else ()
    return Evidence(cell, outcome, samples=samples, median=median if outcome == "ok" else None, rounds=3, **changed)


def rows(*medians):
    return {cell.id: row(cell, median) for cell, median in zip(CELLS, medians, strict=False)}


def test_a_night_is_two_launches_of_each_benchmark_and_more_of_a_suspect():
    passes = [rows(1e-3, 2e-3, 3e-3), rows(1.1e-3, 2.1e-3), {A: row(CELLS[0], 1.2e-3)}, {}]
    found = memory.measurement(HEAD, {"torch": "2.13", "os": "Linux"}, passes, {"compute/matmul v1": [1e-3, 1e-3]})
    assert found.launches == {A: (1e-3, 1.1e-3, 1.2e-3), B: (2e-3, 2.1e-3)}
    assert found.within == {A: pytest.approx(0.01), B: pytest.approx(0.01)}
    assert found.environment == {"torch": "2.13"}  # a time does not depend on the rest
    assert found.controls == {"compute/matmul v1": [1e-3, 1e-3]}


@pytest.mark.parametrize("bad", [row(CELLS[0], outcome="invalid", reason="busy"),
                                 replace(row(CELLS[0]), reason="kept, though the machine was unfit")])
def test_what_an_unfit_machine_measured_is_not_remembered(bad):
    assert memory.measurement(HEAD, {}, [{A: bad}, rows(1e-3), {}, {}], {}).launches == {}


def suspect(name=A, why="slower", thresholds=LEARNED):
    return Suspect(name, why, GOOD, thresholds)


MEASURED = Measurement(HEAD, {"torch": "2.13"}, {A: (1e-3, 1e-3), B: (2e-3, 2e-3)}, {A: 0.01, B: 0.01}, {})


def of(word, ratio=1.0):
    return Verdict(word, ratio, ratio, ratio, 5, "", 0)


def test_what_regressed_is_no_history_until_it_is_accepted():
    compared = [(suspect(A), [0.1] * 5, of("regressed", 1.1)), (suspect(B), [0.001] * 5, of("ok"))]
    kept = memory.lesson(MEASURED, compared, [A])
    assert set(kept.launches) == set(kept.within) == {B}
    assert kept.changed == ()
    assert [one.benchmark for one in kept.comparisons] == [B]
    accepted = memory.lesson(MEASURED, compared, [])
    assert set(accepted.launches) == {A, B}
    assert accepted.changed == (A,)  # its history begins here


def test_nights_come_back_the_oldest_first_and_of_their_device(tmp_path):
    for i, (device, began) in enumerate([("cuda", 3.0), ("cuda", 1.0), ("cpu", 2.0), ("cuda", 9.0)]):
        memory.save(tmp_path / f"{i}.measured", began, device, replace(MEASURED, commit=str(i)))
    (tmp_path / "broken.measured").write_text("{")
    (tmp_path / "other.measured").write_text('{"device": "cuda", "began": 1, "night": {"schema": 99}}')
    found, problems = memory.load(tmp_path, "cuda", 9.0)
    assert [one.commit for one in found] == ["1", "0"]
    assert found[0].launches == {name: list(seconds) for name, seconds in MEASURED.launches.items()}
    assert [Path(line.partition(":")[0]).name for line in problems] == ["broken.measured", "other.measured"]


@pytest.fixture
def night(tmp_path, monkeypatch):
    """Makes a night whose processes are made up: passes and controls write what they would."""
    options = Options("cpu", "quick", tmp_path / "results", tmp_path / "nights", tmp_path, 60.0, None, None)
    made = Night(tmp_path, options, Folder(tmp_path, 1e9), HEAD, Machine("0123", {"torch": "2.13"}, None), "cpu")
    made.folder.save(Result("screen", "ok"))

    def run(self, name, *words, secrets=False):
        ran.append(words)
        self.folder.log(name).write_text("$ pytest\nfine\n")
        if words[0] == screen.__name__:
            for control in frozen.of("cpu"):
                files.append(Path(words[3]), {"control": control.name, "launch": int(words[2]), "seconds": 1e-3})
        if words[0] == "pytest":
            writer = Writer(Path(next(word for word in words if word.startswith("--perf-evidence=")).partition("=")[2]))
            for cell in CELLS:
                if "-k" not in words or cell.id in words[words.index("-k") + 1]:
                    writer.append(row(cell, medians.get(cell.id, 1e-3)))
        return 0

    ran: list[tuple[str, ...]] = []
    medians: dict[str, float] = {}
    monkeypatch.setattr(Night, "run", run)
    return made, ran, medians


def history(made, count, *, audits=True):
    for i in range(count):
        kept = Measurement(GOOD if i < count - 3 else "c" * 40, {"torch": "2.13"}, {
            cell.id: (1e-3 * (1 + 0.001 * (i % 3)), 1e-3) for cell in CELLS}, dict.fromkeys([A, B, C], 0.01),
            {one.name: (1e-3, 1e-3) for one in frozen.of("cpu")},
            tuple(Comparison(name, 0.001 * (-1) ** i, 0.002, True) for name in (A, B)) if audits else ())
        memory.save(made.options.nights / f"{i}.measured", float(i), "cpu", kept)


def test_a_slower_benchmark_is_measured_again_and_becomes_a_suspect(night):
    made, ran, medians = night
    history(made, 30)
    medians[B] = 1.1e-3
    measure.benchmarks(made)
    screen.launches(made)
    assert sum(words[0] == screen.__name__ for words in ran) == 2
    ran.clear()
    screen.screen(made)
    assert [words[words.index("-k") + 1] for words in ran] == [B, B]
    found = screen.result(made)
    assert found is not None
    assert [(one.benchmark, one.why, one.base) for one in found["suspects"]] == [(B, "slower", GOOD)]
    assert set(found["cleared"]) == {A, C}
    assert found["cleared"][A].word == "ok"
    files.append(made.folder.path / "compared.jsonl", {"finding": asdict(finding("regressed", B)), "base": GOOD,
                                                       "ratios": [0.09] * 5, "seconds": 1.0})
    screen.learn(made)
    [kept] = memory.load(made.options.nights, "cpu", 2e9)[0][-1:]
    assert set(kept.launches) == {A, C}  # it will be found again tomorrow


def test_what_history_can_promise_nothing_of_is_not_cleared_by_it(night):
    made, _, medians = night
    history(made, 30, audits=False)
    medians[B] = 1.1e-3
    measure.benchmarks(made)
    screen.launches(made)
    screen.screen(made)
    found = screen.result(made)
    assert found is not None
    assert found["cleared"] == {}
    assert [one.benchmark for one in verdict.by_urgency(found, [A, B, C], GOOD, set())] == [A, B, C]


def test_without_enough_nights_every_benchmark_is_compared(night):
    made, _, _ = night
    history(made, 9)
    measure.benchmarks(made)
    screen.launches(made)
    with pytest.raises(Skipped, match="9 nights of history, 10 are needed: every benchmark is compared"):
        screen.screen(made)
    made.folder.save(Result("screen", "skipped"))
    assert screen.result(made) is None
    screen.learn(made)
    assert set(memory.load(made.options.nights, "cpu", 2e9)[0][-1].launches) == {A, B, C}


def test_a_base_that_is_named_makes_every_benchmark_be_compared(night):
    made, _, _ = night
    named = replace(made, options=replace(made.options, last_good=GOOD))
    with pytest.raises(Skipped, match="every benchmark is compared with --last-good"):
        screen.screen(named)


def test_what_regressed_before_is_timed_until_it_is_good_again():
    """Though a revert made its sources those of the last good commit: it is its time that has to be good."""
    bad, good, unknown = (night_of(finding(word, A)) for word in ("regressed", "ok", "unchanged"))
    assert verdict.open_regressions([bad]) == {A}
    assert verdict.open_regressions([unknown, bad]) == {A}
    assert verdict.open_regressions([good, bad]) == set()
    assert verdict.open_regressions([bad, good]) == {A}
    assert verdict.open_regressions([]) == set()


def test_the_most_pressing_is_compared_first():
    look = {"suspects": [suspect(A)], "audits": [suspect(C, "audit"), suspect(A, "audit")],
            "promised": {A: 0.05, B: None, C: 0.05, "d": 0.05, "e": 0.05}}
    learned = asdict(LEARNED)
    assert verdict.by_urgency(look, [A, B, C, "d", "e"], HEAD, {"d"}) == [
        Request(A, GOOD, learned), Request(B, HEAD), Request("d", HEAD), Request(C, GOOD, learned, timed=True)]
    assert verdict.by_urgency(look, [A, B, C], None, set()) == [
        Request(A, GOOD, learned), Request(C, GOOD, learned, timed=True)]
    nothing = look | {"promised": {}}
    assert verdict.by_urgency(nothing, [A], HEAD, set())[0] == Request(A, GOOD)  # not by settings that promise nothing


def test_what_history_clears_is_a_finding():
    cleared = {A: Verdict("ok", 1.001, 0.99, 1.01, 0, "+0.1 % against 30 nights", 0, 0.05)}
    [found] = verdict.findings(rows(1e-3), {}, "late", first=False, cleared=cleared)
    assert (found.word, found.ratio, found.head, found.certified) == ("ok", 1.001, 1e-3, 0.05)
    compared = {A: finding("regressed", A)}
    assert verdict.findings(rows(1e-3), compared, "late", first=False, cleared=cleared) == [compared[A]]


def test_a_figure_without_noise_that_rose_makes_a_benchmark_be_compared(night):
    from perf.history.results import write

    made, _, _ = night
    told = machine.fingerprint()
    root = Path(__file__).parents[2]
    # Not machine.revision(): it is of the folder in which it was first asked, by whatever test.
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True,
                              check=True).stdout.strip()
    before = [replace(row(cell), clock="perf_counter", peak_bytes=1000, error=1e-6, bound=2e-6,
                      counters={"launches": 3}, machine=machine.identity(), revision=revision) for cell in CELLS]
    write(before, made.options.results, machines={machine.identity(): told}, root=root)
    now = {cell.id: each for cell, each in zip(CELLS, before, strict=True)}
    assert verdict.higher_counts(made, now, revision) == set()
    assert verdict.higher_counts(made, now | {A: replace(now[A], counters={"launches": 4})}, revision) == {A}
    assert verdict.higher_counts(made, now | {B: replace(now[B], peak_bytes=1020)}, revision) == {B}
    assert verdict.higher_counts(made, now | {C: replace(now[C], error=1.6e-6)}, revision) == {C}
    assert verdict.higher_counts(made, now | {A: replace(now[A], peak_bytes=1001, error=1.1e-6)}, revision) == set()
    assert verdict.higher_counts(made, now | {A: replace(now[A], peak_bytes=9999)}, GOOD) == set()
    assert verdict.higher_counts(made, now, None) == set()


def test_one_launch_of_the_controls(tmp_path):
    path, chosen = tmp_path / "controls.jsonl", frozen.of("cpu")[-2:]

    def refused(device, tensor):
        raise RuntimeError("out of memory")

    refuses = frozen.Control("memory/none v1", "memory", refused)
    for launch in (1, 2, 2):  # the third finds all done
        screen.main(torch.device("cpu"), launch, path, [refuses, *chosen])
    assert {line["control"] for line in files.records(path)} <= {one.name for one in chosen}
    assert all(len(seconds) <= 2 and min(seconds) > 0 for seconds in screen.control_medians(path).values())


def test_the_same_sources_are_timed_only_where_that_is_asked_for(tmp_path, monkeypatch):
    timed = []

    def pairs(together, *rest):
        timed.append([one.benchmark for _, one in together])
        return iter(())

    monkeypatch.setattr(compare, "_pairs", pairs)
    monkeypatch.setattr(compare, "checkout", lambda base, root: working_tree(root))
    root = Path(__file__).parents[2]
    wanted = [Request(A, GOOD), Request(B, GOOD, timed=True)]
    found = list(compare.decide(wanted, "cpu", 60.0, root))
    assert [(one.benchmark, one.word) for one, _, _ in found] == [(A, "unchanged")]
    assert timed == [[B]]
    assert not list(compare.decide([Request(B, GOOD, timed=True)], "cpu", 0.0, root))


def test_a_request_is_read_as_it_was_written():
    wanted = Request(A, GOOD, asdict(LEARNED), timed=True)
    told = json.loads(json.dumps(asdict(wanted)))
    assert Request(**told) == wanted
    assert Thresholds(**told["thresholds"]) == LEARNED
