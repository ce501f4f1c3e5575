"""A run that measures shows its progress in one line, which a terminal writes over, instead of a line a workload."""
from __future__ import annotations

import pytest


class Progress:
    """Tells which workload is measured; where the output is no terminal, a dot for each that was tried."""

    def __init__(self, config: pytest.Config, measured: set[str]) -> None:
        self.config, self.measured = config, measured
        self.done = 0

    @property
    def reporter(self) -> pytest.TerminalReporter:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        assert reporter is not None
        return reporter

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.measured &= {item.nodeid for item in session.items}  # -k and --perf-shard leave some out

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.reporter.showfspath = False  # no line a file
        if nodeid in self.measured:
            self.done += 1
            if self.reporter.isatty:
                name = nodeid.partition("[")[2].rstrip("]") or nodeid
                line = f"{self.done}/{len(self.measured)} {name}"
                self.reporter.rewrite(line[:self.reporter._tw.fullwidth - 1], erase=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Writes nothing for what was skipped, and on a terminal nothing but failures."""
        if report.nodeid not in self.measured or report.failed:
            return None
        if report.skipped:
            return "skipped", "", ""
        if report.when == "call" and self.reporter.isatty:
            return report.outcome, "", ""
        return None
