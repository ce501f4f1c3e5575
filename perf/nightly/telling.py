"""The last steps of a night: who is concerned is told and the site is written, whatever became of the others."""
from __future__ import annotations

import os

from perf.nightly import record
from perf.nightly.process import status
from perf.nightly.steps import Skipped
from perf.nightly.tonight import Tonight

MEASURING = ("machine", "tests", "benchmarks", "launches", "screen", "verdict", "bisection", "learn")


def alert(night: Tonight) -> None:
    """Issues on GitHub. What would be said is in the log at least."""
    record.save(night, MEASURING)
    repository = night.options.repository or os.environ.get("GITHUB_REPOSITORY")
    lacking = None if os.environ.get("GITHUB_TOKEN") else "the environment has no GITHUB_TOKEN"
    lacking = lacking or (None if repository else "no repository is named: --repository OWNER/NAME")
    log = night.folder.log("alert")
    if lacking or not night.options.alert:
        code = night.run("alert", "perf", "alert", str(night.record))
        if not night.options.alert:
            raise Skipped("--no-alert")
        kept = f"what would be said is in {log}" if code == 0 else f"{night.last_line('alert')}; {log}"
        raise ValueError(f"{lacking}; {kept}; without GitHub: --no-alert")
    webhook = ["--webhook"] if os.environ.get("PERF_WEBHOOK_URL") else []
    code = night.run("alert", "perf", "alert", str(night.record), "--issues", f"--repository={repository}",
                     f"--folder={night.folder.path / 'alerts'}", *webhook, secrets=True)
    if code:
        raise ValueError(f"{night.last_line('alert') if code in (1, 2) else status(code)}; {log}")


def site(night: Tonight) -> None:
    """The history's pages, tonight's record among them."""
    if not night.options.site:
        raise Skipped("--no-site")
    record.save(night, (*MEASURING, "alert"))
    code = night.run("site", "perf", "site", f"--results={night.options.results}", f"--nights={night.options.nights}")
    if code:
        raise ValueError(f"{night.last_line('site') if code in (1, 2) else status(code)}; {night.folder.log('site')}")
