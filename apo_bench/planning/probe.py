"""What a probe of a suite is about to measure, and what stands already."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from apo_bench.errors import UsageError
from apo_bench.evidence.step_costs import flagged
from apo_bench.planning.plan import plan
from apo_bench.plugins.registry import optimizers, tasks
from apo_bench.records.cell import REFERENCE, Cell, Conditions
from apo_bench.records.facts import PrecisionBackend
from apo_bench.records.probe import ProbeRecord, ProbeSpec
from apo_bench.records.run import Fingerprint
from apo_bench.records.spec import Device, OptimizerSpec, Precision
from apo_bench.records.suite import OptimizerEntry, Suite
from apo_bench.store.scan import Scan


@dataclasses.dataclass(frozen=True)
class PlannedProbe:
    """A probe to be made.

    Attributes:
        spec: What.
        fingerprints: Code and data that it would measure, by name of the optimizer.
    """

    spec: ProbeSpec
    fingerprints: Mapping[str, Fingerprint]


def planned_probes(
    suite: Suite,
    device: Device,
    scan: Scan,
    *,
    threads: int,
    processes: int,
    rounds: int,
    compile: bool = False,  # noqa: A002 - torch's name
) -> tuple[list[PlannedProbe], tuple[str, ...], tuple[str, ...]]:
    """The probes of a suite: one for each task and precision, with every setting of its competitors once.

    The reference is in each, as the suite declares it first, or with its defaults.

    Returns:
        Cells in the suite's order; one line for each plugin and each dataset that cannot be used; and one for each
        cell that is left out, because the device has no such precision, or 16 bit is emulated there, so that its costs
        would say nothing, and for each setting that a grid search has not chosen yet.

    Raises:
        UsageError: Unknown task, optimizer or hyperparameter, or nothing that can be used.
    """
    planned = plan(_with_reference(suite), device, tasks(), optimizers(), scan, compile=compile)
    found: dict[Conditions, dict[OptimizerSpec, Fingerprint]] = defaultdict(dict)
    unchosen = [search.runs[0] for search in planned.searches if not search.tuned.is_final]
    for planned_run in (*planned.runs, *unchosen):
        step = Cell.of(planned_run.run).step
        found[step.conditions].setdefault(step.optimizer, planned_run.fingerprint)
    remarks: dict[str, None] = {}
    for stand_in in unchosen:
        name, task = stand_in.run.optimizer.name, stand_in.run.task
        remarks[
            f"{name} on {task} is probed at a point of its grid: the setting is not chosen; run the suite first"
        ] = None
    wanted = []
    for conditions, fingerprints in found.items():
        reason = _why_not(conditions.precision, device)
        if reason is not None:
            remarks[reason] = None
            continue
        competitors = sorted(fingerprints, key=lambda optimizer: optimizer.name != REFERENCE)
        spec = ProbeSpec(
            task=conditions.workload.task,
            precision=conditions.precision,
            device=device,
            compile=compile,
            threads=threads,
            processes=processes,
            rounds=rounds,
            competitors=tuple(competitors),
        )
        own = {optimizer.name: fingerprints[optimizer] for optimizer in competitors}
        wanted.append(PlannedProbe(spec, own))
    return wanted, planned.unavailable, tuple(remarks)


def standing(planned: PlannedProbe, probes: Iterable[ProbeRecord]) -> ProbeRecord | None:
    """The newest probe of a cell that was made of the same code and data on this machine, whole and without a doubt."""
    from apo_bench.measure.environment import device_name

    name = device_name(planned.spec.device)
    fitting = [
        record
        for record in probes
        if record.spec == planned.spec
        and record.environment.device_name == name
        and all(planned.fingerprints[probed.optimizer.name] == probed.fingerprint for probed in record.competitors)
        and not flagged(record)
    ]
    return fitting[-1] if fitting else None


def _with_reference(suite: Suite) -> Suite:
    entries = []
    for entry in suite.tasks:
        competitors = suite.competitors(entry)
        if all(declared.optimizer != REFERENCE for declared in competitors):
            competitors = (OptimizerEntry(optimizer=REFERENCE), *competitors)
        entries.append(msgspec.structs.replace(entry, optimizers=competitors))
    return msgspec.structs.replace(suite, tasks=tuple(entries))


def _why_not(precision: Precision, device: Device) -> str | None:
    """Why nothing is measured in a precision; `None` where it is."""
    import torch

    from apo_bench.problem.precision import PrecisionPolicy

    try:
        policy = PrecisionPolicy(precision, torch.device(device))
    except UsageError as error:
        return f"{precision} left out: {error}"
    if policy.backend is PrecisionBackend.EMULATED:
        return f"{precision} left out: it is emulated on this device, and its costs would say nothing"
    return None
