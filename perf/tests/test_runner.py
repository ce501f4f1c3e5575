"""docs/runner.md and its unit file: what they name exists, and systemd takes it."""
from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from perf.__main__ import main, parser
from perf.alerts.text import LABEL
from perf.measure.machine import LOCKED

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
UNIT = DOCS / "attention-perf-runner.service"


def settings(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", ["runner.md", "alerts.md"])
def test_the_commands_exist(name):
    text = (DOCS / name).read_text(encoding="utf-8")
    assert set(re.findall(r"python -m perf (\w+)", text)) <= set(parser()[1])
    for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert (DOCS / link).exists(), link
    for path in re.findall(r"`((?:perf|\.github|docs)/[\w./-]+\.\w+)`", text):
        assert (ROOT / path).exists(), path


def test_all_options_of_alert_are_told(capsys):
    with pytest.raises(SystemExit):
        main(["alert", "--help"])
    known = set(re.findall(r"--[a-z]+", capsys.readouterr().out.partition("options:")[2])) - {"--help"}
    told = set(re.findall(r"--[a-z]+", (DOCS / "alerts.md").read_text(encoding="utf-8")))
    tuning = {"--repository", "--accepted", "--owners", "--timeout", "--pause", "--perf"}
    assert known - tuning <= told
    assert told - known <= {"--benchmark", "--perf", "--commit", "--reason", "--until"}


def test_the_runner_gets_what_the_workflows_ask_of_it():
    text = (DOCS / "runner.md").read_text(encoding="utf-8")
    environment = text.partition("sudo tee /etc/attention-perf.env <<'END'\n")[2].partition("END\n")[0]
    assert [line.partition("=")[0] for line in environment.splitlines()] == ["PERF_PYTHON", LOCKED]
    workflows = "".join(path.read_text(encoding="utf-8") for path in (ROOT / ".github/workflows").glob("*.yml"))
    assert "PERF_PYTHON" in workflows
    assert "--labels gpu" in text
    assert "runs-on: [self-hosted, linux, x64, gpu]" in workflows
    assert f"gh label create {LABEL} " in text
    assert settings("EnvironmentFile") == ["/etc/attention-perf.env"]


def test_the_unit_locks_the_clock_that_jobs_are_told():
    [_, lock] = settings("ExecStartPre")
    assert lock.count(f"$${LOCKED}") == 2  # "$$": for the shell, not for systemd
    assert all(command.startswith("+") for command in settings("ExecStartPre"))
    assert settings("User") == ["perf"]
    assert settings("NoNewPrivileges") == ["yes"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path):
    """Programs that are here stand in for those of a GPU machine."""
    text = UNIT.read_text(encoding="utf-8").replace("/opt/actions-runner/run.sh", "/bin/true")
    text = text.replace("/usr/bin/nvidia-smi", "/bin/true")
    unit = tmp_path / UNIT.name
    unit.write_text(text, encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if UNIT.name in line]
    assert complaints == []
    unit.write_text(text.replace("KillMode=mixed", "KillMode=gently"), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert "kill mode" in done.stdout + done.stderr
