"""A task: what is learned, by which network, and how it is judged. Its budget belongs to the suite."""

import dataclasses
from collections.abc import Callable

from torch import nn

from apo_bench.data.batches import Augmentation
from apo_bench.data.examples import Dataset
from apo_bench.training.objectives import Metric, Objective


@dataclasses.dataclass(frozen=True)
class Target:
    """A value of the validation metric; reaching it makes the outcome `Reached`."""

    validation: float


@dataclasses.dataclass(frozen=True)
class Task:
    """A registered task; an entry point in group ``apo_bench.tasks`` names a function that returns one.

    Attributes:
        dataset: Train, validation and test examples.
        model_name: As printed in leaderboards.
        model: Makes the network; called under a seeded generator, on the CPU, in float32.
        objective: Loss, discrepancy and target sampling.
        metric: How the outputs are judged.
        batch_size: Examples a step.
        augmentation: Applied to training batches.
        target: Validation value to be reached.
        channels_last: Whether four-dimensional weights are laid out channels last, which the convolutions of both
            CPUs and GPUs prefer.
        reference_epoch_seconds: Measured seconds of an epoch of SGDm in fp32 on 2 CPU cores: a first guess for
            plans, replaced by the user's own records as soon as there are any.
    """

    dataset: Dataset
    model_name: str
    model: Callable[[], nn.Module]
    objective: Objective
    metric: Metric
    batch_size: int
    augmentation: Augmentation | None = None
    target: Target | None = None
    channels_last: bool = False
    reference_epoch_seconds: float | None = None
