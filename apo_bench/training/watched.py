"""A problem that tells what it computes, for a second look at a run that diverged."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor
from torch.autograd.graph import GradientEdge

from apo_bench.data.examples import Batch
from apo_bench.problem.problem import Gradients, Problem


class Listener(Protocol):
    """What is told of a problem."""

    def before_outputs(self) -> None:
        """The model is about to run."""
        ...

    def loss(self, value: Tensor) -> None:
        """A loss was computed."""
        ...

    def gradients(self, found: Gradients, stream: str) -> None:
        """Gradients in the problem's parameters were computed."""
        ...

    def intermediate_gradients(self, found: Gradients, stream: str) -> None:
        """Gradients inside the model were computed."""
        ...


class WatchedProblem(Problem):
    """A `Problem` with a listener, from the moment that one is given.

    Attributes:
        listener: Told of everything, after it was computed.
    """

    listener: Listener | None = None

    def outputs(self, batch: Batch, *, eager: bool = False) -> Tensor:
        """As `Problem.outputs`; the listener is told before."""
        if self.listener is not None:
            self.listener.before_outputs()
        return super().outputs(batch, eager=eager)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """As `Problem.loss`."""
        value = super().loss(outputs, batch)
        if self.listener is not None:
            self.listener.loss(value)
        return value

    def gradients(self, loss: Tensor, stream: str = "base") -> Gradients:
        """As `Problem.gradients`."""
        found = super().gradients(loss, stream)
        if self.listener is not None:
            self.listener.gradients(found, stream)
        return found

    def intermediate_gradients(
        self, loss: Tensor, edges: Sequence[GradientEdge], stream: str = "curvature"
    ) -> Gradients:
        """As `Problem.intermediate_gradients`."""
        found = super().intermediate_gradients(loss, edges, stream)
        if self.listener is not None:
            self.listener.intermediate_gradients(found, stream)
        return found
