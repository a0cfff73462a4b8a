"""A suite unrolled into runs, seed-major: whatever is finished so far is balanced across competitors."""

from collections.abc import Mapping
from typing import Any

from apo_bench.spec import Budget, Device, OptimizerSpec, RunSpec, Suite, resolve_hyperparameters


def unroll(suite: Suite, hyperparameters: Mapping[str, type[Any]], device: Device) -> tuple[RunSpec, ...]:
    """List the runs of a suite in the order in which they are executed.

    All tasks get their first seed before any gets its second; within a (task, seed) all precisions and all
    competitors follow each other.

    Args:
        suite: What to run.
        hyperparameters: The hyperparameter dataclass of each optimizer, by name.
        device: Kind of device.

    Returns:
        Runs, each once.

    Raises:
        UsageError: An override names no hyperparameter or has the wrong type.
    """
    runs: dict[str, RunSpec] = {}
    for position in range(max((len(entry.seeds) for entry in suite.tasks), default=0)):
        for entry in suite.tasks:
            if position >= len(entry.seeds):
                continue
            for precision in suite.precisions:
                for competitor in suite.optimizers:
                    overrides = {**competitor.overrides, **entry.overrides.get(competitor.optimizer, {})}
                    run = RunSpec(
                        task=entry.task,
                        optimizer=OptimizerSpec(
                            name=competitor.optimizer,
                            hyperparameters=resolve_hyperparameters(
                                hyperparameters[competitor.optimizer],
                                overrides,
                                optimizer=competitor.optimizer,
                            ),
                            schedule=competitor.schedule,
                        ),
                        precision=precision,
                        seed=entry.seeds[position],
                        budget=Budget(epochs=entry.epochs),
                        device=device,
                    )
                    runs.setdefault(run.run_id, run)
    return tuple(runs.values())
