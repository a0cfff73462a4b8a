"""A suite unrolled into runs, seed-major: whatever is finished so far is balanced across competitors."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from apo_bench.evidence.tuning import GridSearch
from apo_bench.plugins.optimizer import Competitor, resolve_hyperparameters
from apo_bench.records.cell import Cell
from apo_bench.records.schedules import Constant
from apo_bench.records.spec import Budget, Device, OptimizerSpec, Precision, RunSpec, Scalar
from apo_bench.records.suite import OptimizerEntry, Suite, TaskEntry


@dataclasses.dataclass(frozen=True)
class Waiting:
    """A run whose setting is still to be chosen.

    Attributes:
        search: What it waits for.
        first: What it would be at the first point of the grid.
    """

    search: GridSearch
    first: RunSpec

    def at(self, point: RunSpec) -> RunSpec:
        """The run at the chosen one of the search's points."""
        optimizer = msgspec.structs.replace(self.first.optimizer, hyperparameters=dict(point.optimizer.hyperparameters))
        return msgspec.structs.replace(self.first, optimizer=optimizer)


@dataclasses.dataclass(frozen=True)
class Unrolled:
    """The reported runs of a suite; those of competitors with a grid wait for its search.

    Attributes:
        runs: Each once, in the order in which they are executed.
        by_entry: The runs of each task of the suite, by its place; a run that two of them share is in both.
    """

    runs: tuple[RunSpec | Waiting, ...]
    by_entry: tuple[tuple[RunSpec | Waiting, ...], ...]


def unroll(
    suite: Suite,
    competitors: Mapping[str, Competitor[Any]],
    device: Device,
    *,
    compile: bool = False,  # noqa: A002 - torch's name
) -> Unrolled:
    """List the reported runs of a suite.

    All tasks get their first seed before any gets its second; within a (task, seed) all precisions and all
    competitors follow each other.

    Args:
        suite: What to run.
        competitors: The optimizers that the suite names.
        device: Kind of device.
        compile: Whether models run through `torch.compile`.

    Raises:
        UsageError: An override or a grid names no hyperparameter or has the wrong type.
    """
    settings = [
        [(cells[0], _search(cells, suite.tuning_seeds)) for cells in own]
        for own in (_settings(suite, entry, competitors, device, compile=compile) for entry in suite.tasks)
    ]
    runs: dict[RunSpec | Waiting, None] = {}
    by_entry: list[dict[RunSpec | Waiting, None]] = [{} for _ in suite.tasks]
    for position in range(max((len(entry.seeds) for entry in suite.tasks), default=0)):
        for entry, competing, own in zip(suite.tasks, settings, by_entry, strict=True):
            if position < len(entry.seeds):
                seed = entry.seeds[position]
                made = [
                    cell.run(seed) if search is None else Waiting(search, cell.run(seed)) for cell, search in competing
                ]
                own.update(dict.fromkeys(made))
                runs.update(dict.fromkeys(made))
    return Unrolled(tuple(runs), tuple(map(tuple, by_entry)))


def _settings(
    suite: Suite,
    entry: TaskEntry,
    competitors: Mapping[str, Competitor[Any]],
    device: Device,
    *,
    compile: bool,  # noqa: A002 - torch's name
) -> list[list[Cell]]:
    """The cells of a task: for each competitor in each precision one, or one for each point of its grid."""
    return [
        [
            Cell(
                task=entry.task,
                optimizer=_optimizer(competitors[declared.optimizer], declared, entry, precision, point),
                precision=precision,
                budget=Budget(epochs=entry.epochs),
                device=device,
                compile=compile,
            )
            for point in _points(grid_of(declared, entry))
        ]
        for precision in suite.formats(entry)
        for declared in suite.competitors(entry)
    ]


def _search(cells: Sequence[Cell], tuning_seeds: Sequence[int]) -> GridSearch | None:
    """What chooses among the cells of a competitor, on the tuning seeds; `None` where it has one."""
    if len(cells) == 1:
        return None
    return GridSearch.of(_tried(cell.run(seed)) for seed in tuning_seeds for cell in cells)


def grid_of(declared: OptimizerEntry, entry: TaskEntry) -> dict[str, tuple[Scalar, ...]]:
    """The grid of a competitor on a task: what the task itself sets is not searched."""
    fixed = entry.overrides.get(declared.optimizer, {})
    return {name: values for name, values in declared.grid.items() if name not in fixed}


def tuning_points(suite: Suite, entry: TaskEntry) -> dict[str, int]:
    """Runs that try settings on a task in one precision, by optimizer; those who share a grid share its runs."""
    counts: dict[str, int] = {}
    searched: list[OptimizerEntry] = []
    for declared in suite.competitors(entry):
        search = msgspec.structs.replace(declared, grid=grid_of(declared, entry), schedule=Constant())
        if search.grid and search not in searched:
            searched.append(search)
            points = len(suite.tuning_seeds) * math.prod(len(set(values)) for values in search.grid.values())
            counts[declared.optimizer] = counts.get(declared.optimizer, 0) + points
    return counts


def _points(grid: Mapping[str, Sequence[Scalar]]) -> list[dict[str, Scalar]]:
    """Every combination of values; the empty one where there is no grid."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _tried(run: RunSpec) -> RunSpec:
    """The run that tries a setting: at a constant schedule."""
    return msgspec.structs.replace(run, optimizer=msgspec.structs.replace(run.optimizer, schedule=Constant()))


def _optimizer(
    competitor: Competitor[Any],
    declared: OptimizerEntry,
    entry: TaskEntry,
    precision: Precision,
    setting: Mapping[str, Scalar],
) -> OptimizerSpec:
    """The most particular declaration wins: task, then suite, then precision, then the optimizer's own default."""
    name = declared.optimizer
    overrides = {
        **competitor.in_precision.get(precision, {}),
        **declared.overrides,
        **setting,
        **entry.overrides.get(name, {}),
    }
    return OptimizerSpec(
        name=name,
        hyperparameters=resolve_hyperparameters(competitor.hyperparameters, overrides, optimizer=name),
        schedule=declared.schedule,
    )
