"""Suites: each a function from a scale to a frozen value; a variant replaces fields of another.

The hyperparameters here are declared, not tuned on test data: the usual choices for these networks at batch 128
(SGDm 0.03, Adam 1e-3, weight decay 5e-4).
"""

from collections.abc import Callable

from apo_bench.errors import UsageError, did_you_mean
from apo_bench.schedules import Constant, Cosine, Schedule
from apo_bench.spec import OptimizerEntry, Precision, Scalar, Scale, Suite, TaskEntry

_WEIGHT_DECAY = 5e-4


def _classifiers(schedule: Schedule) -> tuple[OptimizerEntry, ...]:
    """The competitors of the paper's classification table.

    The paper does not say which schedules stand behind its table; APO-P adapts its own step, so its rate is constant.
    """
    decay: dict[str, Scalar] = {"weight_decay": _WEIGHT_DECAY}
    return (
        OptimizerEntry(optimizer="sgdm", overrides={"lr": 0.03, **decay}, schedule=schedule),
        OptimizerEntry(optimizer="adam", overrides={"lr": 1e-3, **decay}, schedule=schedule),
        OptimizerEntry(optimizer="kfac", overrides=decay, schedule=schedule),
        OptimizerEntry(optimizer="apo-p", overrides=decay),
    )


_PAPER_EPOCHS = 200
_PAPER_TASKS = (
    "cifar10.lenet",
    "cifar10.alexnet",
    "cifar10.vgg16",
    "cifar10.resnet18",
    "cifar100.alexnet",
    "cifar100.vgg16",
    "cifar100.resnet18",
)


def classification(scale: Scale) -> Suite:
    """Image classification: which optimizer generalizes best for a given number of epochs."""
    schedule: Schedule = Constant()
    tasks: tuple[TaskEntry, ...]
    match scale:
        case Scale.SMOKE:
            tasks = (
                TaskEntry(task="fashion-mnist-20k.lenet", epochs=1),
                TaskEntry(task="fashion-mnist-20k.alexnet-w16", epochs=1),
                TaskEntry(task="fashion-mnist-20k.vgg16-w8", epochs=0.5),
                TaskEntry(task="fashion-mnist-20k.resnet18-w8", epochs=0.25),
            )
        case Scale.LOCAL:
            tasks = (
                TaskEntry(task="fashion-mnist-20k.lenet", epochs=5, seeds=(0, 1, 2)),
                TaskEntry(task="fashion-mnist-20k.alexnet-w16", epochs=5),
                TaskEntry(task="fashion-mnist-20k.vgg16-w8", epochs=3),
                TaskEntry(task="fashion-mnist-20k.resnet18-w8", epochs=2),
            )
        case Scale.PAPER:
            tasks = tuple(TaskEntry(task=name, epochs=_PAPER_EPOCHS, seeds=(0, 1, 2)) for name in _PAPER_TASKS)
            schedule = Cosine()
    return Suite(
        name="classification",
        scale=scale,
        title="Image classification",
        tasks=tasks,
        optimizers=_classifiers(schedule),
        precisions=(Precision.FP32, Precision.FP16),
    )


SUITES: dict[str, Callable[[Scale], Suite]] = {"classification": classification}


def suite(name: str, scale: Scale) -> Suite:
    """Look a suite up by name.

    Raises:
        UsageError: Unknown name.
    """
    if name not in SUITES:
        raise UsageError(f"unknown suite {name!r}{did_you_mean(name, SUITES)}")
    return SUITES[name](scale)
