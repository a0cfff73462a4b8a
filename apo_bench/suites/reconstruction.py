"""Image reconstruction by the deep autoencoder of Hinton and Salakhutdinov (E3); the set-up is recalled [R].

At scale ``study`` the command tunes each competitor; elsewhere nothing is tuned, and competitors have their declared
defaults, chosen on another network.
"""

from apo_bench.records.spec import Precision, Scale
from apo_bench.records.suite import TUNING_SEED, OptimizerEntry, Suite, TaskEntry
from apo_bench.suites import study
from apo_bench.suites.regression import COMPETITORS, CONTRASTS


def reconstruction(scale: Scale) -> Suite:
    """Image reconstruction: a deep autoencoder of sigmoid units, hard for first-order methods."""
    local = "fashion-mnist-20k.autoencoder"
    precisions: tuple[Precision, ...] = (Precision.FP32,)
    tuning_seeds: tuple[int, ...] = (TUNING_SEED,)
    optimizers = tuple(OptimizerEntry(optimizer=name, overrides={"weight_decay": 0.0}) for name in COMPETITORS)
    match scale:
        case Scale.SMOKE:
            tasks: tuple[TaskEntry, ...] = (TaskEntry(task=local, epochs=0.25),)
            precisions = (Precision.FP32, Precision.FP16)
        case Scale.LOCAL:
            tasks = (TaskEntry(task=local, epochs=10),)
        case Scale.STUDY:
            tasks = (TaskEntry(task=local, epochs=30, seeds=study.REPORTING_SEEDS),)
            tuning_seeds = study.TUNING_SEEDS
            optimizers = tuple(study.competitor(name, weight_decay=0.0) for name in COMPETITORS)
        case Scale.PAPER:
            tasks = tuple(
                TaskEntry(task=task, epochs=100, seeds=(0, 1, 2))
                for task in ("mnist.autoencoder", "fashion-mnist.autoencoder")
            )
    return Suite(
        name="reconstruction",
        scale=scale,
        title="Image reconstruction",
        tasks=tasks,
        optimizers=optimizers,
        precisions=precisions,
        tuning_seeds=tuning_seeds,
        contrasts=CONTRASTS,
    )
