"""The best setting of a grid: tried on seeds that report nothing, chosen on validation data.

Every point of a grid is a run of its own on each tuning seed, with the task's budget, at a constant schedule, and in
the precision in which the competitor then reports: the best fixed rate of a format is the one that is best in that
format, and a rate that only fp32 bears would be held against the optimizer. The test metric of these runs has no say.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from apo_bench.numbers import mean
from apo_bench.records.cell import Cell, Contender, Workload
from apo_bench.records.facts import Direction
from apo_bench.records.outcome import Diverged
from apo_bench.records.run import RunRecord
from apo_bench.records.schedules import Constant
from apo_bench.records.spec import OptimizerSpec, Precision, RunSpec, Scalar


@dataclasses.dataclass(frozen=True)
class GridSearch:
    """The settings of a competitor, on one task in one precision, among which the best is chosen.

    Attributes:
        points: A run for each setting on each tuning seed, smaller values first; they differ in nothing but the grid's
            hyperparameters and the seed.
    """

    points: tuple[RunSpec, ...]

    @classmethod
    def of(cls, points: Iterable[RunSpec]) -> "GridSearch":
        """Put the points in order, each once."""
        distinct = tuple({point.run_id: point for point in points}.values())
        names = cls(distinct).grid

        def order(point: RunSpec) -> tuple[list[tuple[bool, float, str]], int]:
            return [in_order(point.optimizer.hyperparameters[name]) for name in names], point.seed

        return cls(tuple(sorted(distinct, key=order)))

    @property
    def key(self) -> tuple[str, ...]:
        """Identity: competitors with equal grids share their runs, and so the search."""
        return tuple(point.run_id for point in self.points)

    @property
    def grid(self) -> dict[str, tuple[Scalar, ...]]:
        """The values tried of each hyperparameter, in order, with the types that the runs have."""
        values = {
            name: tuple(dict.fromkeys(point.optimizer.hyperparameters[name] for point in self.points))
            for name in self.points[0].optimizer.hyperparameters
        }
        return {name: tuple(sorted(tried, key=in_order)) for name, tried in values.items() if len(tried) > 1}

    @property
    def title(self) -> str:
        """Whose setting it is."""
        first = self.points[0]
        return f"{first.optimizer.name} on {first.task}, {first.precision}, {first.budget.epochs:g} epochs"

    @property
    def seeds(self) -> tuple[int, ...]:
        """The tuning seeds."""
        return tuple(sorted({point.seed for point in self.points}))

    @property
    def settings(self) -> tuple[tuple[RunSpec, ...], ...]:
        """The runs of each setting, one a seed."""
        groups: dict[OptimizerSpec, list[RunSpec]] = {}
        for point in self.points:
            groups.setdefault(point.optimizer, []).append(point)
        return tuple(map(tuple, groups.values()))

    def setting(self, point: RunSpec) -> dict[str, Scalar]:
        """The grid's hyperparameters at one of the points."""
        return {name: point.optimizer.hyperparameters[name] for name in self.grid}

    def ends(self, point: RunSpec) -> tuple[str, ...]:
        """Hyperparameters whose value at ``point`` is the smallest or largest number tried: a better may lie beyond."""
        at = self.setting(point)
        return tuple(
            name for name, tried in self.grid.items() if _is_number(at[name]) and at[name] in {tried[0], tried[-1]}
        )


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What came out of a grid search so far.

    Attributes:
        search: The search.
        chosen: The first run of the setting with the best mean validation metric over the tuning seeds; `None` while
            runs are missing, and where none has one.
        validation: Its validation metric, a mean over the seeds and the evaluations of the last epoch, in the metric's
            unit.
        metric: The metric's name with its unit; `None` before the first result.
        diverged: Points whose run diverged.
        failed: Points whose run failed for another reason.
        missing: Points without a record.
        is_final: Whether the choice is made: nothing is missing, or what is missing is not waited for.
    """

    search: GridSearch
    chosen: RunSpec | None
    validation: float | None
    metric: str | None
    diverged: int
    failed: int
    missing: int
    is_final: bool

    @property
    def ends(self) -> tuple[str, ...]:
        """Hyperparameters whose chosen value is at an end of its grid."""
        return () if self.chosen is None else self.search.ends(self.chosen)

    @property
    def line(self) -> str:
        """What is to be said of it, in one line."""
        seeds = self.search.seeds
        seed = f"{'seed' if len(seeds) == 1 else 'seeds'} {_listed(seeds)}"
        if self.chosen is not None:
            at = self.search.setting(self.chosen)
            chosen = ", ".join(f"{name} = {at[name]} of {_listed(tried)}" for name, tried in self.search.grid.items())
            best = f"{chosen}; best {_validation(self.metric)} on {seed}: {self.validation:.4g}"
            end = f"; {' and '.join(self.ends)} at an end of the grid" if self.ends else ""
            return f"{self.search.title}: {best}{self._lost}{end}"
        tried = ", ".join(f"{name} of {_listed(tried)}" for name, tried in self.search.grid.items())
        if self.is_final:
            return f"{self.search.title}: {tried}: none has a {_validation(self.metric)} on {seed}{self._lost}"
        done = f"{len(self.search.points) - self.missing} of {len(self.search.points)}"
        return f"{self.search.title}: {tried}, to be chosen on {seed} ({done} tuning runs done)"

    @property
    def _lost(self) -> str:
        lost = {"diverged": self.diverged, "failed": self.failed, "missing": self.missing}
        named = ", ".join(f"{count} {what}" for what, count in lost.items() if count)
        return f" ({named})" if named else ""


def tune(search: GridSearch, records: Mapping[str, RunRecord], *, final: bool = False) -> Tuned:
    """Choose the best setting of a grid: by mean validation, of equal ones the smaller value.

    Never one with a run that diverged or failed: a mean over the other seeds would flatter it.

    Args:
        search: The grid.
        records: The record of each run that has one, by ``run_id``; others than the points' are passed over.
        final: Whether points without a record are given up rather than waited for.
    """
    found = {point.run_id: records[point.run_id] for point in search.points if point.run_id in records}
    missing = len(search.points) - len(found)
    is_final = final or not missing
    values = {run_id: value for run_id, record in found.items() if (value := last_validation(record)) is not None}
    facts = next((record.task for record in found.values() if record.task), None)
    means = {
        runs[0]: mean([values[run.run_id] for run in runs])
        for runs in search.settings
        if all(run.run_id in values for run in runs)
    }
    chosen = None
    if means and is_final:
        best = (min if facts is not None and facts.direction is Direction.MINIMIZE else max)(means.values())
        chosen = next(run for run, value in means.items() if value == best)
    return Tuned(
        search=search,
        chosen=chosen,
        validation=None if chosen is None else means[chosen],
        metric=facts.metric if facts else None,
        diverged=sum(isinstance(record.outcome, Diverged) for record in found.values()),
        failed=sum(not record.is_result for record in found.values()),
        missing=missing,
        is_final=is_final,
    )


def last_validation(record: RunRecord) -> float | None:
    """Validation metric of a run that used its budget: the mean over the evaluations of its last epoch.

    One evaluation is a draw of luck, and the best of the curve is the luckiest. `None` for a run that diverged or
    failed, and for one without an evaluation in that epoch.
    """
    if not record.is_result or isinstance(record.outcome, Diverged) or record.task is None:
        return None
    per_epoch = record.task.steps_per_epoch
    begin = record.spec.budget.steps(per_epoch) - per_epoch
    values = [point.validation for point in record.curve if point.step > begin]
    return mean(values) if values else None


def searches_of(records: Iterable[RunRecord]) -> tuple[GridSearch, ...]:
    """The grid searches that tuning runs belong to, as far as the runs say: they differ in settings only."""
    groups: dict[tuple[Contender, tuple[str, ...]], list[RunSpec]] = defaultdict(list)
    for record in records:
        run = record.spec
        if run.optimizer.schedule == Constant():  # another version may have had other hyperparameters
            groups[Cell.of(run).contender, tuple(sorted(run.optimizer.hyperparameters))].append(run)
    found = (GridSearch.of(groups[key]) for key in sorted(groups, key=lambda key: (_place(key[0]), key[1])))
    return tuple(search for search in found if search.grid)


def _place(contender: Contender) -> tuple[Workload, str, int, bool]:
    """Where a search stands among others: by workload, optimizer and precision."""
    workload, precision, is_compiled = contender.conditions
    return workload, contender.optimizer, list(Precision).index(precision), is_compiled


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def in_order(value: Scalar) -> tuple[bool, float, str]:
    """A key by which settings are sorted: numbers by size, then everything else by its text."""
    if isinstance(value, int | float):
        return False, float(value), ""
    return True, 0.0, str(value)


def _listed(values: Sequence[Scalar]) -> str:
    return ", ".join(map(str, values))


def _validation(metric: str | None) -> str:
    return f"validation {metric}" if metric else "validation metric"
