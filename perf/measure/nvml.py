"""A GPU tells of itself through NVML: clocks, what holds them down, heat, power, who else uses it.

A thin reader over nvidia-ml-py (https://docs.nvidia.com/deploy/nvml-api). It only reads: clocks and
power are never changed. What a driver or device does not tell is None.
"""
from __future__ import annotations

import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

# Why clocks are where they are, by the names of `nvidia-smi --query-gpu=clocks_event_reasons.*`.
REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}

Process = tuple[int, str]  # its id and name
FAMILY = "PERF_FAMILY"  # environment variable: the process whose descendants all measure together


class NoNvml(RuntimeError):
    """Says why NVML can't be read, in one line."""


@dataclass(frozen=True)
class Reading:
    """Is one look at a GPU: clocks in MHz, temperature in degrees Celsius, power in watts.

    `foreign` are the processes that compute on the GPU and are not this one, its ancestors, its
    descendants or those of its `FAMILY`. NVML lists none in some containers, and in others the host's
    process ids: so the list is believed only if this process stands in it, and None, unknown, otherwise.
    """

    sm_mhz: int | None = None
    mem_mhz: int | None = None
    max_sm_mhz: int | None = None
    max_mem_mhz: int | None = None
    reasons: tuple[str, ...] | None = None
    temperature: int | None = None
    power: float | None = None
    power_limit: float | None = None
    ecc_errors: int | None = None  # uncorrected, since the driver was loaded
    utilisation: int | None = None  # percent of the last fraction of a second that a kernel ran
    free_bytes: int | None = None
    foreign: tuple[Process, ...] | None = None


class Gpu:
    """Is one GPU in NVML. Raises NoNvml where there is no NVML, or it does not know the GPU."""

    def __init__(self, device: torch.device, nvml: ModuleType | Any = None) -> None:
        self._nvml = nvml or _nvml()
        self._handle = self._find(torch.cuda.get_device_properties(device))
        self._max_sm = self._ask("nvmlDeviceGetMaxClockInfo", self._nvml.NVML_CLOCK_SM)
        self._max_mem = self._ask("nvmlDeviceGetMaxClockInfo", self._nvml.NVML_CLOCK_MEM)
        self._power_limit = _watts(self._ask("nvmlDeviceGetEnforcedPowerLimit"))

    def read(self, everything: bool = True) -> Reading:
        """Reads what changes with the work; with `everything` also memory, errors and processes, which is slower."""
        return Reading(
            sm_mhz=self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM),
            mem_mhz=self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_MEM),
            max_sm_mhz=self._max_sm, max_mem_mhz=self._max_mem, reasons=self._reasons(),
            temperature=self._ask("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU),
            power=_watts(self._ask("nvmlDeviceGetPowerUsage")), power_limit=self._power_limit,
            **(self._rest() if everything else {}))

    def settings(self) -> dict[str, Any]:
        """Reads what an administrator sets and a time depends on; nothing that changes by itself.

        `clocks_locked_mhz` is the SM clock set by `nvidia-smi -ac`; None where none is set or the driver
        does not tell, and NVML never tells of `nvidia-smi -lgc`: that shows in readings that all agree.
        """
        persistence = self._ask("nvmlDeviceGetPersistenceMode")
        ecc = self._ask("nvmlDeviceGetEccMode")
        target, default = (self._ask("nvmlDeviceGetClock", self._nvml.NVML_CLOCK_SM, which)
                           for which in (self._nvml.NVML_CLOCK_ID_APP_CLOCK_TARGET,
                                         self._nvml.NVML_CLOCK_ID_APP_CLOCK_DEFAULT))
        return {"ecc": None if ecc is None else bool(ecc[0]),
                "persistence": None if persistence is None else bool(persistence),
                "clocks_locked_mhz": target if target and default and target != default else None,
                "power_limit": _watts(self._ask("nvmlDeviceGetPowerManagementLimit"))}

    @property
    def driver(self) -> str | None:
        try:
            return self._nvml.nvmlSystemGetDriverVersion()
        except self._nvml.NVMLError:
            return None

    def _find(self, properties: Any) -> Any:
        """Finds it by UUID, else by PCI address: an index of torch's counts only CUDA_VISIBLE_DEVICES."""
        try:
            return self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")
        except (AttributeError, self._nvml.NVMLError):
            pass
        try:
            address = f"{properties.pci_domain_id:08x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"
            return self._nvml.nvmlDeviceGetHandleByPciBusId(address)
        except (AttributeError, self._nvml.NVMLError) as error:
            raise NoNvml(f"clocks and throttling are not watched: NVML does not know this {properties.name} "
                         f"({error}); a MIG slice has no clocks of its own: measure on a whole GPU") from error

    def _ask(self, query: str, *arguments: Any) -> Any:
        """Gives the answer, None if the driver, the device or an old pynvml has none."""
        try:
            return getattr(self._nvml, query)(self._handle, *arguments)
        except (AttributeError, self._nvml.NVMLError):
            return None

    def _reasons(self) -> tuple[str, ...] | None:
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # its name before driver 535
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return None if bits is None else reasons(bits)

    def _rest(self) -> dict[str, Any]:
        rates, memory = self._ask("nvmlDeviceGetUtilizationRates"), self._ask("nvmlDeviceGetMemoryInfo")
        errors = self._ask("nvmlDeviceGetTotalEccErrors", self._nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                           self._nvml.NVML_VOLATILE_ECC)
        return {"ecc_errors": errors, "utilisation": None if rates is None else rates.gpu,
                "free_bytes": None if memory is None else memory.free, "foreign": self._foreign()}

    def _foreign(self) -> tuple[Process, ...] | None:
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses_v3")
        if processes is None or os.getpid() not in {process.pid for process in processes}:
            return None
        return tuple((process.pid, _name(process.pid)) for process in processes if not _ours(process.pid))


def reasons(bits: int) -> tuple[str, ...]:
    """Names the bits that are set; a bit without a name is told by its value."""
    return tuple(REASONS.get(1 << i, f"{1 << i:#x}") for i in range(bits.bit_length()) if bits >> i & 1)


def _nvml() -> ModuleType:
    try:
        import pynvml
    except ImportError as error:
        raise NoNvml("clocks and throttling are not watched: nvidia-ml-py is not installed; "
                     "pip install nvidia-ml-py") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NoNvml(f"clocks and throttling are not watched: NVML does not start ({error}); "
                     "install or mount the NVIDIA driver's libnvidia-ml.so.1") from error
    return pynvml


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1e3


def _ours(pid: int) -> bool:
    """Tells whether a process is this one, an ancestor or a descendant, or a descendant of `FAMILY`'s."""
    import psutil

    head = {os.getpid(), int(os.environ.get(FAMILY, os.getpid()))}
    if pid in head:
        return True
    try:
        theirs = {parent.pid for parent in psutil.Process(pid).parents()}
    except psutil.Error:
        return False
    return bool(head & theirs) or pid in {parent.pid for parent in psutil.Process().parents()}


def _name(pid: int) -> str:
    import psutil

    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "of unknown name"
