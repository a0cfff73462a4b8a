"""Objectives and metrics: how outputs are compared with targets, and with other outputs."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from apo_bench.data.examples import Batch
from apo_bench.record import Direction


class Objective(Protocol):
    """A negative log-likelihood with the discrepancy that belongs to it."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean negative log-likelihood over ``normalizer(batch)``, a float32 scalar."""
        ...

    def discrepancy(self, new: Tensor, old: Tensor) -> Tensor:
        """Mean output-space discrepancy ρ(new, old) over the batch; 0 with zero gradient at ``new = old``."""
        ...

    def sample_targets(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Targets drawn from the model's own predictive distribution (for the true Fisher)."""
        ...

    def normalizer(self, batch: Batch) -> int:
        """Count over which the loss is a mean: examples or tokens."""
        ...


def _wide(outputs: Tensor) -> Tensor:
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


class CrossEntropy:
    """Softmax cross-entropy on logits ``(batch, classes)`` and labels ``(batch,)``; 16-bit logits become float32."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy over the examples."""
        return F.cross_entropy(_wide(outputs), batch.targets)

    def discrepancy(self, new: Tensor, old: Tensor) -> Tensor:
        """Mean of KL(old ‖ new), whose Hessian at ``new = old`` is the Fisher matrix."""
        return F.kl_div(
            F.log_softmax(_wide(new), dim=-1),
            F.log_softmax(_wide(old), dim=-1),
            log_target=True,
            reduction="batchmean",
        )

    def sample_targets(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """One label an example, drawn from the softmax; ``generator`` lives on the outputs' device."""
        probabilities = _wide(outputs.detach()).softmax(dim=-1)
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)

    def normalizer(self, batch: Batch) -> int:
        """Examples."""
        return batch.size


class Metric(Protocol):
    """How outputs are judged, as a mean over examples.

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
