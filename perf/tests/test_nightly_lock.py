"""Only one measures at a time, and what measures ends with the night."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perf.nightly import process
from perf.system.tools import ending

ROOT = Path(__file__).parents[2]
HOLDS = "import sys, time; from pathlib import Path; from perf.nightly import process\n" \
        "with process.hold(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
STARTS = """
import sys
from pathlib import Path
from perf.nightly import process
with process.hold(Path(sys.argv[1])) as held:
    process.run([sys.executable, "-c", sys.argv[3]], Path(sys.argv[2]), root=Path.cwd(), lock=held)
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('at work', flush=True); " \
           "time.sleep(60)"


def start(*words):
    return subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def until(seen, seconds=20.0):
    end = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def test_a_second_one_is_refused_in_one_line(tmp_path):
    holder = start("-c", HOLDS, tmp_path / "lock")
    holder.stdout.readline()
    try:
        with pytest.raises(ValueError, match="is measuring, since") as refused, process.hold(tmp_path / "lock", 0.0):
            pass
        assert f"process {holder.pid} " in str(refused.value)
        assert str(tmp_path / "lock") in str(refused.value)
        assert "\n" not in str(refused.value)
    finally:
        holder.kill()
        holder.wait()
    with process.hold(tmp_path / "lock", 0.0):  # it went with its holder
        assert (tmp_path / "lock").read_text().startswith(f"{os.getpid()} ")


def test_it_is_given_back(tmp_path):
    for _ in range(2):
        with process.hold(tmp_path / "lock", 0.0):
            pass


def test_it_is_every_account_s(tmp_path):
    before = os.umask(0o077)
    try:
        with process.hold(tmp_path / "lock", 0.0):
            assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(before)


def test_a_file_that_can_t_be_opened_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"can't be opened: .+; name another file by --lock"), \
            process.hold(tmp_path / "none" / "lock"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels don't tell a process that its parent died")
def test_what_a_killed_night_started_ends_too(tmp_path):
    night = start("-c", STARTS, tmp_path / "lock", tmp_path / "log", "print('at work', flush=True); import time; "
                  "time.sleep(60)")
    until(lambda: (tmp_path / "log").exists() and "\nat work" in (tmp_path / "log").read_text())
    night.kill()
    night.wait()
    with process.hold(tmp_path / "lock"):  # what it had started held it
        pass


def test_while_something_still_measures_nobody_else_does(tmp_path):
    night = start("-c", STARTS, tmp_path / "lock", tmp_path / "log", "import os; print(os.getpid(), flush=True);"
                  + STUBBORN)
    said = until(lambda: "at work\n" in (text := (tmp_path / "log").read_text() if (tmp_path / "log").exists() else "")
                 and text)
    pid = int(said.splitlines()[-2])
    night.kill()
    night.wait()
    try:
        with pytest.raises(ValueError, match=rf"what process {night.pid}, now gone, had started at .+ is still"), \
                process.hold(tmp_path / "lock", 0.0):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
    with process.hold(tmp_path / "lock"):
        pass


def test_a_step_that_hangs_is_ended(tmp_path):
    words = [sys.executable, "-c", STUBBORN]
    with pytest.raises(ValueError, match=r"no end in 5e-05 hours; .+log may say why"):
        process.run(words, tmp_path / "log", root=tmp_path, hours=5e-5)


def test_only_the_alert_sees_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    words = [sys.executable, "-c", "import os; print(os.environ.get('GITHUB_TOKEN'))"]
    for secrets, said in ((False, "None"), (True, "secret")):
        assert process.run(words, tmp_path / "log", root=tmp_path, secrets=secrets) == 0
        assert process.last_line(tmp_path / "log") == said


@pytest.mark.parametrize(("code", "said"), [(3, "exit status 3"), (-9, "SIGKILL")])
def test_how_a_process_ended(tmp_path, code, said):
    ends = f"import os; os._exit({code})" if code > 0 else "import os; os.kill(os.getpid(), 9)"
    assert ending(process.run([sys.executable, "-c", ends], tmp_path / "log", root=tmp_path)) == said
