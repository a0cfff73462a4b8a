"""From records to a baseline: pure functions."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from apo_bench.baseline import SCHEMA, Baseline, Cell, Seed, StepRatio
from apo_bench.evidence.cells import CellKey
from apo_bench.evidence.probes import Probes
from apo_bench.probe_record import ProbeRecord
from apo_bench.record import Direction, Diverged, PrecisionBackend, RunRecord
from apo_bench.spec import Scale
from apo_bench.suites import tuning_seed

FEWEST_PROCESSES = 2
"""With one, a ratio has no spread to judge by."""
_OF_THE_MODEL = {"parameters", "gradients", "buffers"}


def baseline_of(suite: str, scale: Scale, records: Iterable[RunRecord], probes: Iterable[ProbeRecord]) -> Baseline:
    """What a store says of a suite at one scale.

    Args:
        suite: Its name.
        scale: Its scale.
        records: The newest record of each run; those without a result, and tuning runs, are left out.
        probes: What steps cost, oldest first.
    """
    seed = tuning_seed(suite, scale)
    steps = Probes(probes)
    groups: dict[CellKey, list[RunRecord]] = defaultdict(list)
    kept = [
        record
        for record in records
        if (record.suite, record.scale) == (suite, scale) and record.is_result and record.spec.seed != seed
    ]
    for record in kept:
        groups[CellKey.of(record.spec)].append(record)
    cells = [_cell(own, steps) for own in groups.values()]
    return Baseline(
        schema=SCHEMA,
        suite=suite,
        scale=scale,
        apo_bench=", ".join(sorted({record.environment.apo_bench for record in kept if record.environment})),
        torch=tuple(sorted({record.environment.torch for record in kept if record.environment})),
        cells=tuple(
            sorted(cells, key=lambda cell: (cell.title, sorted(cell.optimizer.hyperparameters.items(), key=str)))
        ),
    )


def _cell(records: Sequence[RunRecord], probes: Probes) -> Cell:
    first = records[0]
    run = first.spec
    facts = next((record.task for record in records if record.task), None)
    return Cell(
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


def _seed(record: RunRecord) -> Seed:
    cost = record.cost
    step = record.outcome.step if isinstance(record.outcome, Diverged) else None
    if cost is None or (record.precision and record.precision.backend is PrecisionBackend.EMULATED):
        return Seed(validation=record.scores.validation, diverged_step=step, emulated=cost is not None)
    purposes = {name: count for name, count in cost.bytes_by_purpose.items() if name not in _OF_THE_MODEL}
    return Seed(
        validation=record.scores.validation,
        diverged_step=step,
        flops_per_step=cost.flops_per_step,
        operator_calls_per_step=cost.operator_calls_per_step,
        state_bytes=cost.state_bytes,
        state_by_purpose=purposes,
    )


def _step(record: RunRecord, probes: Probes) -> StepRatio | None:
    found = probes.find(record)
    if found is None or found.flags or found.processes < FEWEST_PROCESSES or record.environment is None:
        return None
    return StepRatio(found.logarithms, record.environment.device_name, record.environment.threads)
