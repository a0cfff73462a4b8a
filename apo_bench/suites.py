"""Suites: each a function from a scale to a frozen value; a variant replaces fields of another.

The learning rates here are declared, not tuned on test data: SGDm 0.03 and SGD 0.1 are the usual choices for
these networks at batch 128, Adam 1e-3 is the default of Kingma and Ba (2015).
"""

from collections.abc import Callable

from apo_bench.errors import UsageError, did_you_mean
from apo_bench.spec import OptimizerEntry, Precision, Scale, Suite, TaskEntry

_WEIGHT_DECAY = 5e-4

FIRST_ORDER = (
    OptimizerEntry(optimizer="sgd", overrides={"lr": 0.1, "weight_decay": _WEIGHT_DECAY}),
    OptimizerEntry(optimizer="sgdm", overrides={"lr": 0.03, "weight_decay": _WEIGHT_DECAY}),
    OptimizerEntry(optimizer="adam", overrides={"lr": 1e-3, "weight_decay": _WEIGHT_DECAY}),
)


def classification(scale: Scale) -> Suite:
    """Image classification: which optimizer generalizes best for a given number of epochs."""
    match scale:
        case Scale.SMOKE:
            tasks = (
                TaskEntry(task="fashion-mnist-20k.lenet", epochs=1),
                TaskEntry(task="fashion-mnist-20k.resnet18-w8", epochs=0.25),
            )
        case Scale.LOCAL:
            tasks = (
                TaskEntry(task="fashion-mnist-20k.lenet", epochs=5, seeds=(0, 1, 2)),
                TaskEntry(task="fashion-mnist-20k.resnet18-w8", epochs=2),
            )
        case Scale.PAPER:
            raise UsageError("suite 'classification' has no tasks at scale 'paper' yet; use --scale local")
    return Suite(
        name="classification",
        scale=scale,
        title="Image classification",
        tasks=tasks,
        optimizers=FIRST_ORDER,
        precisions=(Precision.FP32, Precision.FP16),
    )


SUITES: dict[str, Callable[[Scale], Suite]] = {"classification": classification}


def suite(name: str, scale: Scale) -> Suite:
    """Look a suite up by name.

    Raises:
        UsageError: Unknown name, or the suite has no such scale.
    """
    if name not in SUITES:
        raise UsageError(f"unknown suite {name!r}{did_you_mean(name, SUITES)}")
    return SUITES[name](scale)
