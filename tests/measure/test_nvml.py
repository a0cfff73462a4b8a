"""What is asked of the card's driver, and what becomes of a run where it does not answer."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pynvml
import pytest
import torch
from support.devices import CPU
from support.runs import TASK, run_spec

from apo_bench.measure.card import CardUse
from apo_bench.measure.memory import PeakMemory
from apo_bench.measure.nvml import Card, NvmlCard, Process, open_card
from apo_bench.plugins.registry import optimizers
from apo_bench.records.events import Event
from apo_bench.training import loop, trainer
from apo_bench.training.checkpoint import Checkpoints

T = TypeVar("T")
CUDA = torch.device("cuda", 0)
UUID = "ffc79498-8ff3-c2dc-3b0d-fafd804516ae"
OWN = 100
MEBIBYTE = 2**20


class FakeCard:
    """A card whose readings are given in the order in which they are asked for; the last one stays."""

    def __init__(
        self,
        energy: Sequence[int | None] = (None,),
        clock: Sequence[int | None] = (None,),
        reasons: Sequence[tuple[str, ...]] = ((),),
        processes: Sequence[tuple[Process, ...] | None] = (None,),
    ) -> None:
        self._energy = list(energy)
        self._clock = list(clock)
        self._reasons = list(reasons)
        self._processes = list(processes)

    def driver_version(self) -> str | None:
        return "570.1"

    def energy_millijoules(self) -> int | None:
        return _next(self._energy)

    def sm_clock_mhz(self) -> int | None:
        return _next(self._clock)

    def throttle_reasons(self) -> tuple[str, ...]:
        return _next(self._reasons)

    def processes(self) -> tuple[Process, ...] | None:
        return _next(self._processes)


def _next(values: list[T]) -> T:
    return values.pop(0) if len(values) > 1 else values[0]


def used(card: Card | None, samples: int = 3) -> CardUse:
    use = CardUse(card, pid=OWN)
    use.start()
    for _ in range(samples):
        use.sample()
    use.finish()
    return use


def test_energy_is_the_counters_difference_in_joules() -> None:
    assert used(FakeCard(energy=[5_000, 12_500])).energy_joules == 7.5


@pytest.mark.parametrize(
    "energy",
    [[5_000, 4_000], [5_000, 5_000], [None, 5_000], [5_000, None]],
    ids=["backwards", "still", "unknown at first", "lost on the way"],
)
def test_energy_is_unknown_where_the_counter_tells_none(energy: list[int | None]) -> None:
    assert used(FakeCard(energy=energy)).energy_joules is None


def test_clocks_are_the_lowest_and_highest_sampled() -> None:
    assert used(FakeCard(clock=[1500, 1980, 1200])).clock_mhz == (1200, 1980)
    assert used(FakeCard(clock=[None, 1500, None])).clock_mhz == (1500, 1500)
    assert used(FakeCard(clock=[None])).clock_mhz is None


def test_throttle_reasons_are_collected_over_the_samples() -> None:
    card = FakeCard(reasons=[("sw_power_cap",), (), ("hw_slowdown", "sw_power_cap")])
    assert used(card).throttle_reasons == ("hw_slowdown", "sw_power_cap")


def test_the_most_foreign_processes_and_the_most_own_memory_count() -> None:
    own = [Process(OWN, size * MEBIBYTE) for size in (500, 900, 700)]
    first, second = Process(7, None), Process(8, MEBIBYTE)
    use = used(FakeCard(processes=[(own[0],), (first, own[1], second), (own[2], first)]))
    assert use.foreign_processes == 2
    assert use.process_memory_bytes == 900 * MEBIBYTE


def test_a_run_alone_has_no_foreign_processes() -> None:
    use = used(FakeCard(processes=[(Process(OWN, None),)]))
    assert use.foreign_processes == 0
    assert use.process_memory_bytes is None


def test_a_process_listed_twice_is_one_process() -> None:
    use = used(FakeCard(processes=[(Process(OWN, 1), Process(OWN, 2), Process(7, 4), Process(7, 8))]))
    assert (use.foreign_processes, use.process_memory_bytes) == (1, 3)


@pytest.mark.parametrize("processes", [None, (), (Process(4711, MEBIBYTE),)], ids=["refused", "hidden", "of the host"])
def test_others_are_not_told_from_the_run_where_it_is_not_listed(processes: tuple[Process, ...] | None) -> None:
    use = used(FakeCard(processes=[processes]))
    assert use.foreign_processes is None
    assert use.process_memory_bytes is None


def test_of_several_that_are_not_the_run_one_is_taken_for_it() -> None:
    use = used(FakeCard(processes=[(Process(4711, 1), Process(4712, 1), Process(4713, 1))]))
    assert (use.foreign_processes, use.process_memory_bytes) == (2, None)


def test_without_a_card_everything_is_unknown() -> None:
    use = used(None)
    assert (use.energy_joules, use.clock_mhz, use.throttle_reasons) == (None, None, ())
    assert (use.foreign_processes, use.process_memory_bytes) == (None, None)


class FakeError(Exception):
    """Stands for `pynvml.NVMLError`."""


def fails(*arguments: object) -> Any:
    raise FakeError(arguments)


def fake_library(**functions: Callable[..., Any]) -> SimpleNamespace:
    """A ``pynvml`` in which whatever is not given is not supported."""
    names = (
        "nvmlDeviceGetMigMode",
        "nvmlSystemGetDriverVersion",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetHandleByUUID",
    )
    assert set(functions) <= {*names, "nvmlInit"}
    library = SimpleNamespace(NVMLError=FakeError, NVML_CLOCK_SM=1, NVML_DEVICE_MIG_ENABLE=1, nvmlInit=lambda: None)
    for name in names:
        setattr(library, name, fails)
    for name, function in functions.items():
        setattr(library, name, function)
    return library


def test_the_names_used_are_those_of_the_installed_library() -> None:
    for name in vars(fake_library()):
        assert hasattr(pynvml, name), name
    assert (pynvml.NVML_CLOCK_SM, pynvml.NVML_DEVICE_MIG_ENABLE) == (1, 1)


def test_every_clock_reason_of_the_installed_library_has_its_name() -> None:
    constants = {
        name.removeprefix(prefix): value
        for prefix in ("nvmlClocksEventReason", "nvmlClocksThrottleReason")
        for name, value in vars(pynvml).items()
        if name.startswith(prefix)
    }
    aliases = {"None", "All", "GpuIdle", "UserDefinedClocks"}
    reasons = {_snake(name): bit for name, bit in constants.items() if name not in aliases}
    assert len(reasons) >= 8
    for name, bit in reasons.items():
        card = NvmlCard(fake_library(nvmlDeviceGetCurrentClocksEventReasons=lambda _, bit=bit: bit), "handle")
        assert card.throttle_reasons() == (name,)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).removeprefix("_")


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0, ()),
        (0x1, ()),
        (0x1 | 0x4 | 0x20, ("sw_power_cap", "sw_thermal_slowdown")),
        (0x4 | 1 << 40, ("sw_power_cap", "0x10000000000")),
    ],
    ids=["none", "idle", "two", "unnamed"],
)
def test_a_mask_of_reasons_is_told_by_name(bits: int, names: tuple[str, ...]) -> None:
    library = fake_library(nvmlDeviceGetCurrentClocksEventReasons=lambda _: bits)
    assert NvmlCard(library, "handle").throttle_reasons() == names


def test_an_older_driver_is_asked_by_the_older_name() -> None:
    library = fake_library(nvmlDeviceGetCurrentClocksThrottleReasons=lambda _: 0x8)
    assert NvmlCard(library, "handle").throttle_reasons() == ("hw_slowdown",)


def test_readings_are_handed_on_with_the_handle() -> None:
    asked = []

    def energy(handle: object) -> int:
        asked.append(handle)
        return 123

    def clock(handle: object, kind: int) -> int:
        asked.append((handle, kind))
        return 1980

    library = fake_library(nvmlDeviceGetTotalEnergyConsumption=energy, nvmlDeviceGetClockInfo=clock)
    card = NvmlCard(library, "handle")
    assert card.energy_millijoules() == 123
    assert card.sm_clock_mhz() == 1980
    assert asked == ["handle", ("handle", 1)]


@pytest.mark.parametrize("version", ["570.86.15", b"570.86.15"])
def test_the_drivers_version_is_text(version: str | bytes) -> None:
    library = fake_library(nvmlSystemGetDriverVersion=lambda: version)
    assert NvmlCard(library, "handle").driver_version() == "570.86.15"


def test_memory_of_a_process_that_the_driver_does_not_tell_is_unknown() -> None:
    listed = [SimpleNamespace(pid=1, usedGpuMemory=size) for size in (5, None, 0, "N/A")]
    card = NvmlCard(fake_library(nvmlDeviceGetComputeRunningProcesses=lambda _: listed), "handle")
    assert card.processes() == (Process(1, 5), Process(1, None), Process(1, None), Process(1, None))


def _readings(card: NvmlCard) -> tuple[object, ...]:
    return (
        card.driver_version(),
        card.energy_millijoules(),
        card.sm_clock_mhz(),
        card.throttle_reasons(),
        card.processes(),
        card.is_divided(),
    )


def test_a_refused_reading_is_unknown() -> None:
    assert _readings(NvmlCard(fake_library(), "handle")) == (None, None, None, (), None, False)


def test_a_function_that_the_library_lacks_is_unknown() -> None:
    library = SimpleNamespace(NVMLError=FakeError, NVML_CLOCK_SM=1)
    assert _readings(NvmlCard(library, "handle")) == (None, None, None, (), None, False)


@pytest.fixture
def torch_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch have two devices, whose UUIDs are `UUID` and another, as objects that print as one."""

    class Identity:
        def __init__(self, text: str) -> None:
            self.text = text

        def __str__(self) -> str:
            return self.text

    def properties(device: torch.device) -> SimpleNamespace:
        return SimpleNamespace(uuid=Identity(UUID if device.index == 0 else "00000000-0000-0000-0000-000000000001"))

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)


def install(monkeypatch: pytest.MonkeyPatch, library: SimpleNamespace) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library)


@pytest.mark.usefixtures("torch_device")
@pytest.mark.parametrize("kind", ["GPU", "MIG"])
def test_the_card_is_found_by_the_devices_uuid(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    energies = {f"{kind}-{UUID}": 42, "GPU-00000000-0000-0000-0000-000000000001": 43}

    def by_uuid(uuid: str) -> str:
        return uuid if uuid in energies else fails(uuid)

    library = fake_library(
        nvmlDeviceGetHandleByUUID=by_uuid, nvmlDeviceGetTotalEnergyConsumption=lambda handle: energies[handle]
    )
    install(monkeypatch, library)
    first, second = open_card(CUDA), open_card(torch.device("cuda", 1))
    assert first is not None
    assert second is not None
    assert (first.energy_millijoules(), second.energy_millijoules()) == (42, 43)


@pytest.mark.usefixtures("torch_device")
@pytest.mark.parametrize(("mode", "found"), [([0, 0], True), ([0, 1], True), ([1, 1], False)])
def test_a_card_divided_into_instances_is_not_taken_for_one(
    monkeypatch: pytest.MonkeyPatch, mode: list[int], *, found: bool
) -> None:
    def by_uuid(uuid: str) -> str:
        return uuid if uuid.startswith("GPU-") else fails(uuid)

    install(monkeypatch, fake_library(nvmlDeviceGetHandleByUUID=by_uuid, nvmlDeviceGetMigMode=lambda _: mode))
    assert (open_card(CUDA) is not None) == found


@pytest.mark.usefixtures("torch_device")
def test_a_device_that_nvml_does_not_know_has_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, fake_library())
    assert open_card(CUDA) is None


@pytest.mark.usefixtures("torch_device")
def test_without_a_driver_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, fake_library(nvmlInit=fails, nvmlDeviceGetHandleByUUID=lambda uuid: uuid))
    assert open_card(CUDA) is None


@pytest.mark.usefixtures("torch_device")
def test_without_the_library_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # makes importing it fail
    assert open_card(CUDA) is None


@pytest.mark.usefixtures("torch_device")
@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a driver")
def test_the_real_library_without_a_driver_has_no_card() -> None:
    assert open_card(CUDA) is None


def test_a_cpu_has_no_card_and_the_library_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, fake_library(nvmlInit=lambda: pytest.fail("asked")))
    assert open_card(CPU) is None


def test_a_run_records_what_its_card_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    card = FakeCard(energy=[1_000, 3_000], clock=[1500, 1400], reasons=[("sw_power_cap",)])
    monkeypatch.setattr(loop, "open_card", lambda device: card)
    cost = trainer.train(run_spec(), TASK, optimizers()["sgdm"].load(), CPU).cost
    assert cost.energy_joules == 2.0
    assert cost.clock_mhz == (1400, 1500)
    assert cost.throttle_reasons == ("sw_power_cap",)
    assert (cost.foreign_processes, cost.process_memory_bytes, cost.peak_reserved_bytes) == (None, None, None)


def test_a_continued_run_knows_its_earlier_peak_and_not_its_earlier_energy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loop, "open_card", lambda device: FakeCard(energy=[1_000, 3_000]))
    monkeypatch.setattr(PeakMemory, "reserved", lambda memory: 900)
    checkpoints = Checkpoints(tmp_path, "run", every_seconds=0.0)
    competitor = optimizers()["sgdm"].load()

    def stop(event: Event) -> None:
        if getattr(getattr(event, "point", None), "step", 0) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train(run_spec(), TASK, competitor, CPU, stop, checkpoints)
    monkeypatch.setattr(PeakMemory, "reserved", lambda memory: 400)
    continued = trainer.train(run_spec(), TASK, competitor, CPU, checkpoints=checkpoints)
    assert continued.continued == 1
    assert continued.cost.peak_reserved_bytes == 900
    assert continued.cost.energy_joules is None
