"""Each check of the acceptance can fail."""

import json
from typing import Any

import gpu_machine
import gpu_records
import gpu_setting
import msgspec
import pytest
from support.records import MADE_ON, made_probe, record

from apo_bench.records.facts import Cost, PrecisionBackend, PrecisionFacts
from apo_bench.records.outcome import Crashed, Diverged, Reason
from apo_bench.records.probe import Omitted, ProbeRecord
from apo_bench.records.run import RunRecord
from apo_bench.records.spec import Device, OptimizerSpec, Precision

CARD = "A Card"


GOOD_COST = Cost(
    steps=140,
    skipped_steps=0,
    train_seconds=2.0,
    eval_seconds=0.5,
    step_ms=10.0,
    peak_memory_bytes=100,
    baseline_memory_bytes=20,
    peak_reserved_bytes=200,
    state_bytes=50,
    phases={"forward": 0.5, "backward": 1.0, "update": 0.4},
    flops_per_step=1e6,
    energy_joules=120.0,
    clock_mhz=(1400, 1700),
)


def made_run(*, cost: Cost | None = GOOD_COST, **fields: Any) -> RunRecord:
    """A record as a card should leave it, but for ``fields``."""
    run = record("sgdm", 0, 80.0, precision=Precision.FP16)
    run = msgspec.structs.replace(
        run.under(spec=msgspec.structs.replace(run.spec, device=Device.CUDA)),
        environment=msgspec.structs.replace(MADE_ON, device_name=CARD),
        cost=cost,
    )
    return msgspec.structs.replace(run, **fields)


def wrong(*runs: RunRecord | None, device: str = "cuda") -> list[str]:
    """Names of the checks that some runs do not pass."""
    made = {f"run {number}": run for number, run in enumerate(runs)}
    checks = gpu_records.run_checks(made, device=device, device_name=CARD)
    json.dumps([check.value for check in checks])
    return [check.name for check in checks if not check.passed]


def cost(**fields: Any) -> RunRecord:
    return made_run(cost=msgspec.structs.replace(GOOD_COST, **fields))


def test_runs_as_they_should_be_pass() -> None:
    assert wrong(made_run(), made_run()) == []


@pytest.mark.parametrize(
    ("run", "check"),
    [
        (None, "every planned run has a result"),
        (made_run(outcome=Crashed(message="killed")), "every planned run has a result"),
        (made_run(outcome=Diverged(step=3, reason=Reason.TRAINING_LOSS)), "no run diverged"),
        (made_run().under(spec=record("sgdm", 0, 80.0).spec), "runs were made on cuda, on this machine's"),
        (made_run(environment=MADE_ON), "runs were made on cuda, on this machine's"),
        (made_run(environment=None), "runs were made on cuda, on this machine's"),
        (
            made_run(precision=PrecisionFacts(backend=PrecisionBackend.EMULATED, kept_fp32=())),
            "arithmetic is native",
        ),
        (made_run(precision=None), "arithmetic is native"),
        (cost(peak_memory_bytes=None), "peak memory is known"),
        (cost(peak_memory_bytes=0), "peak memory is known"),
        (cost(peak_reserved_bytes=None), "peak memory is known"),
        (cost(peak_reserved_bytes=99), "peak memory is known"),
        (cost(baseline_memory_bytes=None), "the data are told from the peak of memory"),
        (cost(baseline_memory_bytes=0), "the data are told from the peak of memory"),
        (cost(baseline_memory_bytes=100), "the data are told from the peak of memory"),
        (cost(state_bytes=0), "optimizers hold state"),
        (cost(flops_per_step=None), "a step's FLOPs are counted"),
        (cost(phases={}), "phases are there, and within the training clock"),
        (cost(phases={"forward": 0.1, "backward": 0.1}), "phases are there, and within the training clock"),
        (
            cost(phases={"forward": 1.0, "backward": 1.0, "update": 0.1}),
            "phases are there, and within the training clock",
        ),
        (cost(clock_mhz=None), "clocks of the card are known"),
        (cost(energy_joules=None), "runs of 0.5 s or more used energy"),
    ],
)
def test_each_check_of_runs_can_fail(run: RunRecord | None, check: str) -> None:
    assert wrong(made_run(), run) == [check]


def test_a_diverged_run_and_a_missing_one_are_named() -> None:
    diverged = made_run(outcome=Diverged(step=3, reason=Reason.TRAINING_LOSS))
    checks = gpu_records.run_checks({"a": diverged, "b": None}, device="cuda", device_name=CARD)
    by_name = {check.name: check.value["wrong"] for check in checks}
    assert by_name["no run diverged"] == {diverged.spec.title: "training loss is not finite"}
    assert by_name["every planned run has a result"] == ["b: no record"]


def test_a_short_or_continued_run_need_not_have_energy_but_not_all_may_lack_it() -> None:
    short = cost(energy_joules=None, train_seconds=0.1, eval_seconds=0.1, phases=dict.fromkeys(GOOD_COST.phases, 0.03))
    continued = msgspec.structs.replace(cost(energy_joules=None), continued=1)
    assert wrong(made_run(), short, continued) == []
    assert wrong(short, continued) == ["runs of 0.5 s or more used energy"]


def test_no_runs_pass_nothing() -> None:
    every = [check.name for check in gpu_records.run_checks({}, device="cuda", device_name=CARD)]
    assert wrong() == every


def of_a_cpu(precision: Precision, backend: PrecisionBackend, **fields: Any) -> RunRecord:
    run = record("sgdm", 0, 80.0, precision=precision, backend=backend)
    known = msgspec.structs.replace(GOOD_COST, peak_reserved_bytes=None, energy_joules=None, clock_mhz=None)
    environment = msgspec.structs.replace(MADE_ON, device_name=CARD)
    return msgspec.structs.replace(run, environment=environment, cost=msgspec.structs.replace(known, **fields))


def test_on_a_cpu_fp16_is_emulated_and_nothing_of_a_card_is_asked() -> None:
    single = of_a_cpu(Precision.FP32, PrecisionBackend.NATIVE)
    half = of_a_cpu(Precision.FP16, PrecisionBackend.EMULATED)
    assert wrong(single, half, device="cpu") == []
    native = of_a_cpu(Precision.FP16, PrecisionBackend.NATIVE)
    assert wrong(single, native, device="cpu") == ["fp16 is emulated, as expected on a CPU"]
    emulated = of_a_cpu(Precision.FP32, PrecisionBackend.EMULATED)
    assert wrong(emulated, half, device="cpu") == ["fp32 is native"]
    reserved = of_a_cpu(Precision.FP32, PrecisionBackend.NATIVE, peak_reserved_bytes=7)
    assert wrong(reserved, half, device="cpu") == ["peak memory is known"]


def probed(*names: str, processes: int = 3) -> ProbeRecord:
    """A probe on the card."""
    times = [[1.0 + 0.01 * process, 1.0] for process in range(processes)]
    probe = made_probe({name: {"plain": (1.0, times)} for name in names})
    return msgspec.structs.replace(
        probe,
        spec=msgspec.structs.replace(probe.spec, device=Device.CUDA),
        environment=msgspec.structs.replace(MADE_ON, device_name=CARD),
    )


ALL_PROBED = probed(*gpu_setting.OPTIMIZERS)


@pytest.mark.parametrize(
    ("probes", "passed"),
    [
        ([ALL_PROBED], True),
        ([probed("sgdm", "adam"), ALL_PROBED], True),
        ([ALL_PROBED, probed("sgdm", "adam")], False),  # the newest counts
        ([], False),
        ([probed(*gpu_setting.OPTIMIZERS[:3])], False),
        ([probed(*gpu_setting.OPTIMIZERS, processes=1)], False),  # no interval
        ([msgspec.structs.replace(ALL_PROBED, environment=MADE_ON)], False),  # another card
        ([made_probe({name: {"plain": (1.0, [[1.0]] * 3)} for name in gpu_setting.OPTIMIZERS})], False),  # a CPU
        ([msgspec.structs.replace(ALL_PROBED, competitors=ALL_PROBED.competitors[1:])], False),  # no reference
    ],
)
def test_a_probe_must_have_all_optimizers_with_intervals(probes: list[ProbeRecord], passed: bool) -> None:  # noqa: FBT001 - a parameter of the test
    (check,) = gpu_records.probe_checks(probes, [("t", "fp32")], device="cuda", device_name=CARD)
    assert check.passed is passed
    json.dumps(check.value)


def test_every_cell_needs_a_probe_of_its_own() -> None:
    checks = gpu_records.probe_checks([ALL_PROBED], [("t", "fp32"), ("t", "fp16")], device="cuda", device_name=CARD)
    assert [check.passed for check in checks] == [True, False]


def test_a_probe_tells_whom_it_left_out() -> None:
    left = Omitted(optimizer=OptimizerSpec(name="kfac", hyperparameters={}), message="no memory")
    values = gpu_records.probe_values(msgspec.structs.replace(ALL_PROBED, omitted=(left,)))
    assert values["omitted"] == {"kfac": "no memory"}
    assert set(values["competitors"]) == set(gpu_setting.OPTIMIZERS)


def readings(part: str = "", **changed: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "driver": "570.1",
        "idle": {"clock_mhz": 300},
        "busy": {"mean_watts": 250.0, "clock_mhz": (1700, 1700), "process_memory_bytes": 900},
        "allocator": {"peak_bytes": 200, "reserved_bytes": 400},
    }
    if part:
        values[part] |= changed
    return values | ({} if part else changed)


@pytest.mark.parametrize(
    ("values", "check"),
    [
        (readings(), None),
        (readings("busy", process_memory_bytes=None), None),  # hidden, as in a container
        (readings(driver=None), "the driver says its version"),
        (readings("busy", mean_watts=None), "work uses energy, at 1 W to 5 kW"),
        (readings("busy", mean_watts=0.1), "work uses energy, at 1 W to 5 kW"),
        (readings("busy", mean_watts=250_000.0), "work uses energy, at 1 W to 5 kW"),
        (readings("idle", clock_mhz=None), "the idle card has a clock"),
        (readings("busy", clock_mhz=None), "the busy card has a clock"),
        (readings("allocator", peak_bytes=500), "the allocator reserves what it gives"),
        (
            readings("busy", process_memory_bytes=399),
            "the driver counts at least what the allocator reserved, or hides the process",
        ),
    ],
)
def test_each_check_of_the_card_can_fail(values: dict[str, Any], check: str | None) -> None:
    found = [found.name for found in gpu_machine.card_checks(values) if not found.passed]
    assert found == ([] if check is None else [check])
