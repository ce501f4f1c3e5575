"""Shows how fresh the history is: which commits were measured, which could not be, and why."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from perf.compare.record import Comparison
from perf.history.rows import History
from perf.system import git
from perf.web.page.markup import Markup, table, tag
from perf.web.site.latest import Place
from perf.web.site.parts import moment

MOST = 200  # commits shown
FORM = "%H%x00%ct%x00%an%x00%s"


@dataclass(frozen=True)
class Commit:
    """Is a commit of the branch; `time` is in seconds since 1970."""

    hash: str
    time: float
    author: str
    subject: str

    @property
    def anchor(self) -> str:
        """Names the place of the commit on the page."""
        return f"commit-{self.hash[:8]}"


@dataclass(frozen=True)
class State:
    """Is what became of a commit: figures by machine and environment, or why there are none ("": nobody tried)."""

    commit: Commit
    figures: Mapping[tuple[str, str], int]
    reason: str = ""

    @property
    def word(self) -> str:
        """Says in a word what became of the commit."""
        return "measured" if self.figures else "failed" if self.reason else "not measured"


def log(repository: Path) -> list[Commit]:
    """Lists the commits of the branch that is checked out, the newest first. Raises ValueError, in one line, where git
    can't tell."""
    try:
        lines = git.text(repository, "log", "--no-show-signature", f"--format={FORM}")
    except ValueError as error:
        raise ValueError(f"{repository}: its commits can't be listed: {error}") from None
    parts = (line.split("\0", 3) for line in lines.split("\n") if line)
    return [Commit(name, float(when), author, subject) for name, when, author, subject in parts]


def states(commits: Sequence[Commit], history: History, results: Path, nights: Sequence[Comparison],
           repository: Path) -> list[State]:
    """Says what became of each commit since the first that was tried, the newest first, at most `MOST`."""
    figures: dict[str, dict[tuple[str, str], int]] = {}
    unclean = {row.commit for row in history.rows if row.dirty}  # of uncommitted changes, so not of the commit
    for row in history.rows:
        if row.dirty:
            continue
        of_place = figures.setdefault(row.commit, {})
        of_place[row.machine, row.environment] = of_place.get((row.machine, row.environment), 0) + 1
    tried = {path.name[:8] for path in results.glob("*/*.json")} - {commit[:8] for commit in unclean}
    tried |= {commit[:8] for commit in figures}
    reasons = {failed.what: failed.reason for night in nights for failed in night.failed}
    failed = tried | {what[:8] for what in reasons}

    def state(commit: Commit) -> State:
        if commit.hash in figures or commit.hash[:8] not in failed:
            return State(commit, figures.get(commit.hash, {}))
        return State(commit, {}, _reason(commit, reasons, repository))

    first = max((i for i, commit in enumerate(commits) if commit.hash[:8] in tried), default=-1)
    return [state(commit) for commit in commits[:min(first + 1, MOST)]]


def _reason(commit: Commit, reasons: Mapping[str, str], repository: Path) -> str:
    for what, reason in reasons.items():
        if len(what) >= 8 and commit.hash.startswith(what[:40]):
            return reason
    if not git.has(repository, commit.hash, "attention/__init__.py"):
        return "it has no attention/"
    return "nothing could be measured; the log of its run says why"


def section(all_states: Sequence[State], places: Mapping[tuple[str, str], Place]) -> Markup | None:
    """Makes the table of commits, each with the anchor that asv's pages and ours lead to."""
    if not all_states:
        return None
    return tag("section", tag("h2", "Commits"), table("Commits", ("commit", "date", "state", "author", "subject"), (
        _row(state, places) for state in all_states), tall=True), id="commits")


def _row(state: State, places: Mapping[tuple[str, str], Place]) -> Markup:
    commit = state.commit
    hardware: dict[str, int] = {}
    for key, count in state.figures.items():
        name = places[key].hardware if key in places else key[0]
        hardware[name] = hardware.get(name, 0) + count
    text = ", ".join(f"{count} figures on {name}" for name, count in hardware.items()) or (
        f"failed: {state.reason}" if state.reason else state.word)
    date = datetime.fromtimestamp(commit.time, UTC).strftime("%Y-%m-%d %H:%M")
    return tag("tr", tag("th", tag("code", commit.hash[:8]), scope="row"), tag("td", moment(commit.time, date)),
               tag("td", text), tag("td", commit.author), tag("td", commit.subject, class_="subject"),
               id=commit.anchor, class_={"failed": "bad", "not measured": "soft"}.get(state.word))
