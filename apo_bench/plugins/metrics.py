"""Metrics: how outputs, or a whole model, are judged."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from apo_bench.data.examples import Batch, Examples
from apo_bench.problem.objectives import Objective, of_shape, wide
from apo_bench.problem.problem import Problem
from apo_bench.records.run import Direction


@runtime_checkable
class Metric(Protocol):
    """How outputs are judged, as a mean over examples. A plugin's metric is one of this kind or a `CorpusMetric`.

    Attributes:
        name: As printed, with its unit.
        direction: Whether more is better.
    """

    @property
    def name(self) -> str:
        """As printed, with its unit."""
        ...

    @property
    def direction(self) -> Direction:
        """Whether more is better."""
        ...

    def total(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Sum over the batch, a scalar on the outputs' device; its mean over examples is the metric."""
        ...


class Accuracy:
    """Share of examples whose largest logit is at the label, in percent."""

    name = "accuracy (%)"
    direction = Direction.MAXIMIZE

    def total(self, outputs: Tensor, batch: Batch) -> Tensor:
        """A hundred for each correct example."""
        return 100.0 * (outputs.argmax(dim=-1) == batch.targets).sum()


@runtime_checkable
class CorpusMetric(Protocol):
    """How a model is judged on a whole split at once, by what it generates.

    Attributes:
        name: As printed.
        direction: Whether more is better.
        signature: What one must know to compute the same number: version, tokenization, decoding.
    """

    @property
    def name(self) -> str:
        """As printed."""
        ...

    @property
    def direction(self) -> Direction:
        """Whether more is better."""
        ...

    @property
    def signature(self) -> str:
        """What one must know to compute the same number."""
        ...

    def score(self, problem: Problem, examples: Examples) -> float:
        """Judge ``problem.model``, which is in evaluation mode; `Problem.precision` says in which formats."""
        ...


class MeanSquaredError:
    """Squared error, a mean over outputs and examples; 1 for the best constant where targets have unit variance."""

    name = "mean squared error"
    direction = Direction.MINIMIZE

    def total(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Sum over examples of the mean over an example's outputs."""
        return (wide(outputs) - of_shape(outputs, batch.targets)).square().flatten(1).mean(1).sum()


class MeanLoss:
    """The objective's own loss of an example.

    Args:
        objective: Which.
        name: As printed, with its unit.
    """

    direction = Direction.MINIMIZE

    def __init__(self, objective: Objective, name: str) -> None:
        self.objective = objective
        self.name = name

    def total(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Sum over examples."""
        return self.objective.loss(outputs, batch) * batch.size
