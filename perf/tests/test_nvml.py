"""Reads a GPU through a stand-in for pynvml."""
from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from perf.measure import nvml
from perf.measure.nvml import Gpu, NoNvml, reasons

UUID = "8ff3c2dc-0000-0000-0000-fafd804516ae"
NOT_OURS = 2 ** 22 + 1  # above the largest process id of Linux


class NVMLError(Exception):
    pass


class Nvml:
    """Is an H200 at work, the second of a machine; `told` are answers that differ, None refuses one."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_CLOCK_ID_APP_CLOCK_TARGET, NVML_CLOCK_ID_APP_CLOCK_DEFAULT = 1, 2
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 1, 0

    def __init__(self, **options: Any) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Any] = {
            "HandleByUUID": lambda uuid: {f"GPU-{UUID}": "handle 1"}[uuid],
            "HandleByPciBusId": lambda address: {"00000000:1b:00.0": "handle 1"}[address],
            "ClockInfo": lambda kind: {1: 1965, 2: 3201}[kind],
            "MaxClockInfo": lambda kind: {1: 1980, 2: 3201}[kind],
            "Clock": lambda kind, which: 1980,
            "CurrentClocksEventReasons": lambda: 0,
            "Temperature": lambda sensor: 41,
            "PowerUsage": lambda: 512_300,
            "EnforcedPowerLimit": lambda: 700_000,
            "PowerManagementLimit": lambda: 700_000,
            "TotalEccErrors": lambda kind, counter: 0,
            "UtilizationRates": lambda: SimpleNamespace(gpu=100, memory=20),
            "MemoryInfo": lambda: SimpleNamespace(free=140 * 10 ** 9),
            "PersistenceMode": lambda: 1,
            "EccMode": lambda: [1, 1],
            "ComputeRunningProcesses_v3": lambda: [SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)],
            **options,
        }

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.159.04"

    def __getattr__(self, name: str) -> Any:
        query = name.removeprefix("nvmlDeviceGet")
        if query not in self.answers:
            raise AttributeError(name)

        def answer(*arguments: Any) -> Any:
            self.asked.append(query)
            if arguments[:1] == ("handle 1",):
                arguments = arguments[1:]
            if self.answers[query] is None:
                raise NVMLError("Not Supported")
            return self.answers[query](*arguments)

        return answer


def gpu(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Gpu:
    properties = options.pop("properties", {"uuid": UUID})
    monkeypatch.setattr(torch.cuda, "get_device_properties",
                        lambda device: SimpleNamespace(name="NVIDIA H200", **properties))
    return Gpu(torch.device("cuda", 0), nvml=Nvml(**options))


def listed(*pids: int) -> Any:
    return lambda: [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in pids]


def test_a_healthy_gpu_is_read(monkeypatch):
    reading = gpu(monkeypatch).read()
    assert (reading.sm_mhz, reading.max_sm_mhz, reading.mem_mhz, reading.max_mem_mhz) == (1965, 1980, 3201, 3201)
    assert reading.reasons == ()
    assert (reading.temperature, reading.power, reading.power_limit) == (41, 512.3, 700.0)
    assert (reading.ecc_errors, reading.utilisation, reading.free_bytes) == (0, 100, 140 * 10 ** 9)
    assert reading.foreign == ()


def test_beside_a_timing_only_what_is_quick_is_asked(monkeypatch):
    made = gpu(monkeypatch)
    made._nvml.asked.clear()
    reading = made.read(everything=False)
    assert reading.sm_mhz == 1965
    assert reading.foreign is None
    assert made._nvml.asked == ["ClockInfo", "ClockInfo", "CurrentClocksEventReasons", "Temperature", "PowerUsage"]


def test_reasons_have_the_names_of_nvidia_smi():
    assert reasons(0) == ()
    assert reasons(0x1) == ("gpu_idle",)
    assert reasons(0x4 | 0x20 | 0x80) == ("sw_power_cap", "sw_thermal_slowdown", "hw_power_brake_slowdown")
    assert reasons(0x8 | 0x40) == ("hw_slowdown", "hw_thermal_slowdown")
    assert reasons(0x8000_0000) == ("0x80000000",)


@pytest.mark.parametrize("refused", ["ClockInfo", "CurrentClocksEventReasons", "Temperature", "PowerUsage",
                                     "TotalEccErrors", "UtilizationRates", "MemoryInfo", "EnforcedPowerLimit",
                                     "ComputeRunningProcesses_v3", "MaxClockInfo"])
def test_what_a_driver_does_not_tell_is_none(monkeypatch, refused):
    whole = gpu(monkeypatch).read()
    lacking = gpu(monkeypatch, **{refused: None}).read()
    lost = {name for name in vars(whole) if getattr(whole, name) != getattr(lacking, name)}
    assert lost
    assert all(getattr(lacking, name) is None for name in lost)


def test_an_old_driver_s_name_for_the_reasons(monkeypatch):
    older = gpu(monkeypatch, CurrentClocksEventReasons=None, CurrentClocksThrottleReasons=lambda: 0x4)
    assert older.read().reasons == ("sw_power_cap",)


def test_this_process_and_its_relatives_are_not_foreign(monkeypatch):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        pids = listed(os.getpid(), os.getppid(), child.pid)
        assert gpu(monkeypatch, ComputeRunningProcesses_v3=pids).read().foreign == ()
    finally:
        child.communicate()


def test_another_process_is_foreign(monkeypatch):
    pids = listed(os.getpid(), NOT_OURS)
    assert gpu(monkeypatch, ComputeRunningProcesses_v3=pids).read().foreign == ((NOT_OURS, "of unknown name"),)


@pytest.mark.parametrize("pids", [(), (NOT_OURS,), (NOT_OURS, NOT_OURS + 1)])
def test_a_list_without_this_process_is_not_believed(monkeypatch, pids):
    """A container hides the processes, or shows the host's ids: ours is among them under another number."""
    assert gpu(monkeypatch, ComputeRunningProcesses_v3=listed(*pids)).read().foreign is None


def test_the_gpu_is_found_by_its_uuid_and_not_by_its_index(monkeypatch):
    assert gpu(monkeypatch).read().sm_mhz == 1965
    address = {"pci_domain_id": 0, "pci_bus_id": 0x1b, "pci_device_id": 0}
    assert gpu(monkeypatch, properties=address).read().sm_mhz == 1965  # an old torch tells no UUID
    assert gpu(monkeypatch, properties={"uuid": UUID, **address}, HandleByUUID=None).read().sm_mhz == 1965


def test_a_gpu_that_nvml_does_not_know_is_refused(monkeypatch):
    with pytest.raises(NoNvml, match=r"not watched: NVML does not know this NVIDIA H200 .*; a MIG slice"):
        gpu(monkeypatch, HandleByUUID=None)


def test_settings_are_told(monkeypatch):
    assert gpu(monkeypatch).settings() == {"ecc": True, "persistence": True, "power_limit": 700.0,
                                           "clocks_locked_mhz": None}
    locked = gpu(monkeypatch, Clock=lambda kind, which: {1: 1500, 2: 1980}[which])
    assert locked.settings()["clocks_locked_mhz"] == 1500
    silent = gpu(monkeypatch, Clock=None, EccMode=None, PersistenceMode=None, PowerManagementLimit=None)
    assert set(silent.settings().values()) == {None}
    assert locked.driver == "580.159.04"


def test_no_pynvml_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoNvml) as refused:
        Gpu(torch.device("cuda"))
    assert str(refused.value) == ("clocks and throttling are not watched: nvidia-ml-py is not installed; "
                                  "pip install nvidia-ml-py")


def test_no_driver_is_one_line(monkeypatch):
    def refuse() -> None:
        raise NVMLError("NVML Shared Library Not Found")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(nvmlInit=refuse, NVMLError=NVMLError))
    with pytest.raises(NoNvml, match=r"not watched: NVML does not start \(NVML Shared Library Not Found\); install"):
        nvml._nvml()


def test_pynvml_has_all_that_is_asked(monkeypatch):
    pynvml = pytest.importorskip("pynvml")
    made = gpu(monkeypatch)
    made.read()
    made.settings()
    asked = {f"nvmlDeviceGet{query}" for query in (*made._nvml.asked, "HandleByPciBusId")}
    constants = {name for name in vars(Nvml) if name.startswith("NVML_")}
    assert {name for name in asked | constants if not hasattr(pynvml, name)} == set()
    assert {name: getattr(Nvml, name) for name in constants} == {name: getattr(pynvml, name) for name in constants}
    prefix = "nvmlClocksThrottleReason"
    bits = {name.removeprefix(prefix).lower(): bit for name, bit in vars(pynvml).items() if name.startswith(prefix)}
    ours = {word.replace("_", ""): bit for bit, word in nvml.REASONS.items()}
    assert {word: bits[word] for word in ours if word in bits}.items() <= ours.items()
    assert len(ours.keys() & bits.keys()) >= 9  # a recent pynvml names two more


def test_relatives_are_told_apart():
    assert nvml._ours(os.getpid())
    assert nvml._ours(os.getppid())
    assert not nvml._ours(NOT_OURS)


def test_the_sibling_is_a_relative(monkeypatch):
    """Seen from a process that is not the child's parent."""
    monkeypatch.setattr(nvml, "os", SimpleNamespace(getpid=lambda: NOT_OURS, environ=os.environ))
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        monkeypatch.delenv(nvml.FAMILY, raising=False)
        assert not nvml._ours(child.pid)
        monkeypatch.setenv(nvml.FAMILY, str(os.getpid()))
        assert nvml._ours(child.pid)
    finally:
        child.communicate()


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_this_machine_s_gpu_is_read():
    x = torch.randn(4096, 4096, device="cuda")
    for _ in range(100):
        x @ x
    reading = Gpu(torch.device("cuda", 0)).read()
    assert reading.sm_mhz
    assert reading.max_sm_mhz
    assert reading.sm_mhz <= reading.max_sm_mhz
    assert reading.reasons is not None
