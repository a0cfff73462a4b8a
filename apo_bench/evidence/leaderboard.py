"""From records to a leaderboard: pure functions, no rendering.

A cell is a task, a competitor with its hyperparameters, a precision and a budget; its runs differ in the seed. A
cell with a diverged run has no mean: an average over the survivors would flatter it. Runs that failed for the machine's
reasons (crash, memory, interruption) are counted apart and never as a loss. Runs that try settings are in no cell;
what they chose is said beside the tables.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from apo_bench.evidence.cells import Costs, Runs, gathered
from apo_bench.evidence.intervals import Interval, mean_interval
from apo_bench.evidence.names import name_cells
from apo_bench.evidence.quantities import composed_seconds, periodic_share, steps_to_target
from apo_bench.evidence.reported import reported_value
from apo_bench.evidence.step_costs import Probes, StepCost
from apo_bench.evidence.tuning import Tuned, searches_of, tune
from apo_bench.numbers import mean
from apo_bench.records.cell import REFERENCE, Cell, Conditions, Workload
from apo_bench.records.facts import Direction, TaskFacts
from apo_bench.records.outcome import Diverged, Reached, message_of
from apo_bench.records.probe import ProbeRecord
from apo_bench.records.run import Role, RunRecord
from apo_bench.records.spec import Device, Precision, RunSpec, Scale


@dataclasses.dataclass(frozen=True)
class Row:
    """One cell.

    Attributes:
        competitor: Name, with the hyperparameters that tell it from other settings of the same optimizer.
        precision: Number formats.
        emulated: Whether 16-bit arithmetic was emulated; its costs then say nothing and are `None`.
        score: Test score over seeds; `None` when a run diverged, its metric is undefined or the optimizer raised in it,
            or when none is finished.
        versus_reference: Paired difference to the reference, simultaneous within the task.
        results: Runs with a result, diverged ones included.
        diverged: Runs that diverged.
        raised: Runs in which the optimizer raised.
        failed: Runs without a result, those included.
        skipped_steps: Steps skipped because a scaled gradient overflowed, over all runs.
        planned: Runs that the plan holds, `None` when no plan is known.
        best_validation: Mean of each run's best validation value.
        train_loss: Last point of the training curve (a mean over the steps since the point before), over seeds; `None`
            where ``score`` is, and when none has a curve.
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
        reported: What the paper prints for this cell; only at scale ``paper``, and only where the optimizer has one
            setting: which of several the paper's would be is not known.
        undefined: Runs whose metric is undefined; they are among the failed.
    """

    competitor: str
    precision: Precision
    emulated: bool
    score: Interval | None
    versus_reference: Interval | None
    results: int
    diverged: int
    raised: int
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
    undefined: int = 0


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
        not_counted: Runs whose steps were not counted: title, and the reason.
    """

    suite: str
    scale: Scale
    sections: tuple[Section, ...]
    machines: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]
    diverged: tuple[tuple[str, str], ...] = ()
    tuned: tuple[Tuned, ...] = ()
    not_counted: tuple[tuple[str, str], ...] = ()


def leaderboard(
    suite: str, scale: Scale, records: Iterable[RunRecord], probes: Iterable[ProbeRecord] = ()
) -> Leaderboard:
    """Build the leaderboard of all records that were made under a suite and scale.

    Args:
        suite: Its name.
        scale: Its scale.
        records: The newest record of each run (`apo_bench.store.scan.Scan.newest`).
        probes: What steps cost, oldest first.
    """
    own = [record for record in records if (record.suite, record.scale) == (suite, scale)]
    tries = [record for record in own if record.role is Role.TUNING]
    reported = [record for record in own if record.role is Role.REPORTED]
    by_id = {record.run_id: record for record in tries}
    tuned = [tune(search, by_id) for search in searches_of(tries)]
    tables = _tables(gathered(reported))
    return _Board(suite, scale, tries, reported, tuned, Probes(probes)).of(dict(sorted(tables.items())))


def planned_leaderboard(
    suite: str,
    scale: Scale,
    records: Iterable[RunRecord],
    planned: Sequence[RunSpec],
    tuned: Sequence[Tuned] = (),
    probes: Iterable[ProbeRecord] = (),
) -> Leaderboard:
    """Build the leaderboard of the runs of a plan, and of no others; it says how many are still to come.

    Args:
        suite: Name of the plan's suite.
        scale: Its scale.
        records: The newest record of each run; those of other runs are left out.
        planned: The plan's reported runs, in the order in which their tables are to stand.
        tuned: Its grid searches.
        probes: What steps cost, oldest first.
    """
    records = list(records)
    tried = {run_id for one in tuned for run_id in one.search.key}
    wanted = {run.run_id for run in planned}
    tries = [record for record in records if record.run_id in tried]
    reported = [record for record in records if record.run_id in wanted]
    tables = _tables(gathered(reported, planned))
    return _Board(suite, scale, tries, reported, tuned, Probes(probes)).of(tables)


def _tables(cells: Iterable[Runs]) -> dict[Workload, list[Runs]]:
    """Cells by the table that they stand in."""
    tables: dict[Workload, list[Runs]] = defaultdict(list)
    for runs in cells:
        tables[runs.cell.workload].append(runs)
    return tables


@dataclasses.dataclass(frozen=True)
class _Board:
    """What all tables of a leaderboard share."""

    suite: str
    scale: Scale
    tries: Sequence[RunRecord]
    reported: Sequence[RunRecord]
    tuned: Sequence[Tuned]
    probes: Probes

    def of(self, tables: Mapping[Workload, Sequence[Runs]]) -> Leaderboard:
        """The leaderboard of these tables, in their order."""
        budgets = Counter((workload.task, workload.device) for workload in tables)
        sections = [
            self._section(workload, cells, has_several_budgets=budgets[workload.task, workload.device] > 1)
            for workload, cells in tables.items()
        ]
        return Leaderboard(
            suite=self.suite,
            scale=self.scale,
            sections=tuple(sections),
            machines=tuple(dict.fromkeys(_machine(record) for record in self.reported if record.environment)),
            failures=tuple(
                (record.spec.title, message_of(record.outcome) or "interrupted")
                for record in (*self.tries, *self.reported)
                if not record.is_result
            ),
            diverged=tuple(
                (record.spec.title, f"at step {record.outcome.step}, {record.outcome.message}")
                for record in self.reported
                if isinstance(record.outcome, Diverged)
            ),
            tuned=tuple(self.tuned),
            not_counted=tuple(
                (record.spec.title, record.cost.not_counted)
                for record in self.reported
                if record.cost and record.cost.not_counted
            ),
        )

    def _section(self, workload: Workload, cells: Sequence[Runs], *, has_several_budgets: bool) -> Section:
        facts = next((record.task for runs in cells for record in runs.records if record.task), None)
        names = name_cells(runs.cell for runs in cells)
        references = _references(cells)
        comparisons = max(1, len(cells) - len(references))
        printed = _printed(cells, facts) if self.scale is Scale.PAPER else {}
        rows = []
        for runs in cells:
            reference = references.get(runs.cell.conditions)
            versus = runs.minus(reference, comparisons) if reference is not None and reference is not runs else None
            rows.append(_row(names[runs.cell], runs, versus, Costs.of(runs, self.probes), printed.get(runs.cell)))
        sign = -1.0 if facts is None or facts.direction is Direction.MAXIMIZE else 1.0

        def order(row: Row) -> tuple[bool, bool, float]:
            if row.score is None:
                return (True, row.diverged + row.undefined + row.raised > 0, 0.0)
            return (False, False, sign * row.score.mean)

        return Section(
            task=workload.task,
            device=workload.device,
            facts=facts,
            rows=tuple(sorted(rows, key=order)),
            epochs=workload.epochs if has_several_budgets else None,
        )


def _printed(cells: Sequence[Runs], facts: TaskFacts | None) -> dict[Cell, float | None]:
    """The paper's number for each cell, none for an optimizer with several settings in one precision."""
    same = Counter((runs.cell.optimizer.name, runs.cell.precision) for runs in cells)
    metric = facts.metric if facts else None
    return {
        runs.cell: reported_value(runs.cell.task, runs.cell.optimizer.name, runs.cell.precision, metric)
        for runs in cells
        if same[runs.cell.optimizer.name, runs.cell.precision] == 1
    }


def _references(cells: Iterable[Runs]) -> dict[Conditions, Runs]:
    """The reference under each condition; none where it appears with several settings."""
    found: dict[Conditions, list[Runs]] = defaultdict(list)
    for runs in cells:
        if runs.cell.optimizer.name == REFERENCE:
            found[runs.cell.conditions].append(runs)
    return {conditions: same[0] for conditions, same in found.items() if len(same) == 1}


def _row(name: str, runs: Runs, versus: Interval | None, costs: Costs, printed: float | None) -> Row:
    results = runs.results
    reached = [record for record in results if isinstance(record.outcome, Reached)]
    to_target = [steps_to_target(record) for record in reached] if len(reached) == len(results) else []
    target_steps = _median(float(steps) for steps, _ in to_target)
    averaged = results if runs.has_mean else ()
    scores = list(runs.tests.values()) if runs.has_mean else []
    losses = [record.curve[-1].train_loss for record in averaged if record.curve]
    best = [record.scores.best_validation for record in averaged]
    return Row(
        competitor=name,
        precision=runs.cell.precision,
        emulated=runs.is_emulated,
        score=mean_interval(scores) if scores else None,
        versus_reference=versus,
        results=len(results),
        diverged=runs.diverged,
        raised=runs.failed,
        undefined=runs.undefined,
        failed=len(runs.records) - len(results),
        skipped_steps=sum(record.cost.skipped_steps for record in results if record.cost),
        planned=runs.planned,
        best_validation=_mean(best),
        train_loss=mean_interval(losses) if losses else None,
        epochs=runs.cell.budget.epochs,
        step_ms=_median(cost.step_ms for cost in costs.clocks),
        train_seconds=_median(cost.train_seconds for cost in costs.clocks),
        disagreeing=costs.disagreeing,
        step=costs.probed,
        reached=len(reached),
        steps_to_target=target_steps,
        target_seconds=None if runs.is_emulated else _median(seconds for _, seconds in to_target),
        composed_target_seconds=(
            None if target_steps is None or costs.probed is None else composed_seconds(target_steps, costs.probed)
        ),
        peak_memory_bytes=_largest(cost.peak_memory_bytes for cost in costs.costs),
        state_bytes=_largest(cost.state_bytes for cost in costs.costs),
        overhead=_median(map(periodic_share, costs.clocks)),
        flops_per_step=_median(cost.flops_per_step for cost in costs.costs),
        reported=printed,
    )


def _median(values: Iterable[float | None]) -> float | None:
    """Median of what is known."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of what is known."""
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _largest(values: Iterable[int | None]) -> int | None:
    """The largest of what is known."""
    return max((value for value in values if value is not None), default=None)


def _machine(record: RunRecord) -> str:
    made = record.environment
    if made is None:
        return "unknown"
    revision = f" ({made.git_sha[:10]}{', modified' if made.dirty else ''})" if made.git_sha else ""
    return (
        f"{made.device_name}, {made.threads} threads, Python {made.python}, torch {made.torch}, "
        f"apo-bench {made.apo_bench}{revision}"
    )
