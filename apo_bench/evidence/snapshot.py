"""From records to a snapshot: pure functions."""

from collections.abc import Iterable

from apo_bench.evidence.cells import Cells, Runs, cells
from apo_bench.evidence.costs import probed_cost
from apo_bench.evidence.quantities import QUANTITIES, is_emulated, state_by_purpose
from apo_bench.evidence.step_costs import Probes
from apo_bench.evidence.tuning import in_order
from apo_bench.records.facts import Direction
from apo_bench.records.outcome import Diverged
from apo_bench.records.probe import ProbeRecord
from apo_bench.records.run import RunRecord
from apo_bench.records.snapshot import SCHEMA, CellSnapshot, SeedSnapshot, Snapshot, StepRatio
from apo_bench.records.spec import Scale

FEWEST_PROCESSES = 2
"""With one, a ratio has no spread to judge by."""


def snapshot_of(suite: str, scale: Scale, records: Iterable[RunRecord], probes: Iterable[ProbeRecord]) -> Snapshot:
    """What a store says of a suite at one scale.

    Args:
        suite: Its name.
        scale: Its scale.
        records: All that there are, oldest first; of the same code where possible (`apo_bench.evidence.cells.cells`).
            Those without a result, and tuning runs, are left out.
        probes: What steps cost, oldest first.
    """
    return snapshot_of_cells(cells(records, suite, scale), probes)


def snapshot_of_cells(held: Cells, probes: Iterable[ProbeRecord]) -> Snapshot:
    """What cells come to; those without a result are left out."""
    steps = Probes(probes)
    kept = [runs for runs in held.cells if runs.results]
    made = [record.environment for runs in kept for record in runs.results if record.environment]
    return Snapshot(
        schema=SCHEMA,
        suite=held.suite,
        scale=held.scale,
        apo_bench=", ".join(sorted({one.apo_bench for one in made})),
        torch=tuple(sorted({one.torch for one in made})),
        cells=tuple(sorted((_cell(runs, steps) for runs in kept), key=_place)),
    )


def _place(cell: CellSnapshot) -> tuple[str, list[tuple[str, tuple[bool, float, str]]]]:
    """Where a cell stands: by title, then by its setting, whose values may be of several types."""
    hyperparameters = sorted(cell.optimizer.hyperparameters.items())
    return cell.cell.title, [(name, in_order(value)) for name, value in hyperparameters]


def _cell(runs: Runs, probes: Probes) -> CellSnapshot:
    cell = runs.cell
    facts = next((record.task for record in runs.results if record.task), None)
    return CellSnapshot(
        task=cell.task,
        optimizer=cell.optimizer,
        precision=cell.precision,
        epochs=float(cell.budget.epochs),
        device=cell.device,
        compile=cell.compile,
        metric=facts.metric if facts else "metric",
        direction=facts.direction if facts else Direction.MAXIMIZE,
        seeds={seed: _seed(record) for seed, record in runs.by_seed.items()},
        step=_step(runs, probes),
    )


def _seed(record: RunRecord) -> SeedSnapshot:
    cost = record.cost
    step = record.outcome.step if isinstance(record.outcome, Diverged) else None
    if cost is None or is_emulated(record):
        return SeedSnapshot(validation=record.scores.validation, diverged_step=step, emulated=cost is not None)
    exact = {quantity.name: quantity.extract(record, None) for quantity in QUANTITIES.values() if quantity.exact}
    return SeedSnapshot(
        validation=QUANTITIES["validation_value"].extract(record, None),
        diverged_step=step,
        not_counted=cost.not_counted,
        **exact,  # type: ignore[arg-type] # counts are whole numbers
        state_by_purpose=state_by_purpose(cost),
    )


def _step(runs: Runs, probes: Probes) -> StepRatio | None:
    found = probed_cost(runs, probes)
    if found is None or found.flags or found.processes < FEWEST_PROCESSES or runs.machine is None:
        return None
    return StepRatio(found.logarithms, runs.machine.device_name, runs.machine.threads)
