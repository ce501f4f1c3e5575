"""The ratios that docs/results.md claims are what the study makes of the times in its records."""
from __future__ import annotations

import pytest
import torch

from perf.studies.goals_table import FASTEST, GOALS, Run
from perf.studies.measuring import Study
from perf.studies.quantised_goals import Goals, Models


@pytest.mark.parametrize(("path", "part", "count"), [(GOALS, "graphs", 5), (FASTEST, "fastest", 3)])
def test_the_claims_are_what_the_study_makes_of_the_times(tmp_path, path, part, count):
    study = Study(torch.device("cpu"), tmp_path / "again.jsonl")
    run = Run(path)
    study.known.update(run.timed)  # so nothing is measured
    getattr(Goals(study, Models()), part)()
    again = Run(study.out)
    assert not study.failures
    assert not again.timed
    assert len(again.claims) == count
    assert again.claims.items() <= run.claims.items()
