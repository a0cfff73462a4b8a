"""A suite unrolled into runs, seed-major: whatever is finished so far is balanced across competitors."""

from collections.abc import Mapping
from typing import Any

from apo_bench.competitor import Competitor
from apo_bench.spec import (
    Budget,
    Device,
    OptimizerEntry,
    OptimizerSpec,
    Precision,
    RunSpec,
    Suite,
    TaskEntry,
    resolve_hyperparameters,
)


def unroll(
    suite: Suite,
    competitors: Mapping[str, Competitor[Any]],
    device: Device,
    *,
    compile: bool = False,  # noqa: A002 - torch's name
) -> tuple[RunSpec, ...]:
    """List the runs of a suite in the order in which they are executed.

    All tasks get their first seed before any gets its second; within a (task, seed) all precisions and all
    competitors follow each other.

    Args:
        suite: What to run.
        competitors: The optimizers that the suite names.
        device: Kind of device.
        compile: Whether models run through `torch.compile`.

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
            for precision in suite.formats(entry):
                for declared in suite.competitors(entry):
                    run = RunSpec(
                        task=entry.task,
                        optimizer=_optimizer(competitors[declared.optimizer], declared, entry, precision),
                        precision=precision,
                        seed=entry.seeds[position],
                        budget=Budget(epochs=entry.epochs),
                        device=device,
                        compile=compile,
                    )
                    runs.setdefault(run.run_id, run)
    return tuple(runs.values())


def _optimizer(
    competitor: Competitor[Any], declared: OptimizerEntry, entry: TaskEntry, precision: Precision
) -> OptimizerSpec:
    """The most particular declaration wins: task, then suite, then precision, then the optimizer's own default."""
    name = declared.optimizer
    overrides = {
        **competitor.in_precision.get(precision, {}),
        **declared.overrides,
        **entry.overrides.get(name, {}),
    }
    return OptimizerSpec(
        name=name,
        hyperparameters=resolve_hyperparameters(competitor.hyperparameters, overrides, optimizer=name),
        schedule=declared.schedule,
    )
