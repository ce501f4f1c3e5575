"""Tests what starts a series of its own in asv's history, and what does not."""
from __future__ import annotations

import pytest

from perf.history import place

H200 = {"gpus": ["NVIDIA H200"], "driver": "580.159.04", "ecc": True, "power_limit": 700.0, "clocks_locked_mhz": None,
        "cuda": "13.0", "cudnn": 91900, "cpu": "Intel(R) Xeon(R) Processor", "cores": 16, "threads": 1,
        "governor": None, "container": "docker", "python": "3.12.3", "os": "Linux-6.18.44-gpu-x86_64-with-glibc2.39",
        "torch": "2.11.0", "triton": "3.6.0", "flash-attn": None, "transformers": "5.17.0", "bitsandbytes": None,
        "persistence": True, "pytest-benchmark": "5.2.3"}


def where(fingerprint, device_type="cuda"):
    return place.machine(fingerprint, device_type)["machine"], place.environment(fingerprint, device_type)


def test_the_gpu_is_part_of_asvs_machine_record():
    told = place.machine(H200, "cuda")
    assert told["gpu"] == "NVIDIA H200"
    assert told["machine"].startswith("nvidia-h200-")
    assert told["clocks_locked_mhz"] == ""
    assert all(isinstance(value, str) for value in told.values())
    assert (told["os"], told["arch"]) == ("Linux", "x86_64")


def test_the_environment_is_told_as_asv_tells_one():
    assert place.environment(H200, "cuda") == ("links-py3.12-cuda13.0-cudnn91900-driver580.159.04-torch2.11.0-"
                                               "transformers5.17.0-triton3.6.0")
    assert place.environment(H200, "cuda", {"TREE": "dirty"}).endswith("-TREEdirty")


@pytest.mark.parametrize("change", [{"gpus": ["NVIDIA H100"]}, {"clocks_locked_mhz": 1500}, {"power_limit": 350.0},
                                    {"ecc": False}, {"cpu": "AMD EPYC"}, {"cores": 8}, {"threads": 2}])
def test_other_hardware_is_another_machine(change):
    before, after = where(H200), where(H200 | change)
    assert before[0] != after[0]
    assert before[1] == after[1]


@pytest.mark.parametrize("change", [{"driver": "590"}, {"cuda": "13.1"}, {"torch": "2.12.0"}, {"cudnn": 92000},
                                    {"python": "3.13.0"}, {"flash-attn": "2.8.3"}, {"triton": "3.7"}])
def test_another_version_is_another_environment(change):
    before, after = where(H200), where(H200 | change)
    assert before[0] == after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize("change", [{"gpus": ["NVIDIA H200"] * 8}, {"container": None}, {"python": "3.12.9"},
                                    {"os": "Linux-6.19.1-gpu-x86_64-with-glibc2.39"}, {"persistence": False}])
def test_what_no_time_depends_on_changes_nothing(change):
    assert where(H200) == where(H200 | change)


def test_a_cpu_beside_a_gpu_is_a_machine_of_its_own():
    machine, environment = where(H200, "cpu")
    assert machine.startswith("intel-xeon-processor-")
    assert "cuda" not in environment
    assert where(H200 | {"gpus": [], "driver": None}, "cpu") == (machine, environment)


def test_a_fingerprint_that_tells_nothing_has_a_place():
    assert where({}, "cpu")[0].startswith("unknown-")
