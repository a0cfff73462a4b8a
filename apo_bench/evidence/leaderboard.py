"""From records to a leaderboard: pure functions, no rendering.

A cell is a task, a competitor with its hyperparameters, a precision and a budget; its runs differ in the seed. A
cell with a diverged run has no mean: an average over the survivors would flatter it. Runs that failed for the machine's
reasons (crash, memory, interruption) are counted apart and never as a loss. Runs on the tuning seed are in no cell;
what they chose is said beside the tables.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import median

from apo_bench.evidence.cells import REFERENCE, CellKey, name_cells
from apo_bench.evidence.intervals import Interval, mean_interval
from apo_bench.evidence.probes import Probes, StepCost
from apo_bench.evidence.reported import reported_value
from apo_bench.probe_record import ProbeRecord
from apo_bench.record import Cost, Direction, Diverged, PrecisionBackend, Reached, RunRecord, TaskFacts
from apo_bench.spec import Device, Precision, RunSpec, Scale
from apo_bench.suites import tuning_seed
from apo_bench.tuning import Tuned, searches_of, tune

PERIODIC_PHASES = ("curvature", "inverse", "meta")
"""Phases of the ledger that only some steps have."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One cell.

    Attributes:
        competitor: Name, with the hyperparameters that tell it from other settings of the same optimizer.
        precision: Number formats.
        emulated: Whether 16-bit arithmetic was emulated; its costs then say nothing and are `None`.
        score: Test score over seeds; `None` when a run diverged or none is finished.
        versus_reference: Paired difference to the reference, simultaneous within the task.
        results: Runs with a result, diverged ones included.
        diverged: Runs that diverged.
        failed: Runs that failed for other reasons.
        skipped_steps: Steps skipped because a scaled gradient overflowed, over all runs.
        planned: Runs that the plan holds, `None` when no plan is known.
        best_validation: Mean of each run's best validation value.
        train_loss: Last point of the training curve (a mean over the steps since the point before), over seeds; `None`
            when a run diverged or none has a curve.
        epochs: Budget.
        step_ms: Median over runs of the run's median step, in milliseconds; runs that disagree with the probe left out.
        train_seconds: Median over runs, likewise.
        disagreeing: Runs whose mean step is not the one that was probed: something else ran beside them.
        step: What a step costs by the probe; `None` without one that fits.
        reached: Runs that reached the validation target.
        steps_to_target: Median over runs, where all reached it.
        target_seconds: The same in seconds of the runs' own clock.
        composed_target_seconds: Steps to the target times the probed step.
        peak_memory_bytes: Largest over runs.
        state_bytes: Largest over runs.
        overhead: Share of the training clock that curvature, inverses and meta-updates took; median over runs.
        flops_per_step: Median over runs, the optimizer's own operations included.
        reported: What the paper prints for this cell; at scale ``paper`` alone, and only where the optimizer has one
            setting: which of several the paper's would be is not known.
    """

    competitor: str
    precision: Precision
    emulated: bool
    score: Interval | None
    versus_reference: Interval | None
    results: int
    diverged: int
    failed: int
    skipped_steps: int
    planned: int | None
    best_validation: float | None
    train_loss: Interval | None
    epochs: float
    step_ms: float | None
    train_seconds: float | None
    disagreeing: int
    step: StepCost | None
    reached: int
    steps_to_target: float | None
    target_seconds: float | None
    composed_target_seconds: float | None
    peak_memory_bytes: int | None
    state_bytes: int | None
    overhead: float | None
    flops_per_step: float | None
    reported: float | None = None


@dataclasses.dataclass(frozen=True)
class Section:
    """One task on one kind of device with one budget; rows best first, diverged cells last.

    Attributes:
        task: Name.
        device: Kind of device.
        facts: What the task was; `None` before its first run.
        rows: One a cell.
        epochs: The budget, where the leaderboard has the task with several.
    """

    task: str
    device: Device
    facts: TaskFacts | None
    rows: tuple[Row, ...]
    epochs: float | None = None

    @property
    def budget(self) -> str:
        """What a title says of the budget."""
        return "" if self.epochs is None else f", {self.epochs:g} epochs"


@dataclasses.dataclass(frozen=True)
class Leaderboard:
    """All tasks of a suite at one scale.

    Attributes:
        suite: Name.
        scale: Scale.
        sections: One a task.
        machines: Distinct machines and versions the records come from.
        failures: Runs without a result, tuning runs included: title and message.
        diverged: Diverged runs: title, and at which step what stopped being finite and where that began.
        tuned: What the grid searches chose.
    """

    suite: str
    scale: Scale
    sections: tuple[Section, ...]
    machines: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]
    diverged: tuple[tuple[str, str], ...] = ()
    tuned: tuple[Tuned, ...] = ()


def leaderboard(
    suite: str,
    scale: Scale,
    records: Iterable[RunRecord],
    planned: Sequence[RunSpec] | None = None,
    tuned: Sequence[Tuned] = (),
    probes: Iterable[ProbeRecord] = (),
) -> Leaderboard:
    """Build the leaderboard of a suite.

    Args:
        suite: Its name.
        scale: Its scale.
        records: The newest record of each run (`apo_bench.store.Scan.newest`).
        planned: With it the leaderboard holds these runs alone, and says how many are still to come; otherwise it
            holds all records made under this suite and scale.
        tuned: The plan's grid searches. Without a plan they are found among the records on the tuning seed.
        probes: What steps cost, oldest first.
    """
    steps = Probes(probes)
    kept, tries = list(records), []
    if planned is None:
        kept = [record for record in kept if record.suite == suite and record.scale == scale]
        seed = tuning_seed(suite, scale)
        tries = [record for record in kept if record.spec.seed == seed]
        kept = [record for record in kept if record.spec.seed != seed]
        by_id = {record.run_id: record for record in tries}
        tuned = [tune(search, by_id) for search in searches_of(tries)]
    else:
        tried = {run_id for one in tuned for run_id in one.search.key}
        tries = [record for record in kept if record.run_id in tried]
        wanted = {run.run_id for run in planned}
        kept = [record for record in kept if record.run_id in wanted]
    by_cell: dict[CellKey, list[RunRecord]] = defaultdict(list)
    plan_sizes: dict[CellKey, int] = defaultdict(int)
    for run in planned or ():
        plan_sizes[CellKey.of(run)] += 1
        by_cell[CellKey.of(run)] = []
    for record in kept:
        by_cell[CellKey.of(record.spec)].append(record)
    places = dict.fromkeys((cell.task, cell.device, cell.epochs) for cell in by_cell)
    budgets = Counter((task, device) for task, device, _ in places)
    sections = [
        _section(
            task,
            device,
            {c: runs for c, runs in by_cell.items() if (c.task, c.device, c.epochs) == (task, device, epochs)},
            plan_sizes if planned is not None else None,
            scale,
            epochs if budgets[task, device] > 1 else None,
            steps,
        )
        for task, device, epochs in (places if planned is not None else sorted(places))
    ]
    machines = dict.fromkeys(_machine(record) for record in kept if record.environment)
    failures = [
        (record.spec.title, getattr(record.outcome, "message", "interrupted"))
        for record in (*tries, *kept)
        if not record.is_result
    ]
    diverged = [
        (record.spec.title, f"at step {record.outcome.step}, {record.outcome.message}")
        for record in kept
        if isinstance(record.outcome, Diverged)
    ]
    return Leaderboard(suite, scale, tuple(sections), tuple(machines), tuple(failures), tuple(diverged), tuple(tuned))


def _section(
    task: str,
    device: Device,
    cells: Mapping[CellKey, list[RunRecord]],
    plan_sizes: Mapping[CellKey, int] | None,
    scale: Scale,
    epochs: float | None,
    steps: Probes,
) -> Section:
    facts = next((record.task for runs in cells.values() for record in runs if record.task), None)
    names = name_cells(cells)
    references = _references(cells)
    comparisons = max(1, len(cells) - len(references))
    printed = _printed(cells, facts) if scale is Scale.PAPER else {}
    rows = [
        _row(
            names[cell],
            cell,
            runs,
            cells[references[cell.conditions]] if cell.conditions in references else [],
            comparisons,
            plan_sizes[cell] if plan_sizes is not None else None,
            printed.get(cell),
            steps,
        )
        for cell, runs in cells.items()
    ]
    sign = -1.0 if facts is None or facts.direction is Direction.MAXIMIZE else 1.0

    def order(row: Row) -> tuple[bool, bool, float]:
        if row.score is None:
            return (True, row.diverged > 0, 0.0)
        return (False, False, sign * row.score.mean)

    return Section(task, device, facts, tuple(sorted(rows, key=order)), epochs)


def _printed(cells: Collection[CellKey], facts: TaskFacts | None) -> dict[CellKey, float | None]:
    """The paper's number for each cell, none for an optimizer with several settings in one precision."""
    same = Counter((cell.optimizer, cell.precision) for cell in cells)
    return {
        cell: reported_value(cell.task, cell.optimizer, cell.precision, facts.metric if facts else None)
        for cell in cells
        if same[cell.optimizer, cell.precision] == 1
    }


def _references(cells: Iterable[CellKey]) -> dict[tuple[Precision, float, bool], CellKey]:
    """The reference under each condition; none where it appears with several settings."""
    found: dict[tuple[Precision, float, bool], list[CellKey]] = defaultdict(list)
    for cell in cells:
        if cell.optimizer == REFERENCE:
            found[cell.conditions].append(cell)
    return {conditions: same[0] for conditions, same in found.items() if len(same) == 1}


def _row(
    name: str,
    cell: CellKey,
    runs: Sequence[RunRecord],
    reference: Sequence[RunRecord],
    comparisons: int,
    planned: int | None,
    printed: float | None,
    probes: Probes,
) -> Row:
    results = [record for record in runs if record.is_result]
    diverged = sum(isinstance(record.outcome, Diverged) for record in results)
    tests = _test_scores(results)
    emulated = any(
        record.precision is not None and record.precision.backend is PrecisionBackend.EMULATED for record in results
    )
    probed = next((cost for record in reversed(results) if (cost := probes.find(record))), None)
    disagreeing = [record for record in results if probed is not None and probed.disagrees(record)]
    costs = [] if emulated else [record.cost for record in results if record.cost]
    clocks = [record.cost for record in results if record.cost and record not in disagreeing and not emulated]
    reached = [record for record in results if isinstance(record.outcome, Reached)]
    to_target = [steps_to_target(record) for record in reached] if len(reached) == len(results) else []
    target_steps = median(steps for steps, _ in to_target) if to_target else None
    losses = [record.curve[-1].train_loss for record in results if record.curve]
    best = [record.scores.best_validation for record in results if record.scores.best_validation is not None]
    steps = [cost.step_ms for cost in clocks if cost.step_ms is not None]
    peaks = [cost.peak_memory_bytes for cost in costs if cost.peak_memory_bytes is not None]
    shares = [share for cost in clocks if (share := periodic_share(cost)) is not None]
    flops = [cost.flops_per_step for cost in costs if cost.flops_per_step is not None]
    states = [cost.state_bytes for cost in costs if cost.state_bytes is not None]
    return Row(
        competitor=name,
        precision=cell.precision,
        emulated=emulated,
        score=mean_interval(list(tests.values())) if tests and not diverged else None,
        versus_reference=None if diverged or reference is runs else _paired(tests, reference, comparisons),
        results=len(results),
        diverged=diverged,
        failed=len(runs) - len(results),
        skipped_steps=sum(record.cost.skipped_steps for record in results if record.cost),
        planned=planned,
        best_validation=sum(best) / len(best) if best and not diverged else None,
        train_loss=mean_interval(losses) if losses and not diverged else None,
        epochs=cell.epochs,
        step_ms=median(steps) if steps else None,
        train_seconds=median(cost.train_seconds for cost in clocks) if clocks else None,
        disagreeing=len(disagreeing),
        step=probed,
        reached=len(reached),
        steps_to_target=target_steps,
        target_seconds=median(seconds for _, seconds in to_target) if to_target and not emulated else None,
        composed_target_seconds=(
            target_steps * probed.milliseconds / 1000.0 if target_steps is not None and probed is not None else None
        ),
        peak_memory_bytes=max(peaks, default=None),
        state_bytes=max(states, default=None),
        overhead=median(shares) if shares else None,
        flops_per_step=median(flops) if flops else None,
        reported=printed,
    )


def periodic_share(cost: Cost) -> float | None:
    """Share of the training clock that work at intervals took: curvature, inverses, meta-updates."""
    if not cost.phases or cost.train_seconds <= 0:
        return None
    return sum(cost.phases.get(phase, 0.0) for phase in PERIODIC_PHASES) / cost.train_seconds


def steps_to_target(record: RunRecord) -> tuple[int, float]:
    """Steps, and seconds of the run's own clock, to the first point of the curve at the validation target.

    Raises:
        ValueError: The run did not reach it.
    """
    if not isinstance(record.outcome, Reached):
        raise ValueError(f"{record.spec.title} did not reach its target")  # noqa: TRY004 - a matter of its outcome
    step = record.outcome.step
    return step, next(point.seconds for point in record.curve if point.step == step)


def _test_scores(results: Iterable[RunRecord]) -> dict[int, float]:
    return {record.spec.seed: record.scores.test for record in results if record.scores.test is not None}


def _paired(tests: Mapping[int, float], reference: Sequence[RunRecord], comparisons: int) -> Interval | None:
    """Mean difference over the seeds that both have; `None` unless there is one and the reference never diverged."""
    if any(isinstance(record.outcome, Diverged) for record in reference):
        return None
    others = _test_scores(record for record in reference if record.is_result)
    differences = [tests[seed] - others[seed] for seed in sorted(tests.keys() & others.keys())]
    return mean_interval(differences, comparisons=comparisons) if differences else None


def _machine(record: RunRecord) -> str:
    made = record.environment
    if made is None:
        return "unknown"
    revision = f" ({made.git_sha[:10]}{', modified' if made.dirty else ''})" if made.git_sha else ""
    return (
        f"{made.device_name}, {made.threads} threads, Python {made.python}, torch {made.torch}, "
        f"apo-bench {made.apo_bench}{revision}"
    )
