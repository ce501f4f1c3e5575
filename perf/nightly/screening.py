"""The steps that compare the times of tonight with earlier nights and name suspects (perf/verdict/nightly.py)."""
from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from perf.bench import controls as frozen
from perf.compare import live
from perf.measure.evidence import Evidence
from perf.nightly import compare, controls, nights
from perf.nightly.folder import lines, write
from perf.nightly.measuring import measured, one_pass
from perf.nightly.process import status
from perf.nightly.steps import Skipped
from perf.nightly.tonight import Tonight, acceptance
from perf.policy.thresholds import Thresholds
from perf.verdict.control_groups import groups
from perf.verdict.nightly import Look, Suspect, screened
from perf.verdict.nights import LAUNCHES, Measured
from perf.verdict.screen import FEWEST
from perf.verdict.verdict import Verdict
from perf.verdict.words import many


def launches(night: Tonight) -> None:
    """A second launch of every benchmark, and two of the frozen controls: what two launches of a night differ by, and
    what the machine did to everything."""
    one_pass(night, "launches", LAUNCHES)
    for launch in range(1, LAUNCHES + 1):
        code = night.run("launches", controls.__name__, night.device, str(launch), str(_controls(night)))
        if code:
            raise ValueError(f"{status(code)}: {night.last_line('launches')}; {night.folder.log('launches')}")


def screen(night: Tonight) -> None:
    """Suspects are measured two more times before they are compared."""
    if night.options.last_good:
        raise Skipped("every benchmark is compared with --last-good")
    earlier, _ = nights.load(night.options.nights, night.device, night.folder.began)
    if len(earlier) < FEWEST:
        raise Skipped(f"{many(len(earlier), 'night')} of history, {FEWEST} are needed: every benchmark is compared")
    found = _look(night, earlier)
    if found.again:
        for number in (3, 4):
            one_pass(night, "screen", number, found.again)
        found = _look(night, earlier)
    write(_kept(night), {
        "suspects": [asdict(one) for one in found.suspects], "audits": [asdict(one) for one in found.audits],
        "promised": {name: one.effect for name, one in found.plans.items()},
        "cleared": {name: asdict(one) for name, one in found.cleared.items()}, "notes": list(found.notes)})


def looked(night: Tonight) -> dict[str, Any] | None:
    """What `screen` found: `suspects` and `audits` (Suspect), `promised` effects, `cleared` (Verdict; only of what
    something is promised), `notes`; None where it did not look: then every benchmark is compared."""
    done = night.folder.done("screen")
    if done is None or done.outcome != "ok":
        return None
    told = json.loads(_kept(night).read_text(encoding="utf-8"))
    return told | {"suspects": [_suspect(one) for one in told["suspects"]],
                   "audits": [_suspect(one) for one in told["audits"]],
                   "cleared": {name: Verdict(**one) for name, one in told["cleared"].items()
                               if told["promised"][name] is not None}}


def learn(night: Tonight) -> None:
    """Keeps tonight's times for the nights to come, with what its comparisons taught."""
    look = looked(night)
    suspects = {one.benchmark: one for one in (*look["suspects"], *look["audits"])} if look else {}
    compared, regressed, why = [], [], acceptance()
    for line in lines(night.folder.path / "compared.jsonl"):
        finding = compare.finding(line)
        if finding.word == "regressed" and why(finding) is None:
            regressed.append(finding.benchmark)
        if (suspect := suspects.get(finding.benchmark)) and finding.word != "unchanged":
            verdict = Verdict(finding.word, finding.ratio, finding.low, finding.high, finding.pairs, finding.why, 0)
            compared.append((suspect, line["ratios"], verdict))
    path = night.options.nights / f"{night.folder.path.name}{nights.SUFFIX}"
    nights.save(path, night.folder.began, night.device, nights.taught(_tonight(night), compared, regressed))


def _look(night: Tonight, earlier: Sequence[Measured]) -> Look:
    tonight, rows = _tonight(night), _passes(night)[0]
    kind = night.device.partition(":")[0]
    machine = live.kind(night.device)
    workloads = {name: rows[name].workload for name in tonight.launches}
    rounds = round(statistics.median([rows[name].rounds for name in workloads] or [1]))
    return screened([*earlier, tonight], groups(workloads.values(), kind),
                    {one.name: one.group for one in frozen.of(kind) if one.name in tonight.controls},
                    lambda name: live.settings(workloads[name], machine), max(rounds, 1))


def _tonight(night: Tonight) -> Measured:
    return nights.of(night.head, night.look.fingerprint, _passes(night), controls.launches(_controls(night)))


def _passes(night: Tonight) -> list[Mapping[str, Evidence]]:
    return [measured(night.evidence_of(number)) for number in (1, 2, 3, 4)]


def _controls(night: Tonight) -> Path:
    return night.folder.path / "controls.jsonl"


def _kept(night: Tonight) -> Path:
    return night.folder.path / "screen.json"


def _suspect(told: dict[str, Any]) -> Suspect:
    return Suspect(**told | {"thresholds": Thresholds(**told["thresholds"])})
