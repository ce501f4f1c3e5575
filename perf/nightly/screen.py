"""The steps that compare tonight's times with earlier nights, and name suspects (perf/verdict/nightly.py).

Each launch of the frozen controls (perf/bench/controls.py) is a process of its own:
`python -m perf.nightly.screen DEVICE LAUNCH RESULTS`. A line goes to RESULTS for each; what has one of this launch is
not measured again.
"""
from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from perf.bench import controls
from perf.compare.pairs import kind as kind_of
from perf.compare.pairs import settings
from perf.measure.clocks import clock
from perf.measure.evidence import Evidence
from perf.measure.fitness import Watch, unfit
from perf.measure.sampling import sample
from perf.nightly import compare, memory
from perf.nightly.measure import one_pass, rows
from perf.nightly.night import Night, acceptance
from perf.nightly.steps import COMPARED, Skipped, write
from perf.policy.thresholds import Thresholds
from perf.system import files
from perf.system.tools import first_line, group_by
from perf.verdict.nightly import NightPlan, Suspect, plan_night
from perf.verdict.nights import LAUNCHES, Measurement, groups
from perf.verdict.screen import FEWEST
from perf.verdict.verdict import Verdict
from perf.verdict.words import many

PRECISION = {"cuda": 0.002, "cpu": 0.01}  # of a control


def launches(night: Night) -> None:
    """Launches every benchmark a second time, and the frozen controls twice. That shows what two launches of a night
    differ by, and what the machine did to everything."""
    one_pass(night, "launches", LAUNCHES)
    for launch in range(1, LAUNCHES + 1):
        night.demand("launches", __name__, night.device, str(launch), str(_controls(night)))


def screen(night: Night) -> None:
    """Names the suspects, after two more launches of each."""
    if night.options.last_good:
        raise Skipped("every benchmark is compared with --last-good")
    earlier, _ = memory.load(night.options.nights, night.device, night.folder.start)
    if len(earlier) < FEWEST:
        raise Skipped(f"{many(len(earlier), 'night')} of history, {FEWEST} are needed: every benchmark is compared")
    screening = _screening(night, earlier)
    if screening.again:
        for number in (3, 4):
            one_pass(night, "screen", number, screening.again)
        screening = _screening(night, earlier)
    write(_file(night), {
        "suspects": [asdict(one) for one in screening.suspects], "audits": [asdict(one) for one in screening.audits],
        "promised": {name: one.effect for name, one in screening.plans.items()},
        "cleared": {name: asdict(one) for name, one in screening.cleared.items()}, "notes": list(screening.notes)})


def result(night: Night) -> dict[str, Any] | None:
    """Reads what `screen` wrote: `suspects` and `audits` (Suspect), `promised` effects, `cleared` (Verdict, where
    something is promised), `notes`. Returns None if it was skipped or failed: then every benchmark is compared."""
    step = night.folder.result("screen")
    if step is None or step.outcome != "ok":
        return None
    record = json.loads(_file(night).read_text(encoding="utf-8"))
    return record | {"suspects": [_suspect(one) for one in record["suspects"]],
                     "audits": [_suspect(one) for one in record["audits"]],
                     "cleared": {name: Verdict(**one) for name, one in record["cleared"].items()
                                 if record["promised"][name] is not None}}


def learn(night: Night) -> None:
    """Saves tonight's times for the nights to come, with what its pairs showed."""
    screening = result(night)
    suspects = {one.benchmark: one for one in (*screening["suspects"], *screening["audits"])} if screening else {}
    pairs, regressions, why = [], [], acceptance()
    for line in files.records(night.folder.path / COMPARED):
        finding = compare.finding(line)
        if finding.word == "regressed" and why(finding) is None:
            regressions.append(finding.benchmark)
        if (suspect := suspects.get(finding.benchmark)) and finding.word != "unchanged":
            pairs.append((suspect, line["ratios"], compare.verdict(finding)))
    path = night.options.nights / f"{night.folder.path.name}{memory.SUFFIX}"
    memory.save(path, night.folder.start, night.device, memory.lesson(_measurement(night), pairs, regressions))


def _screening(night: Night, earlier: Sequence[Measurement]) -> NightPlan:
    tonight, first = _measurement(night), _passes(night)[0]
    kind, machine = night.device.partition(":")[0], kind_of(night.device)
    workloads = {name: first[name].workload for name in tonight.launches}
    rounds = round(statistics.median([first[name].rounds for name in workloads] or [1]))
    return plan_night([*earlier, tonight], groups(workloads.values(), kind),
                      {one.name: one.group for one in controls.of(kind) if one.name in tonight.controls},
                      lambda name: settings(workloads[name], machine), max(rounds, 1))


def _measurement(night: Night) -> Measurement:
    return memory.measurement(night.head, night.machine.fingerprint, _passes(night),
                              control_medians(_controls(night)))


def _passes(night: Night) -> list[Mapping[str, Evidence]]:
    return [rows(night.evidence_of(number)) for number in (1, 2, 3, 4)]


def _controls(night: Night) -> Path:
    return night.folder.path / "controls.jsonl"


def _file(night: Night) -> Path:
    return night.folder.path / "screen.json"


def _suspect(record: dict[str, Any]) -> Suspect:
    return Suspect(**record | {"thresholds": Thresholds(**record["thresholds"])})


def main(device: torch.device, launch: int, results: Path, all_controls: Sequence[controls.Control]) -> None:
    """Measures the controls. What can't be measured, or only by an unfit machine, is left out: the decision does with
    fewer."""
    before = {(line["control"], line["launch"]) for line in files.records(results)}
    timer, watch = clock(device), Watch(device)
    for control in all_controls:
        if (control.name, launch) in before:
            continue
        try:
            plan = timer.prepare(control.make(device))
            watch.begin()
            samples = sample(timer, plan, precision=PRECISION[device.type], watch=watch.sample)
        except (RuntimeError, ValueError) as error:
            print(f"{control.name}: {first_line(error)}", flush=True)
            continue
        if reason := unfit(watch.end()):
            print(f"{control.name}: {reason}", flush=True)
            continue
        files.append(results, {"control": control.name, "launch": launch, "seconds": samples.median})
        print(f"{control.name}: {samples.median:.3e} s", flush=True)


def control_medians(results: Path) -> dict[str, list[float]]:
    """Reads the medians of each control's launches, by its name."""
    return {name: [line["seconds"] for line in group]
            for name, group in group_by(files.records(results), lambda line: line["control"]).items()}


if __name__ == "__main__":
    _device = torch.device(sys.argv[1])
    main(_device, int(sys.argv[2]), Path(sys.argv[3]), controls.of(_device.type))
