"""The self-test: what it asks for, how it counts what came of it, and what it then says."""
from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
import torch

from perf.__main__ import main
from perf.compare import selftest
from perf.compare.selftest import FAULTS, QUICK_FAULTS, Trial, at_most, exit_code, injected, sentences, shown, summary
from perf.compare.side import INJECT
from perf.verdict.verdict import Thresholds, Verdict
from perf.workloads.workload import Workload

CPU = torch.device("cpu")
SDPA = Workload("attention", "softmax", "sdpa", "forward", True, 1, 8, 8, 512, 512, 64, "fp32")
LONG = replace(SDPA, n=1024, m=1024)
TILED = replace(SDPA, backend="tiled")


def verdict(word: str, certified: float | None = 0.03) -> Verdict:
    return Verdict(word, 1.01, 0.98, 1.03, 4, "1.0 % slower [-2.0, 3.0], 4 pairs", 0, 0.2, certified)


def trial(fault: str | None, word: str, certified: float | None = 0.03) -> Trial:
    return Trial(fault, SDPA, verdict(word, certified), 20.0, Thresholds(effect=0.05))


def asked(workloads, faults, seconds=1000.0):
    """Lists what is compared: with which fault in the environment, and for how long."""
    seen = []

    def compare(together, budget):
        seen.append((os.environ.get(INJECT), [w.id for w in together], budget))
        return [(w, verdict("ok")) for w in together]

    return seen, list(selftest.trials_of(workloads, faults, compare, seconds))


def test_each_variant_against_itself_and_the_faults_in_some():
    seen, trials = asked([SDPA, LONG, TILED], ["clone", "slow:5%"])
    assert [entry[:2] for entry in seen] == [
        (None, [SDPA.id, LONG.id]), (None, [TILED.id]), ("clone", [SDPA.id]), ("slow:5%", [SDPA.id])]
    assert [(one.fault, one.workload) for one in trials] == [
        (None, SDPA), (None, LONG), (None, TILED), ("clone", SDPA), ("slow:5%", SDPA)]
    assert INJECT not in os.environ


def test_time_that_is_left_is_shared():
    """A fault that counters tell takes one pair, which needs no budget."""
    seen, _ = asked([SDPA, TILED], ["clone", "slow:5%"], seconds=1000.0)
    assert [budget for _, _, budget in seen] == pytest.approx([1000 / 3, 500, 0, 1000], rel=0.01)


def test_the_fault_is_in_the_environment_only_meanwhile(monkeypatch):
    monkeypatch.setenv(INJECT, "sync")
    with injected(None):
        assert INJECT not in os.environ
    with injected("clone"):
        assert os.environ[INJECT] == "clone"

    def fails() -> None:
        with injected("clone"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert os.environ[INJECT] == "sync"


def test_the_quick_one_is_a_part():
    all_of_it, quick = selftest.benchmarks(CPU, quick=False), selftest.benchmarks(CPU, quick=True)
    assert {w.variant for w in quick} == {"softmax:sdpa"}
    assert set(quick) < set(all_of_it)
    assert "softmax:fa2" not in {w.variant for w in all_of_it}  # needs a GPU
    assert set(QUICK_FAULTS) < set(FAULTS)


@pytest.mark.parametrize(("fault", "due"), [("clone", True), ("recompile", True), ("slow:5%", True),
                                            ("slow:10%", True), ("slow:2%", False), (None, False)])
def test_what_has_to_be_caught(fault, due):
    assert trial(fault, "ok").must_be_caught == due


@pytest.mark.parametrize(("trials", "code"), [
    ([(None, "ok"), ("slow:5%", "regressed"), ("slow:2%", "ok")], 0),
    ([(None, "ok"), ("slow:5%", "inconclusive")], 0),  # claims nothing
    ([(None, "regressed"), ("slow:5%", "regressed")], 1),  # a false alarm
    ([(None, "improved")], 1),
    ([(None, "ok"), ("slow:5%", "ok")], 1),  # missed
    ([(None, "ok"), ("clone", "improved")], 1),
    ([(None, "ok"), ("clone", "missing")], 1),
    ([(None, "invalid"), ("clone", "invalid")], 10),
    ([(None, "invalid"), ("clone", "regressed")], 0)])
def test_exit_codes(trials, code):
    assert exit_code([trial(*one) for one in trials]) == code


def test_the_summary_counts():
    found = summary([*(trial(None, "ok", change) for change in (0.01, 0.02, 0.03, 0.06)), trial(None, "improved", None),
                     trial("slow:5%", "regressed"), trial("clone", "inconclusive"), trial("slow:2%", "regressed")])
    assert (found["compared"], found["false_alarms"]) == (5, 1)
    assert (found["caught"], found["due"], found["undecided"]) == (1, 2, 1)
    assert found["certified"] == {"half": 0.02, "nine in ten": 0.06, "all": 0.06}
    assert found["certified_at_effect"] == 3
    text = "\n".join(sentences(found))
    assert "5 benchmarks, 1 false alarm:" in text
    assert "half 2.0 %, nine in ten 6.0 %, all 6.0 %" in text.replace("%", " %")
    assert "3 of 5 benchmarks certify what matters" in text
    assert "1 of 2 caught, 1 undecided" in text
    assert found["time"] == {"0.05": [1, 1], "0.02": [1, 1]}
    assert "time alone: 5% 1 of 1, 2% 1 of 1: none was missed" in text


def test_it_says_at_which_size_it_begins_to_miss():
    trials = [trial("slow:10%", "regressed"), trial("slow:3%", "regressed"), trial("slow:3%", "inconclusive"),
              trial("slow:1%", "ok"), trial("clone", "ok")]
    assert sentences(summary(trials))[-1] == ("time alone: 10% 1 of 1, 3% 1 of 2, 1% 0 of 1: begins to miss at 3%")
    assert {"slow:1%", "slow:2%", "slow:3%", "slow:5%"} < set(FAULTS)


@pytest.mark.parametrize(("word", "slower", "code"), [
    ("ok", False, 0), ("inconclusive", False, 11), ("inconclusive", True, 1), ("regressed", True, 1),
    ("invalid", False, 10)])
def test_the_exit_code_of_a_trial_is_that_of_a_run(word, slower, code):
    one = trial("slow:3%", word)
    assert replace(one, verdict=replace(one.verdict, slower=slower)).exit_code == code


def test_pairs_too_few_for_an_alarm_say_nothing_of_false_ones():
    one = trial(None, "inconclusive", None)
    assert summary([replace(one, verdict=replace(one.verdict, pairs=1))])["compared"] == 0


def test_nothing_compared_bounds_nothing():
    assert summary([])["false_alarms_at_most"] == 1
    assert "none" in sentences(summary([]))[1]


@pytest.mark.parametrize(("events", "trials", "rate"), [
    (0, 100, 0.02996), (0, 300, 0.009986), (1, 100, 0.04744), (5, 100, 0.10513), (0, 1, 1.0), (30, 10, 1.0)])
def test_the_rate_that_is_not_ruled_out(events, trials, rate):
    """Poisson's upper limits at 95 %: 3.00, 4.74 and 10.51 for 0, 1 and 5 events."""
    assert at_most(events, trials) == pytest.approx(rate, rel=1e-3)


def test_the_command(tmp_path, monkeypatch, capsys):
    def compare(together, seconds):
        fault = os.environ.get(INJECT)
        return [(w, verdict("regressed" if fault else "ok")) for w in together]

    monkeypatch.setattr(selftest, "itself", lambda device, among: compare)
    wordy = replace(trial("clone", "regressed"), verdict=replace(verdict("regressed"), why="3 more launches; " * 20))
    record = tmp_path / "new" / "selftest.json"
    assert main(["selftest", "--device", "cpu", "--quick", "--seconds", "60", "--record", str(record)]) == 0
    out = capsys.readouterr().out
    assert (f"slow:5%    regressed       0.0 s  exit code 1  {SDPA.id}\n"
            "           1.0 % slower [-2.0, 3.0], 4 pairs\n") in out
    assert "5 of 5 caught, 0 undecided" in out
    assert all(len(line) <= 120 for line in [*out.splitlines(), *shown(wordy).splitlines()])
    kept = json.loads(record.read_text())
    assert [one["fault"] for one in kept["trials"]] == [None] * 2 + list(QUICK_FAULTS)
    assert kept["caught"] == 5
    assert kept["trials"][-1]["verdict"]["word"] == "regressed"
    assert kept["machine"]["torch"]


def test_an_impossible_device_is_one_line(capsys):
    assert main(["selftest", "--device", "tpu"]) == 2
    assert capsys.readouterr().err.startswith("python -m perf selftest: no device 'tpu' here; choose from cpu")
