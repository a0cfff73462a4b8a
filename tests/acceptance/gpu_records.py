"""What an acceptance looks at: the records of its runs and probes."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpu_setting import LENET, OPTIMIZERS, PRECISIONS, Check, Setting, probed

if TYPE_CHECKING:
    from apo_bench.records.probe import ProbeRecord
    from apo_bench.records.run import RunRecord

COUNTABLE_SECONDS = 0.5
"""A driver renews its energy counter some ten times a second: a shorter run may have used none by its count."""


def look_at_records(setting: Setting) -> tuple[list[Check], dict[str, Any]]:
    """Read what the parts ``run`` and ``probe`` have stored."""
    import torch

    from apo_bench.cli.selection import Selection
    from apo_bench.measure.environment import device_name
    from apo_bench.planning.plan import plan
    from apo_bench.plugins.registry import optimizers, tasks
    from apo_bench.records.spec import Device, Precision, Scale
    from apo_bench.store.store import Store

    asked = Selection(
        suite="classification",
        tasks=tuple(setting.tasks.split(",")) if setting.tasks else (),
        optimizers=tuple(OPTIMIZERS),
        precisions=tuple(map(Precision, PRECISIONS)),
    )
    scan = Store(setting.store).scan()
    device = Device(setting.device)
    planned = plan(asked.at(Scale.SMOKE), device, tasks(), optimizers(), scan)
    newest = scan.newest()
    failed = {run_id: record for run_id, record in newest.items() if not record.is_result}
    made = {run.run.title: run.reused or failed.get(run.run.run_id) for run in planned.runs}
    name = device_name(device) if setting.cpu or torch.cuda.is_available() else None
    cells = [(LENET, precision) for precision in probed(setting)]
    checks = [
        Check("no record is damaged", not scan.damaged, [damaged.reason for damaged in scan.damaged]),
        Check("no data are missing", not planned.unavailable, list(planned.unavailable)),
        *run_checks(made, device=setting.device, device_name=name),
        *probe_checks(scan.probes, cells, device=setting.device, device_name=name),
    ]
    runs = [run_values(record) for record in made.values() if record is not None]
    probes = [probe_values(record) for record in scan.probes]
    return checks, {"runs": runs, "probes": probes}


def run_checks(made: "Mapping[str, RunRecord | None]", *, device: str, device_name: str | None) -> list[Check]:
    """What the records of the runs must say.

    Args:
        made: By title of every planned run its record, or `None`.
        device: Kind of device.
        device_name: What records call the card, or the processor.
    """
    import msgspec

    from apo_bench.records.facts import PrecisionBackend
    from apo_bench.records.outcome import Diverged

    cuda = device == "cuda"
    results = [record for record in made.values() if record is not None and record.is_result]
    missing = [
        f"{title}: {'no record' if record is None else msgspec.to_builtins(record.outcome)}"
        for title, record in made.items()
        if record is None or not record.is_result
    ]
    checks = [
        Check("every planned run has a result", bool(made) and not missing, {"runs": len(made), "wrong": missing})
    ]

    def every(name: str, wrong: Callable[["RunRecord"], Any], among: "Sequence[RunRecord]" = results) -> None:
        """All of them, and at least one, must have nothing wrong."""
        found = {record.spec.title: seen for record in among if (seen := wrong(record))}
        checks.append(Check(name, bool(among) and not found, {"runs": len(among), "wrong": found}))

    every("no run diverged", lambda run: run.outcome.message if isinstance(run.outcome, Diverged) else None)
    every(
        f"runs were made on {device}, on this machine's",
        lambda run: (
            None
            if run.spec.device == device and run.environment and run.environment.device_name == device_name
            else f"{run.spec.device}, {run.environment.device_name if run.environment else 'unknown'}"
        ),
    )
    native = results if cuda else [run for run in results if run.spec.precision == "fp32"]
    every(
        "arithmetic is native" if cuda else "fp32 is native",
        lambda run: (
            None if run.precision and run.precision.backend is PrecisionBackend.NATIVE else "emulated or unknown"
        ),
        native,
    )
    if not cuda:
        emulated = [run for run in results if run.spec.precision == "fp16"]
        every(
            "fp16 is emulated, as expected on a CPU",
            lambda run: (
                None if run.precision and run.precision.backend is PrecisionBackend.EMULATED else "native or unknown"
            ),
            emulated,
        )
    every("peak memory is known", _wrong_memory if cuda else _wrong_memory_of_a_cpu)
    if cuda:
        every("the data are told from the peak of memory", _wrong_baseline)
    every("optimizers hold state", lambda run: None if run.cost and run.cost.state_bytes else "none")
    every("a step's FLOPs are counted", lambda run: None if run.cost and run.cost.flops_per_step else "not counted")
    every("phases are there, and within the training clock", _wrong_phases)
    if cuda:
        every("clocks of the card are known", lambda run: None if run.cost and run.cost.clock_mhz else "unknown")
        countable = [run for run in results if run.cost and not run.continued and _seconds(run) >= COUNTABLE_SECONDS]
        every(
            f"runs of {COUNTABLE_SECONDS:g} s or more used energy",
            lambda run: None if run.cost and run.cost.energy_joules else "none counted",
            countable,
        )
    return checks


def _seconds(run: "RunRecord") -> float:
    return run.cost.train_seconds + run.cost.eval_seconds if run.cost else 0.0


def _wrong_memory(run: "RunRecord") -> Any:
    peak, reserved = (run.cost.peak_memory_bytes, run.cost.peak_reserved_bytes) if run.cost else (None, None)
    return None if peak and reserved and reserved >= peak else {"peak": peak, "reserved": reserved}


def _wrong_baseline(run: "RunRecord") -> Any:
    """The data lie on the card, and more than they: the network at least."""
    peak, baseline = (run.cost.peak_memory_bytes, run.cost.baseline_memory_bytes) if run.cost else (None, None)
    return None if not peak or (baseline and baseline < peak) else {"peak": peak, "baseline": baseline}


def _wrong_memory_of_a_cpu(run: "RunRecord") -> Any:
    """Where the system forbids resetting the peak there is none, and that is no fault; an allocator's would be one."""
    if run.cost is None:
        return "unknown"
    peak = run.cost.peak_memory_bytes
    return None if (peak is None or peak > 0) and run.cost.peak_reserved_bytes is None else {"peak": peak}


def _wrong_phases(run: "RunRecord") -> Any:
    """Their sum may exceed the clock by what two ways of timing differ."""
    if run.cost is None:
        return "none"
    missing = sorted({"forward", "backward", "update"} - set(run.cost.phases))
    total = sum(run.cost.phases.values())
    if missing or not 0 < total <= 1.01 * run.cost.train_seconds:
        return {"missing": missing, "sum": total, "clock": run.cost.train_seconds}
    return None


def run_values(run: "RunRecord") -> dict[str, Any]:
    """A run's numbers."""
    import msgspec

    return {
        "run": run.spec.title,
        "outcome": msgspec.to_builtins(run.outcome),
        "backend": str(run.precision.backend) if run.precision else None,
        "test": run.scores.test,
        "cost": msgspec.to_builtins(run.cost),
    }


def probe_checks(
    probes: "Iterable[ProbeRecord]", cells: Sequence[tuple[str, str]], *, device: str, device_name: str | None
) -> list[Check]:
    """What the records of the probes must say: the newest of each cell counts.

    Args:
        probes: Oldest first.
        cells: Task and precision of those that were to be made.
        device: Kind of device.
        device_name: What records call the card, or the processor.
    """
    from apo_bench.evidence.step_costs import step_costs

    newest = {
        (record.spec.task, str(record.spec.precision)): record
        for record in probes
        if record.spec.device == device and record.environment.device_name == device_name
    }
    checks = []
    for task, precision in cells:
        record = newest.get((task, precision))
        costs = {probed.optimizer.name: cost for probed, cost in step_costs(record)} if record else {}
        seen = {name: [cost.low, cost.ratio, cost.high] for name, cost in costs.items()}
        whole = set(costs) == set(OPTIMIZERS) and all(
            cost.low is not None and cost.high is not None and 0 < cost.low <= cost.ratio <= cost.high
            for cost in costs.values()
        )
        checks.append(Check(f"the probe of {task} {precision} has all optimizers with intervals", whole, seen))
    return checks


def probe_values(record: "ProbeRecord") -> dict[str, Any]:
    """A probe's numbers, with the reasons to doubt them; a doubt is no failure of the code."""
    from apo_bench.evidence.step_costs import step_costs

    return {
        "probe": record.spec.title,
        "omitted": {left.optimizer.name: left.message for left in record.omitted},
        "competitors": {probed.optimizer.name: dataclasses.asdict(cost) for probed, cost in step_costs(record)},
    }
