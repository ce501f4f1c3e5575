"""Fitness: injected readings of sick and healthy machines, and what is done about the sick ones."""
from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch

from perf.measure import fitness
from perf.measure.fitness import Patience, State, Watch, summary, unfit
from perf.measure.host import Host
from perf.measure.nvml import NoNvml, Reading

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
H200 = Reading(sm_mhz=1965, mem_mhz=3201, max_sm_mhz=1980, max_mem_mhz=3201, reasons=(), temperature=41, power=512.3,
               power_limit=700.0)
BESIDE = replace(H200, ecc_errors=0, utilisation=100, free_bytes=140 * 10 ** 9, foreign=())
HOST = Host(seconds=1.0, foreign_cores=0.05, pages_read_back=0, spare_cores=0.0, load=0.4, free_bytes=8 * 10 ** 9)


def states(readings: Iterable[Reading], before: Reading = BESIDE, after: Reading = BESIDE) -> list[State]:
    """Readings of a busy GPU, ten milliseconds apart, between two of everything."""
    return [State("cuda", 0.0, before, busy=False),
            *(State("cuda", i / 100, reading) for i, reading in enumerate(readings)),
            State("cuda", 1.0, after, replace(HOST, foreign_cores=1.7), busy=False)]


def clocks(*mhz: int, **options: Any) -> list[State]:
    return states(replace(H200, sm_mhz=x, **options) for x in mhz)


def on_the_host(**options: Any) -> list[State]:
    return [State("cpu", 1.0, host=replace(HOST, **options))]


def test_a_healthy_gpu_is_fit():
    seen = clocks(1965, 1980, 1965, 1980, 1965, 1965, 1980, 1965, 1965)
    assert unfit(seen) is None
    result = summary(seen)
    assert json.loads(json.dumps(result)) == result
    assert result == {"readings": 9, "sm_mhz": 1965, "sm_mhz_min": 1965, "sm_mhz_max": 1980, "sm_mhz_limit": 1980,
                      "sm_drift": 0.0, "mem_mhz": 3201, "throttle": "", "temperature": 41, "power": 512.3,
                      "power_limit": 700.0, "utilisation": 100, "ecc_errors": 0, "gpu_free_bytes": 140 * 10 ** 9,
                      "foreign_processes": 0, "foreign_cores": 1.7, "load": 0.4, "free_bytes": 8 * 10 ** 9,
                      "pages_read_back": 0}


@pytest.mark.parametrize(("reasons", "said"), [
    (("sw_thermal_slowdown",), "the GPU throttled in 1 of 9 readings (sw_thermal_slowdown, 87 C): let the GPU cool"),
    (("hw_slowdown", "hw_thermal_slowdown"), "(hw_thermal_slowdown, hw_slowdown, 87 C): let the GPU cool"),
    (("hw_power_brake_slowdown", "hw_slowdown"), "see to the machine's power supply"),
    (("hw_slowdown", "sw_power_cap"), "ask `nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER` what slows the GPU"),
])
def test_throttling_is_unfit(reasons, said):
    seen = states([*[H200] * 8, replace(H200, reasons=reasons, temperature=87)])
    why = unfit(seen)
    assert why is not None
    assert said in why
    assert "\n" not in why
    assert summary(seen)["throttle"] == ", ".join(reasons)


@pytest.mark.parametrize("reason", ["sw_power_cap", "applications_clocks_setting", "sync_boost", "reliability",
                                    "display_clock_setting", "0x80000000"])
def test_what_is_no_fault_is_told_and_fit(reason):
    seen = clocks(*[1965] * 9, reasons=(reason,))
    assert unfit(seen) is None
    assert summary(seen)["throttle"] == reason


def test_the_power_cap_is_fit_with_the_clocks_that_it_costs():
    """A large matmul: the clock settles below the largest as the power limit is reached."""
    seen = clocks(1980, 1980, 1965, 1600, 1500, 1440, 1395, 1380, 1395, reasons=("sw_power_cap",), power=699.0)
    assert unfit(seen) is None
    assert summary(seen)["sm_drift"] == pytest.approx(1395 / 1980 - 1, abs=1e-4)
    assert summary(seen)["power"] == 699.0
    assert unfit(clocks(*[1100] * 8, 1085, reasons=("sw_power_cap",))) is None


def test_a_foreign_process_is_unfit():
    why = unfit(states([H200] * 9, after=replace(BESIDE, foreign=((4711, "python"),))))
    assert why == ("the GPU is shared with process 4711 (python), which takes a part of its time: wait for it to end, "
                   "or choose another GPU by CUDA_VISIBLE_DEVICES")
    assert "foreign_processes" not in summary(states([H200], *[replace(BESIDE, foreign=None)] * 2))


def test_clocks_falling_half_way_are_unfit():
    why = unfit(clocks(1980, 1980, 1980, 1980, 1980, 1740, 1740, 1740, 1740))
    assert why is not None
    assert why.startswith("the SM clock fell from 1980 to 1740 MHz while it was timed")
    why = unfit(clocks(1400, 1410, 1400, 1600, 1800, 1980, 1980, 1980, 1980))
    assert why is not None
    assert why.startswith("the SM clock rose from 1400 to 1980 MHz")


def test_a_flicker_is_no_fall():
    assert unfit(clocks(1980, 1980, 1980, 1500, 1980, 1980, 1980, 1980, 1980)) is None
    assert unfit(clocks(1980, 1980, 1980, 1905, 1905, 1905)) is None  # 4 %
    assert unfit(clocks(1980, 1740, 1740)) is None  # too few to tell
    assert unfit(clocks(1980, 1980, 1980, 1860, 1860, 1860)) is not None  # 6 %


def test_a_clock_far_below_its_largest_is_unfit():
    assert unfit(clocks(1110, 1125, 1110, 1125)) == (
        "the busy GPU ran at 1118 of its 1980 MHz and gives no reason: see `nvidia-smi -q -d CLOCK,PERFORMANCE`; "
        "`nvidia-smi -rgc` undoes a clock lock")
    assert unfit(clocks(1200, 1215, 1200)) is None
    assert unfit(clocks(*[1110] * 9)) is None  # locked: every reading is the same
    assert unfit(clocks(*[345] * 9)) is not None
    assert unfit(clocks(600, 615, reasons=("applications_clocks_setting",))) is None


def test_the_clocks_of_an_idle_gpu_say_nothing():
    assert unfit(clocks(*[345, 360] * 4, reasons=("gpu_idle",))) is None
    outside = states([H200] * 9, *[replace(BESIDE, sm_mhz=345, mem_mhz=405)] * 2)
    assert unfit(outside) is None
    assert summary(outside)["sm_mhz_min"] == 1965


def test_a_slow_memory_clock_is_unfit():
    why = unfit(states([replace(H200, mem_mhz=1593)] * 3))
    assert why is not None
    assert why.startswith("the busy GPU's memory ran at 1593 of its 3201 MHz")
    assert unfit(states([replace(H200, mem_mhz=9251, max_mem_mhz=9501)])) is None  # compute on a GeForce


def test_memory_errors_are_unfit_as_they_come():
    why = unfit(states([H200], after=replace(BESIDE, ecc_errors=2)))
    assert why is not None
    assert why.startswith("2 uncorrected memory errors (ECC)")
    assert unfit(states([H200], *[replace(BESIDE, ecc_errors=2)] * 2)) is None


def test_a_gpu_that_tells_nothing_is_fit():
    assert unfit(states([Reading()] * 9, Reading(), Reading())) is None
    assert unfit([]) is None
    assert summary([]) == {}


def test_without_nvml_the_gpu_is_unwatched_and_the_host_is_told(monkeypatch):
    message = "clocks and throttling are not watched: nvidia-ml-py is not installed"

    def missing(device: torch.device) -> None:
        raise NoNvml(message)

    monkeypatch.setattr(fitness, "Gpu", missing)
    watch = Watch(CUDA)
    watch.begin()
    watch.sample()
    seen = watch.end()
    assert unfit(seen) is None
    result = summary(seen)
    assert result["unwatched"] == watch.unwatched == message
    assert "load" in result
    assert "sm_mhz" not in result


def test_the_company_of_a_gpu_s_host_is_no_fault():
    assert unfit([State("cuda", 1.0, host=replace(HOST, foreign_cores=9.0, free_bytes=1))]) is None


@pytest.mark.parametrize(("told", "said"), [
    ({"foreign_cores": 0.6}, "other processes kept 0.6 cores busy (up to 0.5 are borne)"),
    ({"foreign_cores": 1.6, "spare_cores": 4.0}, "other processes kept 1.6 cores busy (up to 1.5 are borne)"),
    ({"pages_read_back": 5000, "free_bytes": 10 ** 9}, "5000 pages had to be read back from disk, memory is short"),
    ({"free_bytes": 10 ** 8}, "only 100 MB of memory are free"),
])
def test_a_disturbed_host_is_unfit(told, said):
    why = unfit(on_the_host(**told))
    assert why is not None
    assert why.startswith(said)


@pytest.mark.parametrize("told", [
    {}, {"foreign_cores": 0.4}, {"foreign_cores": 1.4, "spare_cores": 4.0},
    {"pages_read_back": 20, "free_bytes": 10 ** 9},
    {"pages_read_back": 5000},  # the first call of a library reads it from disk
    {"foreign_cores": 0.9, "seconds": 0.1},
])
def test_an_editor_beside_is_borne(told):
    assert unfit(on_the_host(**told)) is None


def test_the_last_look_at_the_host_counts():
    assert unfit([*on_the_host(foreign_cores=3.0), *on_the_host()]) is None


class Read:
    """Stands in for a GPU, and counts."""

    def __init__(self) -> None:
        self.made: list[bool] = []

    def __call__(self, everything: bool) -> Reading:
        self.made.append(everything)
        return BESIDE if everything else H200


def test_a_watch_reads_everything_outside_and_clocks_within(monkeypatch):
    monkeypatch.setattr(fitness, "EVERY", 0.0)
    read = Read()
    watch = Watch(CUDA, read)
    assert read.made == []
    for _ in range(2):
        read.made.clear()
        watch.begin()
        for _ in range(3):
            watch.sample()
        seen = watch.end()
        assert read.made == [True, False, False, False, True]
        assert [state.busy for state in seen] == [False, True, True, True, False]
    assert summary(seen)["readings"] == 3


def test_a_watch_looks_no_more_often_than_it_should(monkeypatch):
    now = 0.0
    monkeypatch.setattr(fitness.time, "monotonic", lambda: now)
    read = Read()
    watch = Watch(CUDA, read)
    watch.begin()
    for millisecond in range(100):
        now = millisecond / 1e3
        watch.sample()
    assert read.made.count(False) in (9, 10)  # one in ten milliseconds


def test_a_watch_on_the_cpu_sees_a_busy_neighbour():
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        watch = Watch(CPU)
        watch.begin()
        time.sleep(0.4)
        watch.sample()
        (seen,) = watch.end()
    finally:
        neighbour.kill()
        neighbour.wait()
    assert seen.host is not None
    assert seen.host.foreign_cores > 0.3
    assert unfit([replace(seen, host=replace(seen.host, foreign_cores=0.9, spare_cores=0.0))]) is not None


def test_a_quick_look_costs_little():
    watch = Watch(CPU)
    watch.begin()
    seconds = []
    for _ in range(100):
        start = time.perf_counter()
        watch.sample()
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < 1e-4


def test_an_unfit_measurement_is_made_again_within_a_budget():
    patience = Patience(retries=2, most=3)
    assert [patience.again("hot", attempt) for attempt in range(3)] == [True, True, False]
    assert [patience.again("hot", attempt) for attempt in range(2)] == [True, False]  # the session's budget is spent
    assert not patience.again(None, 0)
    assert patience.invalid == 2


def test_a_machine_that_is_never_fit_is_hopeless():
    patience = Patience(retries=0, stop=3)
    for _ in range(2):
        patience.again("hot", 0)
        assert patience.hopeless is None
    patience.again("hot: let it cool", 0)
    assert patience.hopeless == ("this machine was unfit for each of the first 3 workloads, so the others are not "
                                 "tried: hot: let it cool")


def test_a_machine_that_once_was_fit_is_not():
    patience = Patience(retries=0, stop=3)
    patience.again(None, 0)
    for _ in range(10):
        patience.again("hot", 0)
    assert patience.hopeless is None


def _queued_rounds(call: Callable[[], Any], between: Callable[[], Any], rounds: int = 60) -> list[float]:
    """Returns the seconds of each round, each behind flushes that keep the GPU busy while the host does what is
    `between`."""
    flush = torch.empty(2 ** 28, dtype=torch.int8, device="cuda")
    events = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(16):
            flush.zero_()
        start.record()
        call()
        end.record()
        between()
        events.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in events]


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("work", ["layer_norm", "matmul"])
def test_watching_does_not_disturb_the_timing(work, monkeypatch):
    """Pairs of runs with and without, in alternating order: the median of their ratios is 1 within 0.5 %."""
    pytest.importorskip("pynvml")
    monkeypatch.setattr(fitness, "EVERY", 0.0)  # every round is sampled, far more often than in use
    x_NN = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    call = {"layer_norm": lambda: torch.nn.functional.layer_norm(x_NN, (4096,)), "matmul": lambda: x_NN @ x_NN}[work]
    watch = Watch(torch.device("cuda", 0))
    _queued_rounds(call, lambda: None, rounds=200)
    ratios = []
    for pair in range(30):
        medians = {}
        for watched in (True, False) if pair % 2 else (False, True):
            watch.begin()
            _queued_rounds(call, lambda: None, rounds=10)
            medians[watched] = statistics.median(_queued_rounds(call, watch.sample if watched else lambda: None))
        ratios.append(medians[True] / medians[False])
    print(f"{work}: watched / not, median of {len(ratios)} pairs: {statistics.median(ratios):.4f}, "
          f"{min(ratios):.4f} to {max(ratios):.4f}")
    assert statistics.median(ratios) == pytest.approx(1, abs=0.005)
