"""Learning-rate adaptation: each base optimizer at its best fixed rate, with step decay, and under APO-LR (E7, E8).

The best fixed rate is the one of `GRID` with the best validation metric on the tuning seed; step decay starts from it
too, and APO-LR from the initial rate recalled from the paper [R]: 0.1 for SGD and SGDm, 3e-4 for RMSprop and Adam. At
scale ``local`` the grid has been run (``reports/lr-adaptation-local/tuning.csv``). At scale ``paper`` it has not: there
the grid itself is part of the suite, on the tuning seed, and the rates of the reporting seeds are the usual ones until
``--set`` says better.
"""

from apo_bench.schedules import Step
from apo_bench.spec import OptimizerEntry, Precision, Scalar, Scale, Suite, TaskEntry

TUNING_SEED = 100
GRID: dict[str, tuple[float, ...]] = {
    "sgd": (0.01, 0.03, 0.1, 0.3, 1.0),
    "sgdm": (0.003, 0.01, 0.03, 0.1, 0.3),
    "rmsprop": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    "adam": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
}
"""Fixed rates that are tried: half a decade apart."""
_USUAL = {"sgd": 0.1, "sgdm": 0.03, "rmsprop": 3e-4, "adam": 1e-3}
BEST: dict[str, dict[str, float]] = {
    "fashion-mnist-20k.lenet": {"sgd": 0.3, "sgdm": 0.03, "rmsprop": 1e-3, "adam": 3e-3},
    "fashion-mnist-20k.mlp-1000": {"sgdm": 0.03, "rmsprop": 3e-4},
}
"""What tuning chose, by task and base optimizer."""
_WEIGHT_DECAY: dict[str, Scalar] = {"weight_decay": 5e-4}
_ALL = ("sgd", "sgdm", "rmsprop", "adam")
_TWO = ("sgdm", "rmsprop")


def _against_apo(task: str, bases: tuple[str, ...], *, decay: bool, fixed: dict[str, Scalar]) -> list[OptimizerEntry]:
    best = {**_USUAL, **BEST.get(task, {})}
    entries = []
    for base in bases:
        rate = {**fixed, "lr": best[base]}
        entries.append(OptimizerEntry(optimizer=base, overrides=rate))
        if decay:
            entries.append(OptimizerEntry(optimizer=base, overrides=rate, schedule=Step()))
        entries.append(OptimizerEntry(optimizer=f"apo-lr-{base}", overrides=fixed))
    return entries


def grid(bases: tuple[str, ...], fixed: dict[str, Scalar]) -> tuple[OptimizerEntry, ...]:
    """Every fixed rate that is tried."""
    return tuple(
        OptimizerEntry(optimizer=base, overrides={**fixed, "lr": rate}) for base in bases for rate in GRID[base]
    )


def _e7(task: str, epochs: float, seeds: tuple[int, ...]) -> TaskEntry:
    """A multilayer perceptron: fixed rate against APO-LR, by the training loss; so without weight decay."""
    return TaskEntry(
        task=task, epochs=epochs, seeds=seeds, optimizers=tuple(_against_apo(task, _TWO, decay=False, fixed={}))
    )


def _e8(task: str, epochs: float, seeds: tuple[int, ...], bases: tuple[str, ...] = _ALL) -> TaskEntry:
    """An image classifier: fixed rate, step decay and APO-LR, by the test accuracy."""
    return TaskEntry(
        task=task,
        epochs=epochs,
        seeds=seeds,
        optimizers=tuple(_against_apo(task, bases, decay=True, fixed=_WEIGHT_DECAY)),
    )


def lr_adaptation(scale: Scale) -> Suite:
    """Learning-rate adaptation: APO-LR against the best fixed rate and against step decay."""
    lenet, mlp = "fashion-mnist-20k.lenet", "fashion-mnist-20k.mlp-1000"
    seeds = (0, 1, 2)
    match scale:
        case Scale.SMOKE:
            tasks = [_e7(mlp, 0.25, (0,)), _e8(lenet, 0.5, (0,))]
        case Scale.LOCAL:
            tasks = [_e7(mlp, 10, (0,)), _e8(lenet, 15, seeds)]
        case Scale.PAPER:
            networks = ("cifar10.resnet32", "cifar10.resnet34", "cifar10.wrn-28-10", "cifar100.wrn-28-10")
            tasks = [_e7("mnist.mlp-1000", 100, seeds), *(_e8(task, 200, seeds) for task in networks)]
            tasks += [
                TaskEntry(task="mnist.mlp-1000", epochs=100, seeds=(TUNING_SEED,), optimizers=grid(_TWO, {})),
                *(
                    TaskEntry(task=task, epochs=200, seeds=(TUNING_SEED,), optimizers=grid(_ALL, _WEIGHT_DECAY))
                    for task in networks
                ),
            ]
    return Suite(
        name="lr-adaptation",
        scale=scale,
        title="Learning-rate adaptation",
        tasks=tuple(tasks),
        optimizers=(),
        precisions=(Precision.FP32, Precision.FP16) if scale is Scale.SMOKE else (Precision.FP32,),
    )
