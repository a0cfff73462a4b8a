"""Suites: each a function from a scale to a frozen value; a variant replaces fields of another.

The learning rates of the local tasks have the best validation accuracy among three, a factor of three apart, with one
more where the best was at an end: fp32, the task's budget, tuning seed 100, which is no reporting seed. The trials are
in ``reports/classification-local/tuning.csv``. At scale ``paper`` nothing has been tuned yet: there stand the usual
choices for batch 128 (SGDm 0.03, Adam 1e-3). Weight decay is 5e-4, as in the paper.
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


def _fashion(network: str, epochs: float, *, sgdm: float, adam: float, seeds: tuple[int, ...] = (0,)) -> TaskEntry:
    """A local task with its tuned learning rates."""
    return TaskEntry(
        task=f"fashion-mnist-20k.{network}",
        epochs=epochs,
        seeds=seeds,
        overrides={"sgdm": {"lr": sgdm}, "adam": {"lr": adam}},
    )


def _local(epochs: tuple[float, float, float, float], lenet_seeds: tuple[int, ...]) -> tuple[TaskEntry, ...]:
    lenet, alexnet, vgg, resnet = epochs
    return (
        _fashion("lenet", lenet, sgdm=0.03, adam=3e-3, seeds=lenet_seeds),
        _fashion("alexnet-w16", alexnet, sgdm=0.03, adam=3e-3),
        _fashion("vgg16-w8", vgg, sgdm=0.01, adam=3e-4),
        _fashion("resnet18-w8", resnet, sgdm=0.03, adam=1e-3),
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
            tasks = _local((1, 1, 0.5, 0.25), (0,))
        case Scale.LOCAL:
            tasks = _local((5, 5, 3, 2), (0, 1, 2))
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
