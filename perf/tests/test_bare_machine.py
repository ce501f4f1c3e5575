"""docs/runner.md is gone through on a bare Debian, booted in a container, without a GPU and without GitHub.

The commands are the page's, in their order; LEFT_OUT and INSTEAD say what differs, and the output names each. GitHub
is a folder of the machine; `nvidia-smi` and the archive of GitHub's runner are stand-ins. The runner runs the steps of
nightly.yml's job `measure`, as the account and in the bounds that the unit file gives it.
"""
from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perf.tests.repositories import ROOT, git, harness
from perf.tests.workflow_jobs import script

TOOLS = ("debootstrap", "systemd-nspawn", "nsenter")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, TOOLS)),
    reason="a bare Debian takes root and: apt-get install debootstrap systemd-container util-linux")]

PAGE = (ROOT / "docs" / "runner.md").read_text(encoding="utf-8")
LEFT_OUT = {  # of the page: what is not run here, and why
    "perf repeatability": "a CPU's spread says nothing of a GPU's, and takes minutes",
    "perf selftest": "a CPU's resolution says nothing of a GPU's, and takes minutes",
    "gh ": "GitHub is a folder here",
}
INSTEAD = {  # of the page: what is typed instead
    "--index-url https://download.pytorch.org/whl/cu130": "--extra-index-url https://download.pytorch.org/whl/cpu",
    "-m perf machine": "-m perf machine || [ $? = 1 ]",  # a busy machine is unfit
    "--follow": "--no-pager",
    "/tmp/actions-runner": "/srv/actions-runner",  # the container's own /tmp begins empty
}
COMPILE = "import torch; print(torch.compile(lambda x: (2 * x).sin().sum())(torch.ones(64, 64)))"
CHOSEN = ("--device=cpu --grid=quick --no-tests -- --perf-functions=softmax --perf-backends=eager,tiled "
          "--perf-phases=forward --perf-seqlens=512")
RUNNER = {  # stands in for the archive of https://github.com/actions/runner
    "config.sh": """#!/bin/bash -e
[ "$(id -u)" != 0 ] || { echo "Must not run with sudo"; exit 1; }
ldconfig -NXv 2>&1 | grep libicu > /dev/null || { echo "Execute sudo ./bin/installdependencies.sh"; exit 1; }
echo "$@" > .runner
""",
    "bin/installdependencies.sh": "#!/bin/bash\napt-get install --yes --no-install-recommends libicu72\n",
    "run.sh": """#!/bin/bash
trap 'echo "GitHub is told that the job is cancelled"; exit 143' TERM
[ "$RUNNER_MANUALLY_TRAP_SIG" ] || trap - TERM
echo "Listening for Jobs"
export RUNNER_TEMP=$PWD/_work/_temp ARTIFACTS=$PWD/_work/artifacts ORIGIN=https://github.com/OWNER/REPOSITORY
mkdir -p _work/REPOSITORY/REPOSITORY && cd _work/REPOSITORY/REPOSITORY && bash ../../../measure.sh
echo "measure ended with $?"
sleep infinity & wait
""",
}


def commands(section: int) -> list[str]:
    """Lists what the page says to type in a section, each with its here-document, without comments."""
    text = PAGE.partition(f"\n## {section}. ")[2].partition("\n## ")[0]
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    return [re.sub(r"\s+# .*$", "", one, flags=re.MULTILINE)
            for one in re.findall(r"^.*<<'END'\n(?:.*\n)*?END$|^.+$", blocks, re.MULTILINE)]


def steps(section: int) -> str:
    """Writes the script of a section: it says each command before it, and ends with the first that fails."""
    lines = ["set -e -o pipefail"]
    for one in commands(section):
        if why := next((why for what, why in LEFT_OUT.items() if what in one), ""):
            lines.append(f"echo {shlex.quote(f'## left out, {why}: {one}')}")
            continue
        typed = one
        for before, after in INSTEAD.items():
            typed = typed.replace(before, after)
        lines += [f"echo {shlex.quote(f'## {typed}' + (f' (instead of: {one})' if typed != one else ''))}", typed]
    return "\n".join(lines)


class Machine:
    """Is a Debian in `root` that runs in a container of its own, with this machine's network and pip's settings."""

    def __init__(self, root: Path) -> None:
        self.root = root
        include = "--include=systemd,dbus,sudo,ca-certificates"
        made = subprocess.run(["debootstrap", "--variant=minbase", include, "bookworm", root,
                               "http://deb.debian.org/debian"], capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout[-2000:] + made.stderr
        folders = self._pip()
        sized = [] if Path("/run/systemd/system").is_dir() else ["--keep-unit"]  # no systemd here that could count it
        self.process = subprocess.Popen(
            ["systemd-nspawn", "--quiet", f"--directory={root}", "--boot", "--register=no", *sized,
             "--resolv-conf=copy-host", "--link-journal=no", *(f"--bind-ro={folder}" for folder in folders)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def boot(self) -> None:
        """Waits until its systemd is up."""
        end = time.monotonic() + 120
        while self._call("systemctl is-system-running --wait").stdout.strip() not in ("running", "degraded"):
            assert self.process.poll() is None, "systemd-nspawn ended"
            assert time.monotonic() < end, "the container's systemd did not come up"
            time.sleep(0.5)

    def _pip(self) -> list[str]:
        """Gives the machine this one's settings of pip, and the project's versions; returns the folders that they
        name."""
        listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True,
                                check=True).stdout
        settings = dict(re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
        settings |= {"constraint": "/srv/constraints.txt", "retries": "1"}
        shutil.copy(ROOT / "constraints.txt", self.root / "srv")
        (self.root / "etc" / "pip.conf").write_text(
            "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
        places = [Path(word.removeprefix("file://").removesuffix("/simple")) for value in settings.values()
                  for word in value.split() if word.startswith(("/", "file:///"))]
        return sorted({str(place) for place in places if place.exists() and place != Path("/srv/constraints.txt")})

    def _call(self, words: str, account: str = "root") -> subprocess.CompletedProcess[str]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        enter = ["nsenter", f"--target={children[0] if children else self.process.pid}", "--all", "--root", "--wd"]
        return subprocess.run([*enter, "runuser", "--login", account, "--command", words], text=True, check=False,
                              env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def run(self, words: str, account: str = "admin") -> str:
        """Runs a script as an account; returns what it prints."""
        done = self._call(words, account)
        print(done.stdout)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def file(self, path: str, content: str) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content, encoding="utf-8")
        place.chmod(0o755)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Gives a bare Debian with an administrator, on which GitHub is a folder that has this project."""
    made = Machine(tmp_path / "debian")
    try:
        made.boot()
        project = harness(tmp_path / "project")
        for name in ("docs", ".github", "README.md", "LICENSE", "constraints.txt"):
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, project / name)
        git(project, "init", "--quiet", "--initial-branch=main")
        git(project, "add", "--all")
        git(project, "commit", "--quiet", "--message", "The project")
        git(tmp_path, "clone", "--quiet", "--bare", str(project), str(made.root / "srv/OWNER/REPOSITORY"))
        made.file("etc/gitconfig", '[url "file:///srv/"]\ninsteadOf = https://github.com/\n'
                  "[safe]\ndirectory = /srv/OWNER/REPOSITORY\n[user]\nname = Ada\nemail = ada@example.org\n")
        made.file("etc/hosts", f"127.0.0.1 localhost {socket.gethostname()}\n")
        made.run("useradd --create-home --shell /bin/bash admin; chown -R admin /srv/OWNER; "
                 "echo 'admin ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/admin", "root")
        yield made
    finally:
        made.stop()
        shutil.rmtree(made.root)  # gigabytes, which pytest would keep


def test_a_bare_machine_becomes_the_runner(machine):
    machine.run(steps(1))
    python = "/opt/attention-perf/bin/python"
    assert "tensor(" in machine.run(f"cd REPOSITORY && {python} -c '{COMPILE}'")  # a compiler, and Python's headers
    assert "no package" in machine.run(f"cd / && {python} -m pip show attention-perf 2>&1 || echo no package")
    assert '"unfit": ' in machine.run(f"cd REPOSITORY\n{steps(2)}")
    machine.run(steps(3))
    machine.run(f"cd REPOSITORY\n{steps(5)}")  # before the runner, which takes a job at once here

    machine.file("usr/bin/nvidia-smi", '#!/bin/sh\necho "$@" >> /var/log/nvidia-smi\n')
    job = script("nightly", "measure").replace("--no-alert --no-site", f"--no-alert --no-site {CHOSEN}")
    with tarfile.open(machine.root / "srv" / "actions-runner-linux-x64-2.0.0.tar.gz", "w:gz") as archive:
        for name, text in (RUNNER | {"measure.sh": job}).items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o755
            archive.addfile(entry, io.BytesIO(text.encode()))
    machine.run(steps(4))
    log = "sudo journalctl --unit attention-perf-runner --no-pager --output=cat"
    said = machine.run(f"timeout 900 sh -c 'until {log} | grep \"measure ended with\"; do sleep 5; done'; {log}")
    assert "Listening for Jobs" in said
    assert "measure ended with 0" in said
    assert list((machine.root / "opt/actions-runner/_work/artifacts/history/nights").glob("*.json"))
    machine.run("sudo systemctl stop attention-perf-runner; ! systemctl is-failed attention-perf-runner")
    assert "GitHub is told that the job is cancelled" in machine.run(log)
    assert (machine.root / "var/log/nvidia-smi").read_text().splitlines() == [
        "--persistence-mode=1", "--lock-gpu-clocks=1500", "--reset-gpu-clocks"]
