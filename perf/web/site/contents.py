"""Gathers what the front page shows from the history, the nights, git, and what asv has published."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from perf.web.site import commits, nights, steps
from perf.web.site.front import Contents
from perf.web.site.graphs import Graphs
from perf.web.site.latest import Place, latest, places


def gather(config: Mapping[str, Any], root: Path, results: Path, folder_of_nights: Path, published: Path,
           problems: Sequence[str]) -> Contents:
    """Gathers what there is; what can't be read is added to the `problems`, a line each."""
    recorded, unreadable = nights.read(folder_of_nights)
    graphs, lines = Graphs(published), [*problems, *unreadable]
    project = str(config.get("project", "this project"))
    if find_spec("asv") is None or not results.is_dir():
        return Contents(project, graphs, nights=recorded, problems=lines)
    from perf.history.rows import load

    history = load(results)
    named = " ".join(lines)
    lines += [str(problem) for problem in history.problems if str(problem.path) not in named]
    all_places: dict[tuple[str, str], Place] = places(results, history)
    states: list[commits.State] = []
    try:
        repository = root / config.get("repo", ".")
        states = commits.states(commits.log(repository), history, results, recorded, repository)
    except (ValueError, OSError) as error:
        lines.append(str(error))
    rows = latest(history, all_places)
    return Contents(project, graphs, rows, all_places, states, steps.steps(rows), recorded, lines)
