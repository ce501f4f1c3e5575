"""The fingerprint, its id, and the report on a machine."""
from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from perf.commands import machine as commands
from perf.measure import fitness, machine
from perf.measure.nvml import NoNvml, Reading

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
H200 = {"gpus": ["NVIDIA H200"], "driver": "580.159.04", "ecc": True, "power_limit": 700.0, "clocks_locked_mhz": None,
        "persistence": True, "os": "Linux-6.8", "container": None, "torch": "2.11.0", "governor": None, "threads": 4,
        "pytest-benchmark": "5.2.3"}


def test_the_fingerprint_has_no_state():
    result = machine.fingerprint()
    assert {"gpus", "driver", "cuda", "cudnn", "cpu", "cores", "threads", "governor", "container", "ecc", "persistence",
            "clocks_locked_mhz", "torch", "triton", "flash-attn", "bitsandbytes"} <= result.keys()
    assert result == machine.fingerprint.__wrapped__()  # nothing that changes by itself
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize(("name", "value"), [
    ("os", "Linux-6.9"), ("container", "docker"), ("persistence", False), ("pytest-benchmark", "5.3.0"),
    ("gpus", ["NVIDIA H200"] * 8),
])
def test_what_does_not_matter_does_not_split_the_id(name, value):
    assert machine.identity({**H200, name: value}) == machine.identity(H200)


@pytest.mark.parametrize(("name", "value"), [
    ("driver", "590.1"), ("ecc", False), ("power_limit", 500.0), ("clocks_locked_mhz", 1500), ("torch", "2.12"),
    ("governor", "powersave"), ("threads", 8), ("gpus", ["NVIDIA H100"]), ("gpus", []),
])
def test_what_a_time_depends_on_does(name, value):
    assert machine.identity({**H200, name: value}) != machine.identity(H200)


@pytest.mark.parametrize(("files", "kind"), [
    ({}, None),
    ({".dockerenv": ""}, "docker"),
    ({"run/.containerenv": "", ".dockerenv": ""}, "podman"),
    ({"proc/1/cgroup": "0::/kubepods.slice/pod7/cri-containerd-1\n"}, "kubernetes"),
    ({"proc/1/cgroup": "1:cpu:/docker/0123\n"}, "docker"),
    ({"proc/1/cgroup": "0::/init.scope\n"}, None),
])
def test_a_container_is_named(tmp_path, monkeypatch, files, kind):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine._container() == kind


def test_the_governor_is_read_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPUS", tmp_path)
    assert machine._governor() is None
    (tmp_path / "cpu0" / "cpufreq").mkdir(parents=True)
    (tmp_path / "cpu0" / "cpufreq" / "scaling_governor").write_text("performance\n")
    assert machine._governor() == "performance"


SETTINGS = {"driver": "580.159.04", "ecc": True, "persistence": False, "power_limit": 700.0, "clocks_locked_mhz": None}


@pytest.fixture
def with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="8ff3"))


@pytest.mark.usefixtures("with_a_gpu")
def test_a_gpu_s_settings_come_from_nvml_alone(monkeypatch):
    settings = {name: value for name, value in SETTINGS.items() if name != "driver"}
    monkeypatch.setattr(machine, "Gpu", lambda device: SimpleNamespace(driver="580.159.04", settings=lambda: settings))
    monkeypatch.setattr(machine, "_output", None)  # called, it would raise
    assert machine._gpu_settings() == SETTINGS


@pytest.mark.usefixtures("with_a_gpu")
@pytest.mark.parametrize(("said", "settings"), [
    ("580.159.04, Enabled, Disabled, 700.00", SETTINGS),
    ("580.159.04, [N/A], Enabled, [N/A]", {**SETTINGS, "ecc": None, "persistence": True, "power_limit": None}),
    (None, dict.fromkeys(SETTINGS)),
    ("No devices were found", dict.fromkeys(SETTINGS)),
])
def test_without_nvml_nvidia_smi_tells_the_same(monkeypatch, said, settings):
    def missing(device: torch.device) -> None:
        raise NoNvml("no NVML")

    monkeypatch.setattr(machine, "Gpu", missing)
    monkeypatch.setattr(machine, "_output", lambda command, gpu, *rest: said if gpu == "--id=GPU-8ff3" else "")
    assert machine._gpu_settings() == settings


@pytest.mark.usefixtures("with_a_gpu")
@pytest.mark.parametrize(("seen", "said", "locked"), [(None, "1500", 1500), (1410, "1500", 1410), (None, " ", None)])
def test_a_lock_that_nvml_does_not_tell_is_told_by_who_made_it(monkeypatch, seen, said, locked):
    settings = {**SETTINGS, "clocks_locked_mhz": seen}
    monkeypatch.setattr(machine, "Gpu", lambda device: SimpleNamespace(driver="580.159.04", settings=lambda: settings))
    monkeypatch.setenv(machine.LOCKED, said)
    assert machine._gpu_settings()["clocks_locked_mhz"] == locked


@pytest.mark.usefixtures("with_a_gpu")
@pytest.mark.parametrize("said", ["1500 MHz", "-1", "0", "fast"])
def test_what_is_no_clock_is_one_line(monkeypatch, said):
    monkeypatch.setattr(machine, "Gpu", lambda device: SimpleNamespace(driver="", settings=lambda: dict(SETTINGS)))
    monkeypatch.setenv(machine.LOCKED, said)
    with pytest.raises(ValueError, match=f"{machine.LOCKED}={said}: no clock; set it to the MHz"):
        machine._gpu_settings()


@pytest.mark.parametrize(("locked", "seen", "unlocked"), [
    (1500, 1500, False), (1500, 1515, False), (1500, 1980, True), (None, 1980, False), (1500, None, False)])
def test_a_lock_that_does_not_hold_makes_the_machine_unfit(locked, seen, unlocked):
    why = machine.why_unlocked({"clocks_locked_mhz": locked}, {} if seen is None else {"sm_mhz_max": seen})
    assert bool(why) == unlocked
    assert not why or "nvidia-smi -lgc 1500" in why


def test_no_gpu_has_no_settings(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "Gpu", None)  # called, it would raise
    assert set(machine._gpu_settings().values()) == {None}


def _reported(monkeypatch: pytest.MonkeyPatch, reading: Reading,
              worked: list[float]) -> tuple[dict[str, Any], str | None]:
    monkeypatch.setattr(commands, "WATCHED", 0.1)
    monkeypatch.delenv(machine.LOCKED, raising=False)
    monkeypatch.setattr(commands, "_multiply", lambda device: lambda: worked.append(1.0))
    monkeypatch.setattr(fitness, "Gpu", lambda device: SimpleNamespace(read=lambda everything: reading))
    text, why = commands.examine(CUDA)
    return json.loads(text), why


def test_a_gpu_is_reported_on_at_work(monkeypatch):
    worked: list[float] = []
    result, why = _reported(monkeypatch, Reading(sm_mhz=1965, max_sm_mhz=1980, reasons=()), worked)
    assert why is None
    assert result["unfit"] is None
    assert result["state"]["sm_mhz"] == 1965
    assert result["id"] == machine.identity()
    assert worked


def test_an_unfit_gpu_is_reported_in_one_line(monkeypatch):
    result, why = _reported(monkeypatch, Reading(sm_mhz=990, reasons=("hw_slowdown",)), [])
    assert why is not None
    assert why.startswith("the GPU throttled")
    assert result["unfit"] == why


def test_the_cpu_is_reported_on(monkeypatch):
    monkeypatch.setattr(commands, "WATCHED", 0.05)
    text, _ = commands.examine(CPU)
    record = json.loads(text)
    assert record["state"]["free_bytes"] > 0
    assert record["clocks"] is None


@pytest.mark.parametrize(("fingerprint", "state", "said"), [
    ({"clocks_locked_mhz": 1500}, {}, "locked at 1500 MHz"),
    ({}, {}, None),
    ({}, {"sm_mhz": 1500, "sm_mhz_min": 1500, "sm_mhz_max": 1500, "sm_mhz_limit": 1980, "readings": 30},
     "held at 1500 of 1980 MHz, as `nvidia-smi -lgc` does, of which NVML does not tell"),
    ({}, {"sm_mhz": 1500, "sm_mhz_min": 1500, "sm_mhz_max": 1500, "sm_mhz_limit": 1980, "readings": 2},
     "not locked, as far as NVML tells"),
    ({}, {"sm_mhz": 1500, "sm_mhz_min": 1500, "sm_mhz_max": 1500, "sm_mhz_limit": 1980, "readings": 30,
          "throttle": "sw_power_cap"}, "not locked, as far as NVML tells"),
    ({}, {"sm_mhz": 1980, "sm_mhz_min": 1980, "sm_mhz_max": 1980, "sm_mhz_limit": 1980, "readings": 30},
     "not locked, as far as NVML tells"),
    ({}, {"sm_mhz": 1500, "sm_mhz_min": 1485, "sm_mhz_max": 1500, "sm_mhz_limit": 1980},
     "not locked, as far as NVML tells"),
])
def test_whether_the_clocks_are_locked_is_said(fingerprint, state, said):
    assert machine.clocks(fingerprint, state) == said
