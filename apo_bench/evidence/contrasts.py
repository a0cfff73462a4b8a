"""Declared contrasts, with the cells that they are about: found, or said why not."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from apo_bench.evidence.cells import Cells, Runs
from apo_bench.evidence.costs import probed_cost
from apo_bench.evidence.names import name_cells
from apo_bench.evidence.quantities import QUANTITIES, Quantity
from apo_bench.evidence.step_costs import Probes
from apo_bench.evidence.tuning import searches_of, tune
from apo_bench.records.cell import Cell, Conditions, Workload
from apo_bench.records.contrast import Contrast, Selector
from apo_bench.records.facts import TaskFacts
from apo_bench.records.schedules import kind_of
from apo_bench.records.spec import Precision, Scalar
from apo_bench.records.suite import OptimizerEntry, Suite, TaskEntry


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A contrast in one place: a task with its device and budget, and a precision.

    Attributes:
        contrast: Which.
        workload: Task, device and budget.
        precision: Of the left side.
        left: The left cell; `None` where it is missing or ambiguous.
        right: The right one.
        reason: Why there is nothing to compare; `None` where there is.
    """

    contrast: Contrast
    workload: Workload
    precision: Precision
    left: Runs | None
    right: Runs | None
    reason: str | None = None

    @property
    def missing(self) -> str | None:
        """Why there is nothing to compare; `None` where both sides are there."""
        return self.reason or ("a side is missing" if self.left is None or self.right is None else None)

    @property
    def facts(self) -> TaskFacts | None:
        """What the task is."""
        runs = [one for one in (self.left, self.right) if one is not None]
        return next((record.task for one in runs for record in one.results if record.task), None)

    @property
    def quantity(self) -> Quantity:
        """What is compared, with the unit, direction and axis that it has on the task."""
        return QUANTITIES[self.contrast.quantity].on(self.facts)

    def values(self, probes: Probes) -> tuple[dict[int, float], dict[int, float]]:
        """The quantity by seed on either side; empty where a side is missing."""
        return tuple(  # type: ignore[return-value] # there are two
            {} if runs is None else values_by_seed(runs, self.quantity, probes) for runs in (self.left, self.right)
        )


def values_by_seed(runs: Runs, quantity: Quantity, probes: Probes) -> dict[int, float]:
    """A quantity of the runs of a cell that have it; of those on its machine, where it is another on another one."""
    timed = {record.spec.seed for record in runs.timed}
    step = probed_cost(runs, probes)
    found = {
        seed: quantity.extract(record, step)
        for seed, record in runs.by_seed.items()
        if not quantity.is_of_machine or seed in timed
    }
    return {seed: value for seed, value in found.items() if value is not None}


def resolve(contrast: Contrast, held: Cells) -> tuple[Resolved, ...]:
    """Find the two cells of a contrast wherever one of them has a run.

    Where neither gives a precision, both are of the same, and each precision is a place of its own. A place where
    either side is missing or ambiguous, or where the two were made with different code or data, says so.

    Args:
        contrast: Which.
        held: The cells.
    """
    tables: dict[Conditions, list[Runs]] = {}
    for runs in held.cells:
        if not contrast.tasks or runs.cell.task in contrast.tasks:
            tables.setdefault(runs.cell.conditions, []).append(runs)
    tuned = _tuned(held)
    named = contrast.left.precision, contrast.right.precision
    places = dict.fromkeys(one._replace(precision=named[0] or named[1] or one.precision) for one in tables)
    found = []
    for place in places:
        left, right = (
            _side(selector, tables.get(place._replace(precision=own or place.precision), ()), tuned)
            for selector, own in zip((contrast.left, contrast.right), named, strict=True)
        )
        if left.is_nobody and right.is_nobody:
            continue  # it is about other optimizers than those that are there
        reasons = dict.fromkeys(filter(None, (left.reason, right.reason)))
        if left.runs is not None and right.runs is not None:
            if left.runs is right.runs:
                reasons = {f"{contrast.words}: both are one cell": None}
            elif not left.runs.is_comparable(right.runs):
                reasons = {f"{contrast.words}: made with different versions of the code, or different data": None}
        reason = "; ".join(reasons) or None
        found.append(Resolved(contrast, place.workload, place.precision, left.runs, right.runs, reason))
    return tuple(found)


def family_size(suite: Suite, contrast: Contrast, task: str) -> int:
    """How many intervals of a contrast's family hold together on a task: by declaration, whatever has been run.

    Counted are the contrasts of the family that are about the task and whose sides both compete there, once for each
    precision where they name none. A task that a suite replaces on CUDA has the family of the one that it replaces. On
    a task that the suite does not have, all of the family are counted.
    """
    family = [other for other in suite.contrasts if other.family == contrast.family]
    entries = [entry for entry in suite.tasks if task in {entry.task, entry.on_cuda}]
    if not entries:
        return max(1, len(family)) * max(1, len(suite.precisions))
    return max(1, sum(places(suite, entry, other) for entry in entries for other in family))


def places(suite: Suite, entry: TaskEntry, contrast: Contrast) -> int:
    """In how many precisions a contrast is declared on a task of a suite; 0 where a side does not compete there."""
    if contrast.tasks and not {entry.task, entry.on_cuda} & set(contrast.tasks):
        return 0
    declared = suite.competitors(entry)
    if not all(any(_declares(one, side) for one in declared) for side in (contrast.left, contrast.right)):
        return 0
    named = {side.precision for side in (contrast.left, contrast.right) if side.precision}
    formats = suite.formats(entry)
    return int(named <= set(formats)) if named else len(formats)


def _declares(declared: OptimizerEntry, selector: Selector) -> bool:
    return selector.fits(declared.optimizer, kind_of(declared.schedule), dict(declared.overrides))


@dataclasses.dataclass(frozen=True)
class _Side:
    """What a selector means in a table: a cell, or the reason why none; and whether its optimizer is not there."""

    runs: Runs | None
    reason: str = ""
    is_nobody: bool = False


def _side(selector: Selector, table: Sequence[Runs], tuned: dict[tuple[Conditions, str], dict[str, Scalar]]) -> _Side:
    same = [runs for runs in table if runs.cell.optimizer.name == selector.optimizer]
    fitting = [runs for runs in same if _fits(selector, runs)]
    if selector.tuned and fitting:
        chosen = tuned.get((fitting[0].cell.conditions, selector.optimizer))
        if chosen is None:
            return _Side(None, f"{selector.words}: no grid search has chosen a setting")
        fitting = [runs for runs in fitting if chosen.items() <= runs.cell.optimizer.hyperparameters.items()]
    if len(fitting) > 1:
        fitting = _usual(fitting, same, selector) or fitting
    if not fitting:
        return _Side(None, f"{selector.words}: no such cell", is_nobody=not same)
    if len(fitting) > 1:
        names = name_cells(runs.cell for runs in same)
        listed = ", ".join(sorted(names[runs.cell] for runs in fitting))
        return _Side(None, f"{selector.words} may be any of {listed}")
    if not fitting[0].results:
        return _Side(None, f"{selector.words}: no result")
    return _Side(fitting[0])


def _fits(selector: Selector, runs: Runs) -> bool:
    optimizer = runs.cell.optimizer
    has_all = selector.setting.keys() <= optimizer.hyperparameters.keys()
    return has_all and selector.fits(optimizer.name, kind_of(optimizer.schedule), optimizer.hyperparameters)


def _usual(fitting: Sequence[Runs], same: Sequence[Runs], selector: Selector) -> list[Runs]:
    """Those of several cells that have the most common value of every hyperparameter that a selector does not name."""
    usual: dict[str, Scalar] = {}
    for name in {name for runs in same for name in runs.cell.optimizer.hyperparameters} - selector.setting.keys():
        counts = Counter(runs.cell.optimizer.hyperparameters.get(name) for runs in same)
        (value, most), *others = counts.most_common(2)
        if all(count < most for _, count in others):
            usual[name] = value
    return [
        runs
        for runs in fitting
        if all(runs.cell.optimizer.hyperparameters.get(name) == value for name, value in usual.items())
    ]


def _tuned(held: Cells) -> dict[tuple[Conditions, str], dict[str, Scalar]]:
    """What grid searches chose, by where and for whom."""
    by_id = {record.run_id: record for record in held.tries}
    found = {}
    for search in searches_of(held.tries):
        chosen = tune(search, by_id).chosen
        if chosen is not None:
            cell = Cell.of(chosen)
            found[cell.conditions, cell.optimizer.name] = search.setting(chosen)
    return found
