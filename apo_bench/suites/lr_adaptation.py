"""Learning-rate adaptation: each base optimizer at its best fixed rate, with step decay, and under APO-LR (E7, E8).

The best fixed rate is the one of `GRID` with the best validation metric on the tuning seed; step decay starts from it
too, and APO-LR from the initial rate recalled from the paper [R]: 0.1 for SGD and SGDm, 3e-4 for RMSprop and Adam. At
scale ``paper`` the command runs the grid first and takes the best. At scale ``local`` the grid has been run, and its
choice stands in `BEST` (``reports/lr-adaptation-local/tuning.csv``). Scale ``smoke`` has these rates too, but one
optimizer tries two, as a check of the machinery.

At scale ``study`` APO-LR tries as many proximity weights as its base tries rates, on a network for which step decay is
worth points.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from apo_bench.records.contrast import Contrast, Selector
from apo_bench.records.schedules import Step
from apo_bench.records.spec import Precision, Scalar, Scale
from apo_bench.records.suite import TUNING_SEED, OptimizerEntry, Suite, TaskEntry
from apo_bench.suites import study

GRID: dict[str, tuple[float, ...]] = {
    "sgd": (0.01, 0.03, 0.1, 0.3, 1.0),
    "sgdm": (0.003, 0.01, 0.03, 0.1, 0.3),
    "rmsprop": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    "adam": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
}
"""Fixed rates that are tried: half a decade apart."""
BEST: dict[str, dict[str, float]] = {
    "fashion-mnist-20k.lenet": {"sgd": 0.3, "sgdm": 0.03, "rmsprop": 1e-3, "adam": 3e-3},
    "fashion-mnist-20k.mlp-1000": {"sgdm": 0.03, "rmsprop": 3e-4},
}
"""What tuning chose, by task and base optimizer."""
_SMOKE_GRID = {"sgdm": (0.03, 0.1)}
_WEIGHT_DECAY: dict[str, Scalar] = {"weight_decay": 5e-4}
_ALL = ("sgd", "sgdm", "rmsprop", "adam")
_TWO = ("sgdm", "rmsprop")


def _against_apo(
    task: str, bases: tuple[str, ...], *, decay: bool, fixed: dict[str, Scalar], grid: Mapping[str, tuple[float, ...]]
) -> tuple[OptimizerEntry, ...]:
    """Base optimizers at the best rate of their grid, at the one in `BEST` where they have none, and under APO-LR."""
    entries = []
    for base in bases:
        best = (
            OptimizerEntry(optimizer=base, overrides=fixed, grid={"lr": grid[base]})
            if base in grid
            else OptimizerEntry(optimizer=base, overrides={**fixed, "lr": BEST[task][base]})
        )
        entries.append(best)
        if decay:
            entries.append(msgspec.structs.replace(best, schedule=Step()))
        entries.append(OptimizerEntry(optimizer=f"apo-lr-{base}", overrides=fixed))
    return tuple(entries)


def _e7(task: str, epochs: float, seeds: tuple[int, ...], grid: Mapping[str, tuple[float, ...]]) -> TaskEntry:
    """A multilayer perceptron: fixed rate against APO-LR, by the training loss; so without weight decay."""
    competitors = _against_apo(task, _TWO, decay=False, fixed={}, grid=grid)
    return TaskEntry(task=task, epochs=epochs, seeds=seeds, optimizers=competitors)


def _e8(task: str, epochs: float, seeds: tuple[int, ...], grid: Mapping[str, tuple[float, ...]]) -> TaskEntry:
    """An image classifier: fixed rate, step decay and APO-LR, by the test accuracy."""
    competitors = _against_apo(task, _ALL, decay=True, fixed=_WEIGHT_DECAY, grid=grid)
    return TaskEntry(task=task, epochs=epochs, seeds=seeds, optimizers=competitors)


def _study() -> TaskEntry:
    """ResNet-18 with crops and flips: fixed rate, step decay and APO-LR around each base."""
    entries: list[OptimizerEntry] = []
    for base in _ALL:
        fixed = study.competitor(base, weight_decay=5e-4)
        adaptive = study.competitor(f"apo-lr-{base}", weight_decay=5e-4)
        entries += [fixed, msgspec.structs.replace(fixed, schedule=Step()), adaptive]
    return msgspec.structs.replace(study.image_task(study.RESNET), optimizers=tuple(entries))


def _questions(tasks: Sequence[TaskEntry]) -> Iterator[Contrast]:
    """APO-LR against the best fixed rate, by the training loss in E7, and against step decay."""
    e7, e8 = (
        tuple(
            name
            for entry in tasks
            if any(isinstance(one.schedule, Step) for one in entry.optimizers) is decays
            for name in (entry.task, entry.on_cuda)
            if name
        )
        for decays in (False, True)
    )
    for base in _ALL:
        apo, fixed = Selector(optimizer=f"apo-lr-{base}"), Selector(optimizer=base, schedule="constant")
        decayed = Selector(optimizer=base, schedule="step")
        if base in _TWO and e7:
            yield Contrast(
                name=f"apo-lr-{base} against the best fixed rate, training loss", left=apo, right=fixed,
                quantity="train_loss", family="fixed rate", tasks=e7,
            )  # fmt: skip
        yield Contrast(
            name=f"apo-lr-{base} against the best fixed rate", left=apo, right=fixed, family="fixed rate", tasks=e8
        )
        yield Contrast(name=f"apo-lr-{base} against step decay", left=apo, right=decayed, family="schedule", tasks=e8)
        yield Contrast(
            name=f"step decay against the best fixed rate, {base}", left=decayed, right=fixed, family="sensitivity",
            tasks=e8,
        )  # fmt: skip


def lr_adaptation(scale: Scale) -> Suite:
    """Learning-rate adaptation: APO-LR against the best fixed rate and against step decay."""
    lenet, mlp = "fashion-mnist-20k.lenet", "fashion-mnist-20k.mlp-1000"
    seeds = (0, 1, 2)
    tuning_seeds: tuple[int, ...] = (TUNING_SEED,)
    match scale:
        case Scale.SMOKE:
            tasks = [_e7(mlp, 0.25, (0,), _SMOKE_GRID), _e8(lenet, 0.25, (0,), {})]
        case Scale.LOCAL:
            tasks = [_e7(mlp, 10, (0,), {}), _e8(lenet, 15, seeds, {})]
        case Scale.STUDY:
            tasks = [_study()]
            tuning_seeds = study.TUNING_SEEDS
        case Scale.PAPER:
            networks = ("cifar10.resnet32", "cifar10.resnet34", "cifar10.wrn-28-10", "cifar100.wrn-28-10")
            tasks = [_e7("mnist.mlp-1000", 100, seeds, GRID), *(_e8(task, 200, seeds, GRID) for task in networks)]
    return Suite(
        name="lr-adaptation",
        scale=scale,
        title="Learning-rate adaptation",
        tasks=tuple(tasks),
        optimizers=(),
        precisions=(Precision.FP32, Precision.FP16) if scale is Scale.SMOKE else (Precision.FP32,),
        tuning_seeds=tuning_seeds,
        contrasts=tuple(_questions(tasks)),
    )
