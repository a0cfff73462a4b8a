"""From records to a leaderboard: pure functions, no rendering.

A cell is a task, a competitor with its hyperparameters, a precision and a budget; its runs differ in the seed. A
cell with a diverged run has no mean: an average over the survivors would flatter it. Runs that failed for the machine's
reasons (crash, memory, interruption) are counted apart and never as a loss. Runs that try settings are in no cell;
what they chose is said beside the tables.
"""

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from apo_bench.evidence.cells import Cells, Installed, Made, Runs, cells
from apo_bench.evidence.costs import Costs
from apo_bench.evidence.intervals import Interval, mean_interval
from apo_bench.evidence.names import name_cells
from apo_bench.evidence.provenance import provenance
from apo_bench.evidence.quantities import composed_seconds, periodic_share, steps_to_target
from apo_bench.evidence.reported import reported_value
from apo_bench.evidence.rows import Leaderboard, Row, Section
from apo_bench.evidence.step_costs import Probes
from apo_bench.evidence.tuning import Tuned, searches_of, tune
from apo_bench.numbers import mean
from apo_bench.records.cell import REFERENCE, Cell, Conditions, Workload
from apo_bench.records.facts import Direction, TaskFacts
from apo_bench.records.outcome import Diverged, Reached, message_of
from apo_bench.records.probe import ProbeRecord
from apo_bench.records.run import Role, RunRecord
from apo_bench.records.spec import RunSpec, Scale


def leaderboard(
    suite: str,
    scale: Scale,
    records: Iterable[RunRecord],
    probes: Iterable[ProbeRecord] = (),
    code: Installed | None = None,
) -> Leaderboard:
    """Build the leaderboard of all records that were made under a suite and scale.

    Args:
        suite: Its name.
        scale: Its scale.
        records: All that there are, oldest first (`apo_bench.store.scan.Scan.of`).
        probes: What steps cost, oldest first.
        code: The code that is installed (`apo_bench.evidence.cells.cells`).
    """
    return leaderboard_of(cells(records, suite, scale, code=code), probes)


def leaderboard_of(
    held: Cells, probes: Iterable[ProbeRecord] = (), tuned: Sequence[Tuned] = (), *, in_order: bool = False
) -> Leaderboard:
    """Build the leaderboard of cells.

    Args:
        held: The cells.
        probes: What steps cost, oldest first.
        tuned: Grid searches of a plan; what others the cells hold runs of is added.
        in_order: Whether tables stand in the order of the cells, as a plan has it, and not in that of their titles.
    """
    by_id = {record.run_id: record for record in held.tries}
    known = {run_id for one in tuned for run_id in one.search.key}
    others = [record for record in held.tries if record.run_id not in known]
    tuned = [*tuned, *(tune(search, by_id) for search in searches_of(others))]
    tables = _tables(held.cells)
    return _Board(held, tuned, Probes(probes)).of(tables if in_order else dict(sorted(tables.items())))


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
        records: The record of each run that counts, for whatever suite it was made; others are left out.
        planned: The plan's reported runs, in the order in which their tables are to stand.
        tuned: Its grid searches.
        probes: What steps cost, oldest first.
    """
    roles = {run_id: Role.TUNING for one in tuned for run_id in one.search.key}
    roles |= {run.run_id: Role.REPORTED for run in planned}
    own = [
        record.under(suite=suite, scale=scale, role=roles[record.run_id])
        for record in records
        if record.run_id in roles
    ]
    return leaderboard_of(cells(own, suite, scale, planned=planned), probes, tuned, in_order=True)


def _tables(cells: Iterable[Runs]) -> dict[Workload, list[Runs]]:
    """Cells by the table that they stand in."""
    tables: dict[Workload, list[Runs]] = defaultdict(list)
    for runs in cells:
        tables[runs.cell.workload].append(runs)
    return tables


@dataclasses.dataclass(frozen=True)
class _Board:
    """What all tables of a leaderboard share."""

    held: Cells
    tuned: Sequence[Tuned]
    probes: Probes

    def of(self, tables: Mapping[Workload, Sequence[Runs]]) -> Leaderboard:
        """The leaderboard of these tables, in their order."""
        budgets = Counter((workload.task, workload.device) for workload in tables)
        sections = [
            self._section(workload, own, has_several_budgets=budgets[workload.task, workload.device] > 1)
            for workload, own in tables.items()
        ]
        held = self.held
        return Leaderboard(
            suite=held.suite,
            scale=held.scale,
            sections=tuple(sections),
            machines=tuple(dict.fromkeys(_machine(record) for record in held.reported if record.environment)),
            failures=tuple(
                (record.spec.title, message_of(record.outcome) or "interrupted")
                for record in held.records
                if not record.is_result
            ),
            diverged=tuple(
                (record.spec.title, f"at step {record.outcome.step}, {record.outcome.message}")
                for record in held.reported
                if isinstance(record.outcome, Diverged)
            ),
            tuned=tuple(self.tuned),
            not_counted=tuple(
                (record.spec.title, record.cost.not_counted)
                for record in held.reported
                if record.cost and record.cost.not_counted
            ),
            provenance=provenance(held),
        )

    def _section(self, workload: Workload, own: Sequence[Runs], *, has_several_budgets: bool) -> Section:
        facts = next((record.task for runs in own for record in runs.records if record.task), None)
        names = name_cells(runs.cell for runs in own)
        references = _references(own)
        comparisons = max(1, len(own) - len(references))
        printed = _printed(own, facts) if self.held.scale is Scale.PAPER else {}
        rows = []
        for runs in own:
            reference = references.get(runs.cell.conditions)
            versus = None if reference is None or reference is runs else _difference(runs, reference, comparisons)
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


def _difference(runs: Runs, other: Runs, comparisons: int) -> Interval | None:
    """Mean difference of test scores over the seeds that both have; `None` where there is nothing to compare.

    Args:
        runs: What is compared.
        other: What is subtracted.
        comparisons: How many such intervals are to hold together.
    """
    if not (runs.has_mean and other.has_mean and runs.is_comparable(other)):
        return None
    differences = [runs.tests[seed] - other.tests[seed] for seed in sorted(runs.tests.keys() & other.tests.keys())]
    are_numbers = all(map(math.isfinite, differences))  # one of two extremes may be larger than any
    return mean_interval(differences, comparisons=comparisons) if differences and are_numbers else None


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
    all_reached = len(reached) == len(results)
    to_target = {record.spec.seed: steps_to_target(record) for record in reached} if all_reached else {}
    target_steps = _median(float(steps) for steps, _ in to_target.values())
    timed = {record.spec.seed for record in runs.timed}
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
        target_seconds=_median(seconds for seed, (_, seconds) in to_target.items() if seed in timed),
        composed_target_seconds=(
            None if target_steps is None or costs.probed is None else composed_seconds(target_steps, costs.probed)
        ),
        peak_memory_bytes=_largest(cost.peak_memory_bytes for cost in costs.costs),
        state_bytes=_largest(cost.state_bytes for cost in costs.counted),
        overhead=_median(map(periodic_share, costs.clocks)),
        flops_per_step=_median(cost.flops_per_step for cost in costs.counted),
        reported=printed,
        is_outdated=runs.made is Made.OTHER,
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
