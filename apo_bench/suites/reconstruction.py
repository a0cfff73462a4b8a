"""Image reconstruction by the deep autoencoder of Hinton and Salakhutdinov (E3); the set-up is recalled [R].

Nothing has been tuned for it yet: competitors have their declared defaults, chosen on another network.
"""

from apo_bench.records.spec import Precision, Scale
from apo_bench.records.suite import OptimizerEntry, Suite, TaskEntry
from apo_bench.suites.regression import COMPETITORS, CONTRASTS


def reconstruction(scale: Scale) -> Suite:
    """Image reconstruction: a deep autoencoder of sigmoid units, hard for first-order methods."""
    local = "fashion-mnist-20k.autoencoder"
    precisions: tuple[Precision, ...] = (Precision.FP32,)
    match scale:
        case Scale.SMOKE:
            tasks: tuple[TaskEntry, ...] = (TaskEntry(task=local, epochs=0.25),)
            precisions = (Precision.FP32, Precision.FP16)
        case Scale.LOCAL:
            tasks = (TaskEntry(task=local, epochs=10),)
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
        optimizers=tuple(OptimizerEntry(optimizer=name, overrides={"weight_decay": 0.0}) for name in COMPETITORS),
        precisions=precisions,
        contrasts=CONTRASTS,
    )
