"""The machine a measurement was made on: hardware, driver and versions, and an id of it all."""
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

PACKAGES = ("torch", "triton", "flash-attn", "transformers", "bitsandbytes", "pytest-benchmark")


@functools.cache
def fingerprint() -> dict[str, Any]:
    """What a time depends on, as JSON scalars and lists."""
    return {
        "gpus": _gpus(),
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "os": platform.platform(),
        **{package: _version(package) for package in PACKAGES},
    }


def identity(machine: dict[str, Any] | None = None) -> str:
    """Twelve hexadecimal digits that differ where the fingerprint does."""
    text = json.dumps(machine or fingerprint(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.cache
def revision() -> str | None:
    """The git commit of the working directory, "+dirty" if it has changes; None outside git."""
    commit = _output("git", "rev-parse", "HEAD")
    dirty = commit and _output("git", "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+dirty" if dirty else commit


def _gpus() -> list[str]:
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _driver() -> str | None:
    if not torch.cuda.is_available():
        return None
    versions = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return versions.splitlines()[0] if versions else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
                platform.processor())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    """What a command prints, None if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
