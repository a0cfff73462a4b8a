"""Metrics: how outputs, or a whole model, are judged."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from apo_bench.data.examples import Batch, Examples
from apo_bench.problem.objectives import Objective, wide
from apo_bench.problem.problem import Problem
from apo_bench.problem.shapes import METRICS, alike, check_numbers, counted_of, ignored_of, labels_of, tokens_of
from apo_bench.records.facts import Axis, Direction


@runtime_checkable
class Metric(Protocol):
    """How outputs are judged, as a mean over examples. A plugin's metric is one of this kind or a `CorpusMetric`.

    A metric may be `Counted` too, where it is a mean over something else. It may have an ``axis``: `Axis.LOG` says that
    its values are compared by their ratios, as those of an error that spans decades.

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


@runtime_checkable
class Counted(Protocol):
    """A metric that is a mean over something else than all examples: over tokens, or over those that have a label."""

    def count(self, batch: Batch) -> int:
        """What a batch counts for: totals are divided by the sum of the counts."""
        ...


class Accuracy:
    """Share of examples whose largest logit is at the label, in percent.

    Logits are ``(batch, classes)``, labels ``(batch,)``; an example whose label is -100 counts nowhere.
    """

    name = "accuracy (%)"
    direction = Direction.MAXIMIZE
    axis = Axis.LINEAR

    def total(self, outputs: Tensor, batch: Batch) -> Tensor:
        """A hundred for each correct example.

        Raises:
            ShapeError: Outputs or targets have another shape or type.
        """
        labels = labels_of(METRICS, outputs, batch.targets)
        return 100.0 * (outputs.argmax(dim=-1) == labels).sum()

    def count(self, batch: Batch) -> int:
        """Examples with a label."""
        ignored = ignored_of(batch.targets)
        return batch.size if ignored is None else batch.size - int(ignored.sum())


class TokenAccuracy:
    """Share of tokens whose largest logit is at the target, in percent.

    Logits are ``(batch, positions, pieces)``, targets ``(batch, positions)``.

    Args:
        padding: Target that is no target, as in `TokenCrossEntropy`.
    """

    name = "token accuracy (%)"
    direction = Direction.MAXIMIZE
    axis = Axis.LINEAR

    def __init__(self, padding: int = 0) -> None:
        self.padding = padding

    def total(self, outputs: Tensor, batch: Batch) -> Tensor:
        """A hundred for each correct token.

        Raises:
            ShapeError: Outputs or targets have another shape or type.
        """
        targets = tokens_of(METRICS, outputs, batch.targets)
        correct = outputs.argmax(dim=-1) == targets
        return 100.0 * (correct & counted_of(targets, self.padding)).sum()

    def count(self, batch: Batch) -> int:
        """Tokens."""
        return int(counted_of(batch.targets, self.padding).sum())


class BinaryAccuracy:
    """Share of outputs that are true or false as their targets are, in percent, a mean over examples.

    Outputs are logits, true above 0; targets are 0 or 1, in the shape of the outputs.
    """

    name = "accuracy (%)"
    direction = Direction.MAXIMIZE
    axis = Axis.LINEAR

    def total(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Sum over examples of a hundred times the share of an example's outputs.

        Raises:
            ShapeError: Outputs and targets differ in shape.
        """
        targets = alike("BinaryAccuracy", METRICS, outputs, batch.targets)
        right = (outputs > 0) == (targets > 0.5)  # noqa: PLR2004 - halfway from false to true
        return 100.0 * right.float().reshape(len(right), -1).mean(1).sum()

    def check_targets(self, outputs: Tensor, targets: Tensor) -> None:  # noqa: ARG002 - whatever the outputs are
        """Refuse targets that are not from 0 to 1.

        Raises:
            ShapeError: There is one.
        """
        check_numbers("BinaryAccuracy", targets, 0.0, 1.0)


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
    axis = Axis.LOG

    def total(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Sum over examples of the mean over an example's outputs.

        Raises:
            ShapeError: Outputs and targets differ in shape.
        """
        targets = alike("MeanSquaredError", METRICS, outputs, batch.targets)
        return (wide(outputs) - targets).square().reshape(len(outputs), -1).mean(1).sum()


class MeanLoss:
    """The objective's own loss of an example, or of a token where its loss is a mean over tokens.

    Args:
        objective: Which.
        name: As printed, with its unit.
    """

    direction = Direction.MINIMIZE
    axis = Axis.LOG

    def __init__(self, objective: Objective, name: str) -> None:
        self.objective = objective
        self.name = name

    def total(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Sum over what the loss is a mean over; 0 where that is nothing."""
        count = self.count(batch)
        return self.objective.loss(outputs, batch) * count if count else outputs.new_zeros(())

    def count(self, batch: Batch) -> int:
        """What the loss is a mean over: examples or tokens."""
        return self.objective.normalizer(batch)
