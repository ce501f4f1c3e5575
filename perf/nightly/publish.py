"""The last steps of a night, which run whatever the outcome of the others: the alert and the site."""
from __future__ import annotations

import os

from perf.nightly import record
from perf.nightly.night import Night
from perf.nightly.process import status
from perf.nightly.steps import Skipped

MEASURING = ("machine", "tests", "benchmarks", "launches", "screen", "verdict", "bisection", "learn")


def alert(night: Night) -> None:
    """Opens, updates and closes issues on GitHub. Without GitHub the messages are in the log."""
    record.save(night, MEASURING)
    repository = night.options.repository or os.environ.get("GITHUB_REPOSITORY")
    obstacle = None if os.environ.get("GITHUB_TOKEN") else "the environment has no GITHUB_TOKEN"
    obstacle = obstacle or (None if repository else "no repository is named: --repository OWNER/NAME")
    log = night.folder.log("alert")
    if obstacle or not night.options.alert:
        code = night.run("alert", "perf", "alert", str(night.record))
        if not night.options.alert:
            raise Skipped("--no-alert")
        where = f"the messages are in {log}" if code == 0 else f"{night.last_line('alert')}; {log}"
        raise ValueError(f"{obstacle}; {where}; without GitHub: --no-alert")
    webhook = ["--webhook"] if os.environ.get("PERF_WEBHOOK_URL") else []
    code = night.run("alert", "perf", "alert", str(night.record), "--issues", f"--repository={repository}",
                     f"--folder={night.folder.path / 'alerts'}", *webhook, secrets=True)
    if code:
        raise ValueError(f"{night.last_line('alert') if code in (1, 2) else status(code)}; {log}")


def site(night: Night) -> None:
    """Writes the history's pages, tonight's record among them."""
    if not night.options.site:
        raise Skipped("--no-site")
    record.save(night, (*MEASURING, "alert"))
    code = night.run("site", "perf", "site", f"--results={night.options.results}", f"--nights={night.options.nights}")
    if code:
        raise ValueError(f"{night.last_line('site') if code in (1, 2) else status(code)}; {night.folder.log('site')}")
