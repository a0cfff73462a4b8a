"""From records to a snapshot: pure functions."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from apo_bench.evidence.quantities import is_emulated, state_by_purpose
from apo_bench.evidence.step_costs import Probes
from apo_bench.evidence.tuning import in_order
from apo_bench.records.cell import Cell
from apo_bench.records.facts import Direction
from apo_bench.records.outcome import Diverged
from apo_bench.records.probe import ProbeRecord
from apo_bench.records.run import Role, RunRecord
from apo_bench.records.snapshot import SCHEMA, CellSnapshot, SeedSnapshot, Snapshot, StepRatio
from apo_bench.records.spec import Scale

FEWEST_PROCESSES = 2
"""With one, a ratio has no spread to judge by."""


def snapshot_of(suite: str, scale: Scale, records: Iterable[RunRecord], probes: Iterable[ProbeRecord]) -> Snapshot:
    """What a store says of a suite at one scale.

    Args:
        suite: Its name.
        scale: Its scale.
        records: The newest record of each run; those without a result, and tuning runs, are left out.
        probes: What steps cost, oldest first.
    """
    steps = Probes(probes)
    groups: dict[Cell, list[RunRecord]] = defaultdict(list)
    kept = [
        record
        for record in records
        if (record.suite, record.scale) == (suite, scale) and record.is_result and record.role is Role.REPORTED
    ]
    for record in kept:
        groups[Cell.of(record.spec)].append(record)
    cells = [_cell(own, steps) for own in groups.values()]
    return Snapshot(
        schema=SCHEMA,
        suite=suite,
        scale=scale,
        apo_bench=", ".join(sorted({record.environment.apo_bench for record in kept if record.environment})),
        torch=tuple(sorted({record.environment.torch for record in kept if record.environment})),
        cells=tuple(sorted(cells, key=_place)),
    )


def _place(cell: CellSnapshot) -> tuple[str, list[tuple[str, tuple[bool, float, str]]]]:
    """Where a cell stands: by title, then by its setting, whose values may be of several types."""
    hyperparameters = sorted(cell.optimizer.hyperparameters.items())
    return cell.cell.title, [(name, in_order(value)) for name, value in hyperparameters]


def _cell(records: Sequence[RunRecord], probes: Probes) -> CellSnapshot:
    first = records[0]
    run = first.spec
    facts = next((record.task for record in records if record.task), None)
    return CellSnapshot(
        task=run.task,
        optimizer=run.optimizer,
        precision=run.precision,
        epochs=float(run.budget.epochs),
        device=run.device,
        compile=run.compile,
        metric=facts.metric if facts else "metric",
        direction=facts.direction if facts else Direction.MAXIMIZE,
        seeds={record.spec.seed: _seed(record) for record in sorted(records, key=lambda record: record.spec.seed)},
        step=next((ratio for record in reversed(records) if (ratio := _step(record, probes))), None),
    )


def _seed(record: RunRecord) -> SeedSnapshot:
    cost = record.cost
    step = record.outcome.step if isinstance(record.outcome, Diverged) else None
    if cost is None or is_emulated(record):
        return SeedSnapshot(validation=record.scores.validation, diverged_step=step, emulated=cost is not None)
    return SeedSnapshot(
        validation=record.scores.validation,
        diverged_step=step,
        flops_per_step=cost.flops_per_step,
        operator_calls_per_step=cost.operator_calls_per_step,
        not_counted=cost.not_counted,
        state_bytes=cost.state_bytes,
        state_by_purpose=state_by_purpose(cost),
    )


def _step(record: RunRecord, probes: Probes) -> StepRatio | None:
    found = probes.find(record)
    if found is None or found.flags or found.processes < FEWEST_PROCESSES or record.environment is None:
        return None
    return StepRatio(found.logarithms, record.environment.device_name, record.environment.threads)
