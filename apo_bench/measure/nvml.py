"""What we ask of NVML, NVIDIA's management library: energy, clocks and processes of the card that a run uses.

NVML is reached through the module ``pynvml`` of the distribution nvidia-ml-py. Which of its readings exist depends on
the card, the driver and the container, so every reading may be unknown, and none ever raises: a measurement that cannot
be made must not cost the run.

Reference: NVML API Reference Guide, https://docs.nvidia.com/deploy/nvml-api/.
"""

from typing import Any, NamedTuple, Protocol

import torch

_CLOCK_REASONS = {
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
"""Bits of ``nvmlClocksEventReasons`` (once called throttle reasons), under the names that ``nvidia-smi -q`` queries."""
_GPU_IDLE = 0x001


class Process(NamedTuple):
    """A process with a compute context on the card.

    Attributes:
        pid: Its number; inside a container some drivers give the number that it has on the host.
        memory_bytes: Memory of the card that it holds, its context included; `None` where the driver does not say.
    """

    pid: int
    memory_bytes: int | None


class Card(Protocol):
    """Readings of one NVIDIA card, or of one MIG instance of it. `None` is what the driver does not tell."""

    def driver_version(self) -> str | None:
        """Version of the driver, such as ``570.86.15``."""

    def energy_millijoules(self) -> int | None:
        """Energy used by the whole card since the driver was loaded, in millijoules; Volta or newer."""

    def sm_clock_mhz(self) -> int | None:
        """Present clock of the multiprocessors, in MHz."""

    def throttle_reasons(self) -> tuple[str, ...]:
        """Why the clocks are not higher now; empty where nothing holds them down or the driver does not tell.

        An idle card is no reason. A bit that this version has no name for is reported in hexadecimal.
        """

    def processes(self) -> tuple[Process, ...] | None:
        """Processes with a compute context on the card. A container may hide some or all of them."""


def open_card(device: torch.device) -> Card | None:
    """Find the card behind a torch device.

    It is found by its UUID, for torch's index counts only the devices in ``CUDA_VISIBLE_DEVICES``, in that order.
    NVML is initialized, and stays so until the process ends, since a card can be read no longer than that.

    Args:
        device: Any torch device; a CUDA device without an index is the current one.

    Returns:
        The card, or `None`: not a CUDA device, no ``pynvml``, no driver, or a device unknown to NVML. A card in MIG
        mode is `None` too, for its readings are those of all instances, unless torch gives the UUID of an instance.
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    for prefix in ("GPU", "MIG"):  # NVML's two kinds of UUID; torch gives the bare one
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"{prefix}-{uuid}")
        except pynvml.NVMLError:
            continue
        card = NvmlCard(pynvml, handle)
        if not card.is_divided():
            return card
    return None


class NvmlCard:
    """A card read through NVML.

    Args:
        library: The module ``pynvml``, initialized.
        handle: The card's handle.
    """

    def __init__(self, library: Any, handle: Any) -> None:
        self._library = library
        self._handle = handle

    def is_divided(self) -> bool:
        """Whether this is a whole card in MIG mode, on which programs run in instances only."""
        mode = self._ask("nvmlDeviceGetMigMode", self._handle)  # not supported by cards and instances without the mode
        return mode is not None and mode[0] == self._library.NVML_DEVICE_MIG_ENABLE

    def driver_version(self) -> str | None:
        """See `Card.driver_version`."""
        version = self._ask("nvmlSystemGetDriverVersion")
        if isinstance(version, bytes):  # as older versions of pynvml return it
            return version.decode(errors="replace")
        return None if version is None else str(version)

    def energy_millijoules(self) -> int | None:
        """See `Card.energy_millijoules`."""
        energy: int | None = self._ask("nvmlDeviceGetTotalEnergyConsumption", self._handle)
        return energy

    def sm_clock_mhz(self) -> int | None:
        """See `Card.sm_clock_mhz`."""
        clock: int | None = self._ask("nvmlDeviceGetClockInfo", self._handle, self._library.NVML_CLOCK_SM)
        return clock

    def throttle_reasons(self) -> tuple[str, ...]:
        """See `Card.throttle_reasons`."""
        bits: int | None = self._ask("nvmlDeviceGetCurrentClocksEventReasons", self._handle)
        if bits is None:  # drivers before 535 know only the older name
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", self._handle)
        if bits is None:
            return ()
        single = (1 << place for place in range(bits.bit_length()) if bits >> place & 1)
        return tuple(_CLOCK_REASONS.get(bit, f"{bit:#x}") for bit in single if bit != _GPU_IDLE)

    def processes(self) -> tuple[Process, ...] | None:
        """See `Card.processes`."""
        found = self._ask("nvmlDeviceGetComputeRunningProcesses", self._handle)
        if found is None:
            return None
        return tuple(Process(process.pid, _bytes(process.usedGpuMemory)) for process in found)

    def _ask(self, function: str, *arguments: Any) -> Any:
        """What ``function`` returns; `None` where the library lacks it or the driver refuses or loses the card."""
        call = getattr(self._library, function, None)
        if call is None:
            return None
        try:
            return call(*arguments)
        except self._library.NVMLError:
            return None


def _bytes(used: object) -> int | None:
    """Bytes that a process holds; a context is never empty, so 0 (seen in containers) says that it is not known."""
    return used if isinstance(used, int) and used > 0 else None
