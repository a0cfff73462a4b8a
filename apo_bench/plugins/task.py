"""A task: what is learned, by which network, and how it is judged. Its budget belongs to the suite."""

import dataclasses
import math
from collections.abc import Callable

from torch import nn

from apo_bench.data.batches import Augmentation
from apo_bench.data.examples import Dataset
from apo_bench.errors import kind_of
from apo_bench.plugins.metrics import CorpusMetric, Metric
from apo_bench.problem.objectives import Objective
from apo_bench.records.facts import Direction


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


_LONGEST_NAME = 200
"""Characters of what is printed in tables."""
_MOST = 2**53
"""Of anything that is counted."""


def wrong_field(task: Task) -> str | None:
    """What is wrong with a field of a task, and what to give; `None` where a plan can be made of it.

    Whether its parts fit together is tried before the first step (`apo_bench.training.agreement`).
    """
    for field, value, kinds, kind in (
        ("dataset", task.dataset, Dataset, "a Dataset"),
        ("metric", task.metric, Metric | CorpusMetric, "a Metric or a CorpusMetric"),
        ("target", task.target, Target | None, "a Target, or None"),
        ("source", task.source, str, "a text"),
    ):
        if not isinstance(value, kinds):
            return f"{field} is a {kind_of(value)}; give {kind}"
    return _wrong_function(task) or _wrong_text(task) or _wrong_count(task) or _wrong_number(task)


def _wrong_function(task: Task) -> str | None:
    dataset = task.dataset
    needed: dict[str, object] = {
        "model": task.model,
        "dataset's load": dataset.load,
        "dataset's digest": dataset.digest,
    }
    needed["objective's loss"] = getattr(task.objective, "loss", None)
    optional: dict[str, object] = {"dataset's fetch": dataset.fetch, "dataset's blank": dataset.blank}
    for field, function in (needed | {name: one for name, one in optional.items() if one is not None}).items():
        if not callable(function):
            return f"{field} is a {kind_of(function)}; give a function"
    return None


def _wrong_text(task: Task) -> str | None:
    texts: dict[str, object] = {
        "dataset's name": task.dataset.name,
        "model_name": task.model_name,
        "metric's name": task.metric.name,
    }
    for field, text in texts.items():
        if not (isinstance(text, str) and 0 < len(text) <= _LONGEST_NAME):
            got = f"a text of {len(text)} characters" if isinstance(text, str) else f"a {kind_of(text)}"
            return f"{field} is {got}; give a text of 1 to {_LONGEST_NAME} characters"
    direction: object = task.metric.direction
    if not isinstance(direction, Direction):
        return f"metric's direction is a {kind_of(direction)}; give a Direction"
    return None


def _wrong_count(task: Task) -> str | None:
    for field, count in (("batch_size", task.batch_size), ("evaluation_interval", task.evaluation_interval)):
        if type(count) is not int or not 0 < count <= _MOST:
            return f"{field} is {_said(count)}; give a whole number of at least 1"
    sizes: object = task.dataset.sizes
    if sizes is not None:
        counts = sizes if isinstance(sizes, tuple) else ()
        if [type(size) for size in counts] != [int, int, int] or not all(0 <= size <= _MOST for size in counts):
            return f"dataset's sizes are {_said(sizes)}; give three whole numbers, or None"
    if task.target is not None and type(task.target.version) is not int:
        return f"target's version is {_said(task.target.version)}; give a whole number"
    return None


def _wrong_number(task: Task) -> str | None:
    numbers: dict[str, object] = {"trivial": task.trivial, "reference_epoch_seconds": task.reference_epoch_seconds}
    if task.target is not None:
        numbers["target"] = task.target.validation
    for field, number in numbers.items():
        if number is None and field != "target":
            continue
        if not (isinstance(number, int | float) and math.isfinite(number)):
            return f"{field} is {_said(number)}; give a finite number"
    return None


def _said(value: object) -> str:
    return str(value)[:_LONGEST_NAME] if type(value) in {bool, int, float, tuple} else f"a {kind_of(value)}"
