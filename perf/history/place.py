"""Says in asv's words where a series was measured: a machine record and an environment, both from the fingerprint.

asv draws one line for each set of their values. So a new GPU, power limit or locked clock is another machine, a new
driver, CUDA, cuDNN or package another environment, and neither is a step in a line. What a time doesn't depend on (the
kernel's build, the host's name, how many equal GPUs there are) is left out: a pool of equal machines is one.
"""
from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from asv.environment import get_env_name

TOOL = "links"  # of perf.history.asv_environment: what pytest measured stands beside what `asv run` did

# Name in asv -> name in the fingerprint.
HARDWARE = {"cpu": "cpu", "num_cpu": "cores", "threads": "threads", "governor": "governor"}
GPU = {"ecc": "ecc", "power_limit": "power_limit", "clocks_locked_mhz": "clocks_locked_mhz"}
PACKAGES = ("torch", "triton", "flash-attn", "transformers", "bitsandbytes")
GPU_SOFTWARE = ("driver", "cuda", "cudnn")

Fingerprint = Mapping[str, Any]


def machine(fingerprint: Fingerprint, device_type: str) -> dict[str, str]:
    """Makes asv's record of a machine, the GPU in it: what stands in machine.json, and beside every result.

    Its name says what it is, and ends in digits that differ where any of it does: "nvidia-h200-5b3f9a". A CPU that
    is measured beside a GPU is a machine of its own.
    """
    record = {"arch": "x86_64", "os": "Linux", **_system(fingerprint)}
    record |= {name: _word(fingerprint.get(key)) for name, key in HARDWARE.items()}
    if device_type == "cuda":
        record["gpu"] = ", ".join(sorted(set(fingerprint.get("gpus") or ())))
        record |= {name: _word(fingerprint.get(key)) for name, key in GPU.items()}
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:6]
    return {"machine": f"{_slug(record.get('gpu') or record['cpu'] or 'unknown')}-{digest}", **record}


def requirements(fingerprint: Fingerprint, device_type: str) -> dict[str, str]:
    """Lists the versions that a time depends on, by name; packages that are not installed are left out."""
    names = (*PACKAGES, *GPU_SOFTWARE) if device_type == "cuda" else PACKAGES
    return {name: str(fingerprint[name]) for name in sorted(names) if fingerprint.get(name) is not None}


def python(fingerprint: Fingerprint) -> str:
    """Writes "3.12"."""
    return ".".join(str(fingerprint.get("python", "")).split(".")[:2])


def environment(fingerprint: Fingerprint, device_type: str, variables: Mapping[str, str] | None = None) -> str:
    """Names the environment as asv does, and as `asv run` with this project's environment makes it."""
    tagged = {("env_nobuild", name): value for name, value in (variables or {}).items()}
    return get_env_name(TOOL, python(fingerprint), requirements(fingerprint, device_type), tagged)


def _system(fingerprint: Fingerprint) -> dict[str, str]:
    """Writes "Linux-6.18.44-gpu-x86_64-with-glibc2.39": the build of the kernel is no part of it."""
    words = str(fingerprint.get("os") or "").split("-")
    arch = next((word for word in ("x86_64", "aarch64", "arm64", "AMD64") if word in words), None)
    return {"os": words[0]} | ({"arch": arch} if arch else {}) if words[0] else {}


def _word(value: Any) -> str:
    return "" if value is None else str(value)


def _slug(text: str) -> str:
    """Turns "Intel(R) Xeon(R) Processor" into "intel-xeon-processor"."""
    plain = re.sub(r"\((r|tm|c)\)", " ", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40]
