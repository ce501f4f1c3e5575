"""`pytest perf/ --benchmark-only --perf-against REV`: each benchmark becomes a verdict, a regressed one a failed test.

Exit codes: pytest's own 0 to 5, of which
    0   nothing regressed, and all of it was decided
    1   something regressed or is wrong, or looks slower and is not certain yet; or another test failed
    4   impossible options or revision: one line, nothing was measured
and
    10  the machine was unfit and nothing was decided: try another
    11  nothing worse than inconclusive, invalid or missing, which is no pass; 0 under --perf-lenient. Also where the
        base can't be imported, so that all looks new

A part of it (`--perf-shard`) takes whole groups of perf/run/shard.py, and both sides of each of its pairs; the parts
are even by what is timed. How sure an alarm has to be is set by how many benchmarks the whole run times, not by how
many the part does (Thresholds.among): the chance of a false one holds for all parts together, wherever they run.
"""
from __future__ import annotations

import math
import shlex
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perf.compare.process import ITS_WORKER
from perf.compare.record import Row, load
from perf.policy import accepted, here
from perf.run import options, shard
from perf.run.items import workload_of
from perf.run.options import Settings
from perf.run.replay import Script
from perf.run.revision import Against
from perf.system import exit_codes
from perf.workloads.workload import Workload

FAILED = ("regressed", "wrong")
OPEN = ("inconclusive", "invalid", "missing")
DECIDED = ("ok", "improved", *FAILED)
GIVE_UP = 5  # invalid benchmarks, before any was decided
COLOURS = {word: {"yellow": True} for word in OPEN}


def install(config: pytest.Config, settings: Settings) -> Settings:
    """Registers the comparison; gives the settings, with what only the revision measures added.

    Raises pytest.UsageError, in one line, for a revision that can't be compared with.
    """
    if not config.getoption("benchmark_only", False):
        if all(config.getoption(f"perf_{name}") is None for name in options.COMPARED):
            return settings  # the ini file's are for when benchmarks are measured
        raise pytest.UsageError("--perf-against: measures benchmarks only; add --benchmark-only")
    if config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        raise pytest.UsageError("--perf-against: one process measures at a time; drop -n")
    if settings.shard and not settings.verdicts:
        raise pytest.UsageError("--perf-shard: python -m perf merge needs the verdicts of each part; give "
                                "--perf-verdicts=FILE")
    if workers := config.pluginmanager.get_plugin("perf_workers"):
        workers.take_place(settings)  # before anything describes this machine
    try:
        against = Against(settings)
        config.add_cleanup(against.close)
        settings = replace(settings, workloads=[*settings.workloads, *against.only_base()])
        code = against.code if settings.shard else ""
    except ValueError as error:
        raise pytest.UsageError(f"--perf-against: {error}") from None
    config.pluginmanager.register(run := PairedRun(config, settings, against), "perf_against")
    if settings.shard:
        shard.register(config, settings, code, run.what_is_compared(), run.weigh)
    return settings


def outcome(row: Row, reason: str | None, *, lenient: bool) -> str:
    """Says what becomes of a benchmark: it "passed", "failed", or is "open", which decides nothing. `reason` is why a
    regression of it is accepted, None if it is not."""
    if row.word == "inconclusive" and row.verdict.slower:  # whatever is missing
        return "failed"
    if row.word in OPEN:
        return "passed" if lenient else "open"
    return "failed" if row.word in FAILED and not (row.word == "regressed" and reason) else "passed"


def exit_code(words: Collection[str], *, failed: bool, left_open: bool, unlisted: bool) -> int:
    """Gives the exit code of rows with these words; `unlisted`: it is not known what the base has."""
    if failed:
        return exit_codes.FAILED
    if "invalid" in words and not {*words} & {*DECIDED}:
        return exit_codes.UNFIT
    return exit_codes.UNDECIDED if left_open or (unlisted and {*words} <= {"new", "skipped"}) else exit_codes.OK


class PairedRun:
    """Hooks into pytest: a variant's benchmarks are decided together, before the first of them is run as a test."""

    def __init__(self, config: pytest.Config, settings: Settings, against: Against) -> None:
        self.config, self.settings, self.against = config, settings, against
        self.untimed: dict[str, Row] | None = None  # of the whole run, whatever part of it this is
        self.rows: dict[str, Row] = {}
        self.words: dict[str, str] = {}  # by node id
        self.open = 0  # failures that are none under --perf-lenient
        self.hopeless: str | None = None
        self.began = time.time()
        self.accepted, self.problems = accepted.load(here(accepted.FILE))

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Puts a variant's tests one after the other."""
        together: dict[str, list[pytest.Item]] = {}
        for item in items:
            w = workload_of(item)
            together.setdefault(w.variant if w else "", []).append(item)
        items[:] = [item for group in together.values() for item in group]

    def what_is_compared(self) -> dict[str, Any]:
        """Lists what parts of one comparison must have in common, besides the head."""
        asked = self.settings
        return {"device": asked.device.type, "grid": asked.grid, "base": self.against.commit,
                "python": asked.against_python, "versions": list(asked.against_versions), "all": asked.all,
                "lenient": asked.lenient, "unlisted": self.against.unlisted}

    def weigh(self, workloads: Collection[Workload]) -> tuple[dict[str, float], str]:
        """Sizes the rows of the whole run: what is timed counts, each alike."""
        self.untimed = {row.workload.id: row for row in self.against.untimed(list(workloads))}
        timed = {w.id: float(w.id not in self.untimed) for w in workloads}
        return timed, f"the {math.fsum(timed.values()):.0f} that are timed"

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Decides what needs no timing, and counts the rest."""
        if self.config.option.collectonly:
            return
        chosen = [w for item in session.items if (w := workload_of(item))]
        if self.untimed is None:
            self.weigh(chosen)
        assert self.untimed is not None
        self.rows = {w.id: self.untimed[w.id] for w in chosen if w.id in self.untimed}

    def take(self, path: Path, sound: bool) -> None:
        """Takes the rows of a part that another process measured; those of an unfit machine are measured here, alone,
        and of a place that is not `sound` those whose workers died. Raises ValueError for what is no record of one."""
        rows = (finding.row() for finding in load(path).findings if sound or ITS_WORKER not in finding.why)
        self.rows |= {row.workload.id: row for row in rows if row.word != "invalid"}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        w = workload_of(item)
        if w is None or self.hopeless:
            return
        if w.id in self.rows:
            return
        variant = w.variant
        chosen = (each for one in item.session.items if (each := workload_of(one)))
        together = [each for each in chosen if each.variant == variant and each.id not in self.rows]
        for i, row in enumerate(self.against.compare(together, lambda line: self._say(f"{variant}: {line}")), 1):
            self.rows[row.workload.id] = row
            self._say(f"{i}/{len(together)} {row.workload.id}: {row.short}")
        if self.settings.verdicts:
            self._save(self.settings.verdicts)  # a run that is killed loses one variant
        self._give_up(item.session)

    def _give_up(self, session: pytest.Session) -> None:
        reasons = [row.verdict.why for row in self.rows.values() if row.word == "invalid"]
        if len(reasons) >= GIVE_UP and not any(row.word in DECIDED for row in self.rows.values()):
            self.hopeless = (f"perf: the machine was unfit for all {len(reasons)} benchmarks that were tried: "
                             f"{reasons[-1]}")
            session.shouldstop = self.hopeless

    def _say(self, line: str) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter and self.config.option.verbose >= 0:
            reporter.write_line(f"  {line}")

    def report(self, w: Workload, benchmark: Any, script: Script, item: pytest.Item) -> None:
        """Plays the head's samples to pytest-benchmark; skips, or fails with the sentence."""
        row = self.rows[w.id]
        facts = properties(row)
        item.user_properties += facts.items()
        benchmark.extra_info.update(facts)
        self.words[item.nodeid] = row.short
        if row.samples:
            script.play(row.samples, benchmark, lambda: None)
        if row.word == "skipped":
            pytest.skip(row.verdict.why)
        reason = accepted.why_accepted(self.accepted, w.id) if row.word == "regressed" else None
        if reason:
            self.words[item.nodeid] = f"{row.short}, accepted"
            item.user_properties.append(("accepted", reason))
        result = outcome(row, reason, lenient=self.settings.lenient)
        self.open += result == "open"
        if result != "passed":
            pytest.fail(f"{row.sentence} (against {self.against.name})", pytrace=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, Any] | None:
        """Makes a benchmark's word in the progress its verdict."""
        word = self.words.get(report.nodeid)
        if report.when != "call" or not report.passed or word is None:
            return None
        return "passed", ".", (word, COLOURS.get(word.partition(" ")[0], {"green": True}))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.settings.verdicts and self.rows:
            self._save(self.settings.verdicts)
        if session.exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not self.hopeless:
            return
        session.exitstatus = exit_code({row.word for row in self.rows.values()}, left_open=self.open > 0,
                                       failed=session.testsfailed > self.open, unlisted=self.against.unlisted)

    def _save(self, path: Path) -> None:
        """Writes the record that alerts read, also of a run that was interrupted."""
        from perf.compare.record import Comparison, Finding
        from perf.measure import machine
        from perf.verdict.verdict import family

        head, part = machine.revision() or "not committed", self.config.pluginmanager.get_plugin("perf_shard")
        # How many are timed sets how sure an alarm has to be: parts must agree on that too.
        mine = part and replace(part.shard, options={**part.shard.options, "timed": self.against.count}).record()
        together = () if part else family({name: row.verdict for name, row in self.rows.items()})
        findings = tuple(Finding.of(row, rounds=bool(part)) for row in self.rows.values())
        Comparison(self.began, machine.identity(), machine.fingerprint(), "", self.against.commit or head, head,
                   self._again(), findings, notes=(*self.against.notes, *together), versions=self.against.versions,
                   shard=mine or {}).save(path)

    def _again(self) -> str:
        """Writes the command that makes this comparison again, whatever the base is called by then."""
        named = self.config.args if self.config.args_source is pytest.Config.ArgsSource.ARGS else ["perf/"]
        revision = {"against": self.against.commit} if self.against.commit else {}
        keywords = ["-k", self.config.option.keyword] if self.config.option.keyword else []
        pyargs = ["--pyargs"] if self.config.option.pyargs else []
        return shlex.join(["python", "-m", "pytest", *pyargs, *named, "--benchmark-only", *keywords,
                           *options.command_options(self.config, but=("verdicts", "shard"), **revision)])

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        from perf.measure import machine

        output_json["perf"] = {"machine": machine.fingerprint(), "revision": machine.revision(),
                               "against": self.against.name}

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        from perf.report.verdicts import table
        from perf.verdict.verdict import family

        if not self.rows:
            return
        rows = list(self.rows.values())
        notes = [*self.against.notes, *self.problems, *family({row.workload.id: row.verdict for row in rows})]
        terminalreporter.section(
            f"perf: {self.settings.grid} grid on {self.settings.device} against {self.against.name}")
        terminalreporter.write_line(table(rows, notes))


def properties(row: Row) -> dict[str, Any]:
    """Gives what junit and JSON keep of a verdict: base and head in seconds, ratio and interval of head over base."""
    v = row.verdict
    interval = None if v.low is None or v.high is None or v.high == math.inf else f"[{v.low:.4g}, {v.high:.4g}]"
    facts = {"base": row.base, "head": row.head, "ratio": v.ratio, "interval": interval, "verdict": row.label,
             "why": v.why}
    return {name: value for name, value in facts.items() if value is not None}


