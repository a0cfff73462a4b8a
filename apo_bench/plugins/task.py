"""A task: what is learned, by which network, and how it is judged. Its budget belongs to the suite."""

import dataclasses
from collections.abc import Callable

from torch import nn

from apo_bench.data.batches import Augmentation
from apo_bench.data.examples import Dataset
from apo_bench.plugins.metrics import CorpusMetric, Metric
from apo_bench.problem.objectives import Objective


@dataclasses.dataclass(frozen=True)
class Target:
    """A value of the validation metric; reaching it makes the outcome `Reached`.

    Attributes:
        validation: The value; chosen once, on validation data, and never moved: another value is a new version.
        version: Counts the values that this task's target has had.
    """

    validation: float
    version: int = 1


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
        source: Which experiment of which paper this is, with a tag: ``[P]`` printed there, ``[A]`` in its abstract or
            a caption, ``[R]`` recalled and not verified, ``[L]`` a local stand-in of our own.
        evaluation_interval: Epochs between two points of the curve, for training sets so small that evaluating after
            each pass would cost more than the pass.
        trivial: Validation metric of the best predictor that does not look at the inputs.
    """

    dataset: Dataset
    model_name: str
    model: Callable[[], nn.Module]
    objective: Objective
    metric: Metric | CorpusMetric
    batch_size: int
    augmentation: Augmentation | None = None
    target: Target | None = None
    channels_last: bool = False
    reference_epoch_seconds: float | None = None
    source: str = ""
    evaluation_interval: int = 1
    trivial: float | None = None
