"""A machine is described by its hardware, settings, driver and versions, and has an id of what a time depends on.

Load, clocks and heat change by themselves and are no part of it: they are the measurement's state (fitness.py).
"""
from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from perf.measure.nvml import Gpu, NoNvml
from perf.system import git

PACKAGES = ("torch", "triton", "flash-attn", "transformers", "bitsandbytes", "pytest-benchmark")
NO_INFLUENCE = ("os", "container", "persistence", "pytest-benchmark")  # a time does not depend on them
LOCKED = "PERF_CLOCKS_LOCKED_MHZ"  # environment: what `nvidia-smi -lgc` was set to, of which NVML does not tell
FEWEST = 20  # readings that must be the same for a clock to count as held
STEP = 15  # MHz, of NVIDIA's clocks: a lock is rounded to one
CPUS = Path("/sys/devices/system/cpu")
ROOT = Path("/")
CONTAINERS = {"kubepods": "kubernetes", "docker": "docker", "libpod": "podman", "lxc": "lxc"}


@functools.cache
def fingerprint() -> dict[str, Any]:
    """Describes what a time depends on, and where it was taken, as JSON scalars and lists. Of several GPUs the first
    one's settings count: "ecc", "persistence", "power_limit" (watts), "clocks_locked_mhz".

    Raises ValueError, in one line, for an environment variable `LOCKED` that is no clock.
    """
    return {
        "gpus": [torch.cuda.get_device_name(i)
                 for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)],
        **_gpu_settings(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "governor": _governor(),
        "container": _container(),
        "python": platform.python_version(),
        "os": platform.platform(),
        **{package: _version(package) for package in PACKAGES},
    }


def identity(machine: dict[str, Any] | None = None) -> str:
    """Gives twelve hexadecimal digits that differ where a time may: not with the kernel's build, nor with how many
    equal GPUs are visible."""
    facts = {name: value for name, value in (machine or fingerprint()).items() if name not in NO_INFLUENCE}
    facts["gpus"] = sorted(set(facts.get("gpus", ())))
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


@functools.cache
def revision() -> str | None:
    """Reads the git commit of the working directory, "+dirty" if it has changes; None outside git."""
    here = Path.cwd()
    try:
        commit = git.text(here, "rev-parse", "HEAD")
        return f"{commit}+dirty" if git.changes(here) else commit
    except ValueError:
        return None


def clocks(machine: dict[str, Any], state: dict[str, Any]) -> str | None:
    """Says whether the GPU's clocks are locked, as far as NVML tells; None where they are not read."""
    if machine.get("clocks_locked_mhz"):
        return f"locked at {machine['clocks_locked_mhz']} MHz"
    if "sm_mhz" not in state:
        return None
    steady = state.get("readings", 0) >= FEWEST and not state.get("throttle")  # few readings are alike by chance
    steady_below = steady and state["sm_mhz_min"] == state["sm_mhz_max"] < state.get("sm_mhz_limit", 0)
    return (f"held at {state['sm_mhz']:.0f} of {state['sm_mhz_limit']} MHz, as `nvidia-smi -lgc` does, of which "
            "NVML does not tell" if steady_below else "not locked, as far as NVML tells")


def why_unlocked(machine: dict[str, Any], state: dict[str, Any]) -> str | None:
    """Says why the clock that the user declares locked is not; None where nothing speaks against it."""
    locked, clock = machine.get("clocks_locked_mhz"), state.get("sm_mhz_max")
    if not locked or clock is None or clock <= locked + STEP:
        return None
    return (f"the GPU ran at {clock:.0f} MHz and is said to be locked at {locked}: lock it (nvidia-smi -lgc {locked}), "
            f"or unset {LOCKED}")


def _gpu_settings() -> dict[str, Any]:
    """Reads the settings by NVML; without it nvidia-smi tells the same, only not of clocks."""
    settings: dict[str, Any] = dict.fromkeys(("driver", "ecc", "persistence", "power_limit", "clocks_locked_mhz"))
    if not torch.cuda.is_available():
        return settings
    try:
        gpu = Gpu(torch.device("cuda", 0))
    except NoNvml:
        settings |= _nvidia_smi()
    else:
        settings |= {"driver": gpu.driver} | gpu.settings()
    return settings | {"clocks_locked_mhz": settings["clocks_locked_mhz"] or _locked_clock()}


def _locked_clock() -> int | None:
    """Reads the clock that whoever locked it wrote into the environment; the harness locks none."""
    word = os.environ.get(LOCKED, "").strip()
    if word and not (word.isascii() and word.isdigit() and int(word)):
        raise ValueError(f"{LOCKED}={word}: no clock; set it to the MHz that `nvidia-smi -lgc` was given, or unset it")
    return int(word) if word else None


def _nvidia_smi() -> dict[str, Any]:
    gpu = f"--id=GPU-{torch.cuda.get_device_properties(0).uuid}"
    line = _output("nvidia-smi", gpu, "--query-gpu=driver_version,ecc.mode.current,persistence_mode,power.limit",
                   "--format=csv,noheader,nounits")
    if line is None or line.count(",") != 3:
        return {}
    driver, ecc, persistence, limit = (value.strip() for value in line.split(","))
    words = {"Enabled": True, "Disabled": False}
    return {"driver": driver, "ecc": words.get(ecc), "persistence": words.get(persistence),
            "power_limit": float(limit) if limit.replace(".", "").isdigit() else None}


def _governor() -> str | None:
    """Reads how the kernel chooses the CPU's frequency; None in most virtual machines."""
    return _read(CPUS / "cpu0" / "cpufreq" / "scaling_governor")


def _container() -> str | None:
    """Names the kind of container this runs in, as far as it shows: by a file, or in the name of its cgroup."""
    for file, kind in (("run/.containerenv", "podman"), (".dockerenv", "docker")):
        if (ROOT / file).exists():
            return kind
    groups = _read(ROOT / "proc" / "1" / "cgroup") or ""
    return next((kind for name, kind in CONTAINERS.items() if name in groups), None)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def _cpu() -> str:
    lines = (_read(ROOT / "proc" / "cpuinfo") or "").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
                platform.processor())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    """Gives what a command prints, None if it is missing or fails."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip() or None
