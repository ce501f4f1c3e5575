"""`pytest perf/ --benchmark-only --perf-against REV`: each benchmark becomes a verdict, a regressed one a failed test.

Exit codes: pytest's own 0 to 5, of which
    0   nothing regressed, and all of it was decided
    1   something regressed or is wrong, or looks slower and is not certain yet; or another test failed
    4   impossible options or revision: one line, nothing was measured
and
    10  the machine was unfit and nothing was decided: try another
    11  nothing worse than inconclusive, invalid or missing, which is no pass; 0 under --perf-lenient. Also where the
        base can't be imported, so that all looks new
"""
from __future__ import annotations

import math
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perf.compare.record import Row
from perf.policy import accepted, here
from perf.run import options
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
    try:
        against = Against(settings)
        config.add_cleanup(against.close)
        settings = replace(settings, workloads=[*settings.workloads, *against.only_base()])
    except ValueError as error:
        raise pytest.UsageError(f"--perf-against: {error}") from None
    config.pluginmanager.register(PairedRun(config, settings, against), "perf_against")
    return settings


class PairedRun:
    """Hooks into pytest: a variant's benchmarks are decided together, before the first of them is run as a test."""

    def __init__(self, config: pytest.Config, settings: Settings, against: Against) -> None:
        self.config, self.settings, self.against = config, settings, against
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

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        w = workload_of(item)
        if w is None or self.hopeless:
            return
        chosen = {each.id: each for one in item.session.items if (each := workload_of(one))}
        if not self.rows:
            self.rows = {row.workload.id: row for row in self.against.untimed(list(chosen.values()))}
        if w.id in self.rows:
            return
        variant = w.variant
        together = [each for each in chosen.values() if each.variant == variant and each.id not in self.rows]
        for i, row in enumerate(self.against.compare(together, lambda line: self._say(f"{variant}: {line}")), 1):
            self.rows[row.workload.id] = row
            self._say(f"{i}/{len(together)} {row.workload.id}: {row.short}")
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
        slower = row.word == "inconclusive" and row.verdict.slower  # whatever is missing
        left_open = row.word in OPEN and not slower and not self.settings.lenient
        self.open += left_open
        if row.word == "regressed" and (reason := accepted.why_accepted(self.accepted, w.id)):
            self.words[item.nodeid] = f"{row.short}, accepted"
            item.user_properties.append(("accepted", reason))
            return
        if row.word in FAILED or slower or left_open:
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
        words = {row.word for row in self.rows.values()}
        if session.testsfailed > self.open:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        elif "invalid" in words and not words & set(DECIDED):
            session.exitstatus = exit_codes.UNFIT
        elif self.open or (self.against.unlisted and words <= {"new", "skipped"}):
            session.exitstatus = exit_codes.UNDECIDED

    def _save(self, path: Path) -> None:
        """Writes the record that alerts read, also of a run that was interrupted."""
        from perf.compare.record import Comparison, Finding
        from perf.measure import machine
        from perf.verdict.verdict import family

        head = machine.revision() or "not committed"
        notes = (*self.against.notes, *family({name: row.verdict for name, row in self.rows.items()}))
        Comparison(self.began, machine.identity(), machine.fingerprint(), "", self.against.commit or head, head,
                   self._again(), tuple(map(Finding.of, self.rows.values())), notes=notes,
                   versions=self.against.versions).save(path)

    def _again(self) -> str:
        """Writes the command that makes this comparison again, whatever the base is called by then."""
        named = self.config.args if self.config.args_source is pytest.Config.ArgsSource.ARGS else ["perf/"]
        revision = {"against": self.against.commit} if self.against.commit else {}
        keywords = ["-k", self.config.option.keyword] if self.config.option.keyword else []
        pyargs = ["--pyargs"] if self.config.option.pyargs else []
        return shlex.join(["python", "-m", "pytest", *pyargs, *named, "--benchmark-only", *keywords,
                           *options.command_options(self.config, but=("verdicts",), **revision)])

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


