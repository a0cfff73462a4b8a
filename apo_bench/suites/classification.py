"""Image classification on CIFAR, or on Fashion-MNIST-20k (E4).

The searched hyperparameters of the local tasks are those with the highest validation accuracy of 8 quasi-random trials,
the same number for every competitor and task: fp32, the task's budget, tuning seed 100, which is no reporting seed. The
trials are in ``reports/classification-local/tuning.csv``; where the best is the declared default, nothing stands here.
At scale ``paper`` nothing has been tuned yet: there stand the usual choices for batch 128 (SGDm 0.03, Adam 1e-3),
KFAC's defaults, and APO-P's meta-learning rate and warm-up as recalled, not verified, from the paper. Weight decay is
5e-4, as in the paper.

At scale ``study`` every competitor runs at a constant rate, and those that do not adapt theirs under a cosine too.
"""

from collections.abc import Iterator

from apo_bench.records.contrast import Contrast, Selector, against
from apo_bench.records.schedules import Constant, Cosine, Schedule
from apo_bench.records.spec import Precision, Scalar, Scale
from apo_bench.records.suite import OptimizerEntry, Suite, TaskEntry
from apo_bench.suites import study

_WEIGHT_DECAY = 5e-4


def _fashion(
    network: str, epochs: float, *, seeds: tuple[int, ...] = (0,), tuned: dict[str, dict[str, Scalar]] | None = None
) -> TaskEntry:
    """A local task, with tuned hyperparameters where they are not the declared defaults."""
    return TaskEntry(task=f"fashion-mnist-20k.{network}", epochs=epochs, seeds=seeds, overrides=tuned or {})


def _local(epochs: tuple[float, float, float, float], lenet_seeds: tuple[int, ...]) -> tuple[TaskEntry, ...]:
    lenet, alexnet, vgg, resnet = epochs
    return (
        _fashion("lenet", lenet, seeds=lenet_seeds),
        _fashion("alexnet-w16", alexnet),
        _fashion(
            "vgg16-w8",
            vgg,
            tuned={
                "sgdm": {"lr": 0.00575},
                "adam": {"lr": 0.00176},
                "apo-p": {"lr": 0.214, "meta_lr": 0.00164, "fsd": 0.834},
            },
        ),
        _fashion(
            "resnet18-w8",
            resnet,
            tuned={"sgdm": {"lr": 0.0907}, "adam": {"lr": 0.00176}, "kfac": {"damping": 0.0566, "kl_clip": 0.00045}},
        ),
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


_PAPER_OVERRIDES: dict[str, dict[str, Scalar]] = {
    "sgdm": {"lr": 0.03},
    "adam": {"lr": 1e-3},
    "apo-p": {"meta_lr": 1e-4, "warmup_steps": 3000},
}


_OTHERS = (
    *against("apo-p", "kfac", family="second order"),
    *(
        Contrast(
            name=f"{name} in fp16 against fp32",
            left=Selector(optimizer=name, precision=Precision.FP16),
            right=Selector(optimizer=name, precision=Precision.FP32),
            family="precision",
        )
        for name in ("sgdm", "adam", "kfac", "apo-p")
    ),
)


def classification(scale: Scale) -> Suite:
    """Image classification: which optimizer generalizes best for a given number of epochs.

    The competitors are those of the paper's table. It does not say which schedules stand behind it; APO-P adapts its
    own step, so its rate is constant.
    """
    if scale is Scale.STUDY:
        return _study()
    schedule: Schedule = Constant()
    tasks: tuple[TaskEntry, ...]
    overrides: dict[str, dict[str, Scalar]] = {}
    match scale:
        case Scale.SMOKE:
            tasks = _local((1, 0.25, 0.1, 0.05), (0,))
        case Scale.LOCAL:
            tasks = _local((5, 5, 3, 2), (0, 1, 2))
        case Scale.PAPER:
            tasks = tuple(TaskEntry(task=name, epochs=_PAPER_EPOCHS, seeds=(0, 1, 2)) for name in _PAPER_TASKS)
            schedule = Cosine()
            overrides = _PAPER_OVERRIDES
    schedules: dict[str, Schedule] = {"sgdm": schedule, "adam": schedule, "kfac": schedule, "apo-p": Constant()}
    return Suite(
        name="classification",
        scale=scale,
        title="Image classification",
        tasks=tasks,
        optimizers=tuple(
            OptimizerEntry(
                optimizer=name, overrides={**overrides.get(name, {}), "weight_decay": _WEIGHT_DECAY}, schedule=chosen
            )
            for name, chosen in schedules.items()
        ),
        precisions=(Precision.FP32, Precision.FP16),
        contrasts=(*against("sgdm", "adam", "kfac", "apo-p"), *_OTHERS),
    )


def _study() -> Suite:
    schedules: tuple[Schedule, ...] = (Constant(), Cosine())
    scheduled = [
        study.competitor(name, schedule, weight_decay=_WEIGHT_DECAY)
        for name in ("sgdm", "adam", "kfac")
        for schedule in schedules
    ]
    return Suite(
        name="classification",
        scale=Scale.STUDY,
        title="Image classification",
        tasks=(
            study.image_task(study.LENET),
            study.image_task(study.RESNET, precisions=(Precision.FP32,)),
        ),
        optimizers=(*scheduled, study.competitor("apo-p", weight_decay=_WEIGHT_DECAY)),
        precisions=(Precision.FP32, Precision.FP16),
        tuning_seeds=study.TUNING_SEEDS,
        contrasts=tuple(_questions()),
    )


def _questions() -> Iterator[Contrast]:
    """At equal schedules; APO-P, which adapts its own step, also against the others under a cosine."""
    apo = Selector(optimizer="apo-p")
    at = {
        (name, schedule): Selector(optimizer=name, schedule=schedule)
        for name in ("sgdm", "adam", "kfac")
        for schedule in ("constant", "cosine")
    }
    for schedule in ("constant", "cosine"):
        reference = at["sgdm", schedule]
        for name, left in (("adam", at["adam", schedule]), ("kfac", at["kfac", schedule]), ("apo-p", apo)):
            yield Contrast(name=f"{name} against sgdm, {schedule}", left=left, right=reference, family=schedule)
        yield Contrast(
            name=f"apo-p against kfac, {schedule}",
            left=apo,
            right=at["kfac", schedule],
            family="second order",
            margin=study.MARGIN,
        )
    yield Contrast(
        name="cosine against constant, sgdm",
        left=at["sgdm", "cosine"],
        right=at["sgdm", "constant"],
        family="sensitivity",
    )
    yield Contrast(
        name="fp16 against fp32, apo-p",
        left=Selector(optimizer="apo-p", precision=Precision.FP16),
        right=Selector(optimizer="apo-p", precision=Precision.FP32),
        family="precision",
    )
    for name in ("sgdm", "adam", "kfac"):
        yield Contrast(
            name=f"fp16 against fp32, {name}",
            left=Selector(optimizer=name, schedule="constant", precision=Precision.FP16),
            right=Selector(optimizer=name, schedule="constant", precision=Precision.FP32),
            family="precision",
        )
