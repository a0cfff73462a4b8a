"""What the suites have in common at scale ``study``: ground on which the paper's claims can be judged.

A schedule is worth 0.4 points of validation accuracy to LeNet in 15 epochs without augmentation, and some 6 points to
ResNet-18 with random crops and flips: only the second can tell whether a learned rate replaces a schedule. The budgets
take some hours on two cores, each suite by itself; ``apo-bench run --suite SUITE --scale study --plan`` says how many.
On CUDA the networks have their full width, since the ratios of small ones say nothing there.

Every competitor of a task tries five values of the one hyperparameter that matters most to it, on both tuning seeds;
the others have their declared defaults. That is the same budget for all.
"""

from apo_bench.records.schedules import Constant, Schedule
from apo_bench.records.spec import Precision, Scalar
from apo_bench.records.suite import OptimizerEntry, TaskEntry

REPORTING_SEEDS = (10, 11, 12, 13, 14)
"""Seeds that no exploration has used."""
TUNING_SEEDS = (100, 101)
MARGIN = 0.5
"""Points of accuracy that make no difference in practice; "competitive" is not worse by more."""
LENET, RESNET = "fashion-mnist-20k.lenet-augmented", "fashion-mnist-20k.resnet18-w8-augmented"
GRIDS: dict[str, dict[str, tuple[Scalar, ...]]] = {
    "sgd": {"lr": (0.01, 0.03, 0.1, 0.3, 1.0)},
    "sgdm": {"lr": (0.003, 0.01, 0.03, 0.1, 0.3)},
    "rmsprop": {"lr": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)},
    "adam": {"lr": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)},
    "soap": {"lr": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)},
    "kfac": {"kl_clip": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3)},
    "ekfac": {"kl_clip": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3)},
    "apo-p": {"fsd": (3.0, 10.0, 30.0, 100.0, 300.0)},
    "apo-lr-sgd": {"fsd": (0.3, 1.0, 3.0, 10.0, 30.0)},
    "apo-lr-sgdm": {"fsd": (0.3, 1.0, 3.0, 10.0, 30.0)},
    "apo-lr-rmsprop": {"fsd": (0.3, 1.0, 3.0, 10.0, 30.0)},
    "apo-lr-adam": {"fsd": (0.3, 1.0, 3.0, 10.0, 30.0)},
}
"""What each competitor tries."""
APO: dict[str, Scalar] = {"meta_share": 0.25}
"""What APO has at this scale besides: meta-updates on quarters of both batches, at a quarter of the cost."""
_EPOCHS = {LENET: 40.0, RESNET: 16.0}
_ON_CUDA = {RESNET: "fashion-mnist-20k.resnet18-augmented"}


def image_task(
    task: str, precisions: tuple[Precision, ...] = (), overrides: dict[str, dict[str, Scalar]] | None = None
) -> TaskEntry:
    """One of the image classifiers with the budget that it has in all suites."""
    return TaskEntry(
        task=task,
        epochs=_EPOCHS[task],
        seeds=REPORTING_SEEDS,
        precisions=precisions,
        overrides=overrides or {},
        on_cuda=_ON_CUDA.get(task, ""),
    )


def competitor(name: str, schedule: Schedule | None = None, **fixed: Scalar) -> OptimizerEntry:
    """An optimizer with its grid."""
    own = APO if name.startswith("apo-") else {}
    return OptimizerEntry(optimizer=name, overrides={**fixed, **own}, schedule=schedule or Constant(), grid=GRIDS[name])
