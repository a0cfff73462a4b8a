"""A suite unrolled into runs, seed-major: whatever is finished so far is balanced across competitors."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from apo_bench.evidence.tuning import GridSearch
from apo_bench.plugins.optimizer import Competitor, resolve_hyperparameters
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


def unroll(
    suite: Suite,
    competitors: Mapping[str, Competitor[Any]],
    device: Device,
    *,
    compile: bool = False,  # noqa: A002 - torch's name
) -> tuple[RunSpec | Waiting, ...]:
    """List the reported runs of a suite in the order in which they are executed.

    All tasks get their first seed before any gets its second; within a (task, seed) all precisions and all
    competitors follow each other.

    Args:
        suite: What to run.
        competitors: The optimizers that the suite names.
        device: Kind of device.
        compile: Whether models run through `torch.compile`.

    Returns:
        Runs, each once; of competitors with a grid, runs that wait for its search.

    Raises:
        UsageError: An override or a grid names no hyperparameter or has the wrong type.
    """
    runs: dict[str, RunSpec | Waiting] = {}
    for position in range(max((len(entry.seeds) for entry in suite.tasks), default=0)):
        for entry in suite.tasks:
            if position >= len(entry.seeds):
                continue
            for precision in suite.formats(entry):
                for declared in suite.competitors(entry):
                    points = [
                        RunSpec(
                            task=entry.task,
                            optimizer=_optimizer(competitors[declared.optimizer], declared, entry, precision, setting),
                            precision=precision,
                            seed=entry.seeds[position],
                            budget=Budget(epochs=entry.epochs),
                            device=device,
                            compile=compile,
                        )
                        for setting in _settings(grid_of(declared, entry))
                    ]
                    if len(points) == 1:
                        runs.setdefault(points[0].run_id, points[0])
                    else:
                        waiting = Waiting(
                            GridSearch.of(_tried(point, suite.tuning_seed) for point in points), points[0]
                        )
                        runs.setdefault(f"{waiting.search.key} {points[0].run_id}", waiting)
    return tuple(runs.values())


def grid_of(declared: OptimizerEntry, entry: TaskEntry) -> dict[str, tuple[Scalar, ...]]:
    """The grid of a competitor on a task: what the task itself sets is not searched."""
    fixed = entry.overrides.get(declared.optimizer, {})
    return {name: values for name, values in declared.grid.items() if name not in fixed}


def tuning_points(entry: TaskEntry, competitors: Sequence[OptimizerEntry]) -> dict[str, int]:
    """Settings to be tried on a task in one precision, by optimizer; those who share a grid share its runs."""
    counts: dict[str, int] = {}
    searched: list[OptimizerEntry] = []
    for declared in competitors:
        search = msgspec.structs.replace(declared, grid=grid_of(declared, entry), schedule=Constant())
        if search.grid and search not in searched:
            searched.append(search)
            points = math.prod(len(set(values)) for values in search.grid.values())
            counts[declared.optimizer] = counts.get(declared.optimizer, 0) + points
    return counts


def _settings(grid: Mapping[str, Sequence[Scalar]]) -> list[dict[str, Scalar]]:
    """Every combination of values; the empty one where there is no grid."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _tried(run: RunSpec, seed: int) -> RunSpec:
    """The run that tries this setting."""
    constant = msgspec.structs.replace(run.optimizer, schedule=Constant())
    return msgspec.structs.replace(run, optimizer=constant, seed=seed)


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
