"""`python -m perf.nightly.controls DEVICE LAUNCH RESULTS` launches the frozen controls once (perf/bench/controls.py).

A line goes to RESULTS for each; what has one of this launch is not measured again.
"""
from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from perf.bench import controls
from perf.measure.clocks import clock
from perf.measure.fitness import Watch
from perf.measure.sampling import sample
from perf.measure.unfit import unfit
from perf.nightly.folder import append, lines
from perf.system.tools import first_line, group_by

PRECISION = {"cuda": 0.002, "cpu": 0.01}


def main(device: torch.device, launch: int, results: Path, all_controls: Sequence[controls.Control]) -> None:
    """Measures the controls. What can't be measured, or only by an unfit machine, is left out: the decision does with
    fewer."""
    before = {(line["control"], line["launch"]) for line in lines(results)}
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
        append(results, {"control": control.name, "launch": launch, "seconds": samples.median})
        print(f"{control.name}: {samples.median:.3e} s", flush=True)


def launches(results: Path) -> dict[str, list[float]]:
    """Reads the medians of each control's launches, by its name."""
    return {name: [line["seconds"] for line in group]
            for name, group in group_by(lines(results), lambda line: line["control"]).items()}


if __name__ == "__main__":
    _device = torch.device(sys.argv[1])
    main(_device, int(sys.argv[2]), Path(sys.argv[3]), controls.of(_device.type))
