"""From records to a leaderboard: pure functions, no rendering.

A cell is a task, a competitor with its hyperparameters, a precision and a budget; its runs differ in the seed. A
cell with a diverged run has no mean: an average over the survivors would flatter it. Runs that failed for the machine's
reasons (crash, memory, interruption) are counted apart and never as a loss. Runs that try settings are in no cell;
what they chose is said beside the tables.
"""

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from apo_bench.evidence.answer import answer
from apo_bench.evidence.cells import Cells, Installed, Made, Runs, cells
from apo_bench.evidence.censored import Arrival, cost_quantile
from apo_bench.evidence.costs import Costs
from apo_bench.evidence.estimates import Estimate
from apo_bench.evidence.families import contrast
from apo_bench.evidence.judgements import sample_of
from apo_bench.evidence.names import name_cells
from apo_bench.evidence.provenance import provenance
from apo_bench.evidence.quantities import QUANTITIES, Quantity, steps_to_target
from apo_bench.evidence.reported import reported_value
from apo_bench.evidence.rows import Leaderboard, Row, Section
from apo_bench.evidence.step_costs import Probes, doubts
from apo_bench.evidence.summary import pooled, summary
from apo_bench.evidence.tuning import Tuned, searches_of, tune
from apo_bench.records.cell import REFERENCE, Cell, Conditions, Workload
from apo_bench.records.facts import Axis, Direction, TaskFacts
from apo_bench.records.outcome import Diverged, message_of
from apo_bench.records.probe import ProbeRecord
from apo_bench.records.run import Role, RunRecord
from apo_bench.records.spec import Precision, RunSpec, Scale
from apo_bench.records.suite import Suite


def leaderboard(
    suite: str,
    scale: Scale,
    records: Iterable[RunRecord],
    probes: Iterable[ProbeRecord] = (),
    code: Installed | None = None,
    declared: Suite | None = None,
) -> Leaderboard:
    """Build the leaderboard of all records that were made under a suite and scale.

    Args:
        suite: Its name.
        scale: Its scale.
        records: All that there are, oldest first (`apo_bench.store.scan.Scan.of`).
        probes: What steps cost, oldest first.
        code: The code that is installed (`apo_bench.evidence.cells.cells`).
        declared: What the suite is run to find out (`leaderboard_of`).
    """
    return leaderboard_of(cells(records, suite, scale, code=code), probes, declared=declared)


def leaderboard_of(
    held: Cells,
    probes: Iterable[ProbeRecord] = (),
    tuned: Sequence[Tuned] = (),
    *,
    in_order: bool = False,
    declared: Suite | None = None,
    seeds_planned: int | None = None,
) -> Leaderboard:
    """Build the leaderboard of cells.

    Args:
        held: The cells.
        probes: What steps cost, oldest first.
        tuned: Grid searches of a plan; what others the cells hold runs of is added.
        in_order: Whether tables stand in the order of the cells, as a plan has it, and not in that of their titles.
        declared: The suite, for its contrasts and for the sizes of families; without it the rows of a table are one.
        seeds_planned: Seeds after which comparisons were planned to be judged (`families.contrast`).
    """
    by_id = {record.run_id: record for record in held.tries}
    known = {run_id for one in tuned for run_id in one.search.key}
    others = [record for record in held.tries if record.run_id not in known]
    tuned = [*tuned, *(tune(search, by_id) for search in searches_of(others))]
    tables = _tables(held.cells)
    found = Probes(probes)
    board = _Board(held, tuned, found, declared, seeds_planned)
    made = board.of(tables if in_order else dict(sorted(tables.items())))
    return dataclasses.replace(made, answer=answer(held, found, declared, planned=seeds_planned))


def planned_leaderboard(
    suite: str,
    scale: Scale,
    records: Iterable[RunRecord],
    planned: Sequence[RunSpec],
    tuned: Sequence[Tuned] = (),
    probes: Iterable[ProbeRecord] = (),
    declared: Suite | None = None,
) -> Leaderboard:
    """Build the leaderboard of the runs of a plan, and of no others; it says how many are still to come.

    Args:
        suite: Name of the plan's suite.
        scale: Its scale.
        records: The record of each run that counts, for whatever suite it was made; others are left out.
        planned: The plan's reported runs, in the order in which their tables are to stand.
        tuned: Its grid searches.
        probes: What steps cost, oldest first.
        declared: The plan's suite (`leaderboard_of`).
    """
    roles = {run_id: Role.TUNING for one in tuned for run_id in one.search.key}
    roles |= {run.run_id: Role.REPORTED for run in planned}
    own = [
        record.under(suite=suite, scale=scale, role=roles[record.run_id])
        for record in records
        if record.run_id in roles
    ]
    return leaderboard_of(cells(own, suite, scale, planned=planned), probes, tuned, in_order=True, declared=declared)


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
    declared: Suite | None
    seeds_planned: int | None

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
            machines=tuple(dict.fromkeys(made_on(record) for record in held.reported if record.environment)),
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
            doubts=tuple(_doubts(sections)),
        )

    def _section(self, workload: Workload, own: Sequence[Runs], *, has_several_budgets: bool) -> Section:
        facts = next((record.task for runs in own for record in runs.records if record.task), None)
        names = name_cells(runs.cell for runs in own)
        references = _references(own)
        sizes = self._comparisons(workload.task, len(own) - len(references))
        printed = _printed(own, facts) if self.held.scale is Scale.PAPER else {}
        axis = _axis(own, facts)
        quantity = dataclasses.replace(QUANTITIES["value"].on(facts), axis=axis)
        rows = []
        for runs in own:
            reference = references.get(runs.cell.conditions)
            is_other = reference is not None and reference is not runs
            size = sizes(runs.cell.optimizer.name)
            versus = self._difference(runs, reference, quantity, facts, size) if reference and is_other else None
            costs = Costs.of(runs, self.probes)
            rows.append(_row(names[runs.cell], runs, versus, costs, printed.get(runs.cell), axis, self._tried(runs)))
        sign = -1.0 if facts is None or facts.direction is Direction.MAXIMIZE else 1.0

        def order(row: Row) -> tuple[int, bool, bool, float]:
            """Within a precision by the score; one seed makes no order."""
            place = list(Precision).index(row.precision)
            if row.score is None:
                return (place, True, row.diverged + row.undefined + row.raised > 0, 0.0)
            return (place, False, row.score.n == 1, sign * row.score.mean if row.score.n > 1 else 0.0)

        return Section(
            task=workload.task,
            device=workload.device,
            facts=facts,
            rows=tuple(sorted(rows, key=order)),
            epochs=workload.epochs if has_several_budgets else None,
        )

    def _tried(self, runs: Runs) -> dict[str, int]:
        """How many values were tried of each hyperparameter that a grid search chose for a cell."""
        for one in self.tuned:
            if one.chosen is not None and Cell.of(one.chosen).contender == runs.cell.contender:
                setting = one.search.setting(one.chosen)
                if setting.items() <= runs.cell.optimizer.hyperparameters.items():
                    return {name: len(values) for name, values in one.search.grid.items()}
        return {}

    def _comparisons(self, task: str, rows: int) -> Callable[[str], int]:
        """With how many others the comparison of an optimizer with the reference is to hold together on a task.

        Of one that the suite declares there, with those that it declares: the size of a family does not depend on which
        of them are there. Of any other, with all of the table too.
        """
        named: set[str] = set()
        size = 0
        suite = self.declared
        for entry in suite.tasks if suite else ():
            if suite and task in {entry.task, entry.on_cuda}:
                others = [one.optimizer for one in suite.competitors(entry) if one.optimizer != REFERENCE]
                named |= set(others)
                size += len(others) * len(suite.formats(entry))
        return lambda optimizer: max(1, size if optimizer in named else max(size, rows))

    def _difference(
        self, runs: Runs, other: Runs, quantity: Quantity, facts: TaskFacts | None, comparisons: int
    ) -> Estimate | None:
        """Test scores against the reference's; `None` where there is nothing to compare."""
        if not (runs.has_mean and other.has_mean and runs.is_comparable(other)):
            return None
        left, right = (sample_of(one, quantity, facts, self.probes) for one in (runs, other))
        direction = quantity.direction or Direction.MAXIMIZE
        found = contrast(left, right, direction, family=comparisons, planned=self.seeds_planned)
        return None if found.value is None else found


def _doubts(sections: Sequence[Section]) -> Iterator[str]:
    for task in dict.fromkeys(section.task for section in sections):
        rows = [row for section in sections if section.task == task for row in section.rows]
        flags = doubts((f"{row.competitor} {row.precision}", row.step) for row in rows if row.step)
        yield from (f"{task}, {', '.join(names)}: {flag}" for flag, names in flags.items())


def _axis(cells: Iterable[Runs], facts: TaskFacts | None) -> Axis:
    """How the scores of a table are compared: all alike, so a score that has no logarithm leaves none."""
    axis = QUANTITIES["value"].on(facts).axis or Axis.LINEAR
    return axis if all(value > 0 for runs in cells for value in runs.tests.values()) else Axis.LINEAR


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


def _row(
    name: str,
    runs: Runs,
    versus: Estimate | None,
    costs: Costs,
    printed: float | None,
    axis: Axis,
    tried: Mapping[str, int],
) -> Row:
    results = runs.results
    reached = [record for record in results if steps_to_target(record) is not None]
    averaged = results if runs.has_mean else ()
    counted = () if runs.is_emulated else results

    def one(name: str, records: Iterable[RunRecord]) -> float | None:
        quantity = QUANTITIES[name]
        return pooled(quantity, (quantity.extract(record, costs.probed) for record in records))

    timed = {record.spec.seed for record in runs.timed}
    median = cost_quantile([_arrival(record) for record in results]).value if reached else math.inf
    steps = median if math.isfinite(median) else None
    all_reached = reached if len(reached) == len(results) else ()
    losses = [loss for record in averaged if (loss := QUANTITIES["train_loss"].extract(record, None)) is not None]
    return Row(
        cell=runs.cell,
        competitor=name,
        precision=runs.cell.precision,
        emulated=runs.is_emulated,
        score=summary(list(runs.tests.values()), axis) if runs.has_mean else None,
        versus_reference=versus,
        results=len(results),
        diverged=runs.diverged,
        raised=runs.failed,
        undefined=runs.undefined,
        failed=len(runs.records) - len(results),
        skipped_steps=sum(record.cost.skipped_steps for record in results if record.cost),
        planned=runs.planned,
        best_validation=one("best_validation_value", averaged),
        train_loss=summary(losses, Axis.LOG),
        epochs=runs.cell.budget.epochs,
        step_ms=one("step_ms", costs.clocked),
        train_seconds=one("train_seconds", costs.clocked),
        disagreeing=costs.disagreeing,
        step=costs.probed,
        reached=len(reached),
        steps_to_target=steps,
        target_seconds=one("seconds_to_target", [record for record in all_reached if record.spec.seed in timed]),
        composed_target_seconds=None if steps is None or not costs.probed else steps * costs.probed.milliseconds / 1e3,
        peak_memory_bytes=one("peak_memory_bytes", runs.timed),
        state_bytes=one("state_bytes", counted),
        overhead=one("overhead", costs.clocked),
        flops_per_step=one("flops_per_step", counted),
        reported=printed,
        is_outdated=runs.made is Made.OTHER,
        seeds=tuple(sorted({record.spec.seed for record in runs.records})),
        tried=tried,
    )


def _arrival(record: RunRecord) -> Arrival:
    """When a run reached the target; one that ended before is censored there, and a diverged one never would."""
    steps = steps_to_target(record)
    if steps is not None:
        return Arrival(steps)
    if isinstance(record.outcome, Diverged) or record.cost is None:
        return Arrival.never()
    return Arrival(record.cost.steps, reached=False)


def made_on(record: RunRecord) -> str:
    """Where and with what a run was made, in a line."""
    made = record.environment
    if made is None:
        return "unknown"
    revision = f" ({made.git_sha[:10]}{', modified' if made.dirty else ''})" if made.git_sha else ""
    return (
        f"{made.device_name}, {made.threads} threads, Python {made.python}, torch {made.torch}, "
        f"apo-bench {made.apo_bench}{revision}"
    )
