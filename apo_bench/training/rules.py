"""Update rules ready to use."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from apo_bench.data.examples import Batch
from apo_bench.training.problem import Problem, StepResult


class TorchRule:
    """Any `torch.optim.Optimizer` as an update rule.

    Args:
        problem: What is minimized.
        optimizer: Holds some or all of the problem's parameters.
    """

    def __init__(self, problem: Problem, optimizer: torch.optim.Optimizer) -> None:
        self.problem = problem
        self.optimizer = optimizer
        self._base_rates = [group["lr"] for group in optimizer.param_groups]

    def step(self, batch: Batch) -> StepResult:
        """Forward, backward, update; nothing is updated when a scaled gradient overflowed."""
        problem = self.problem
        loss = problem.loss(problem.outputs(batch), batch)
        gradients = problem.gradients(loss)
        if gradients.finite:
            with problem.phase("update"):
                for parameter, gradient in zip(problem.parameters, gradients.values, strict=True):
                    parameter.grad = gradient
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
        return StepResult(loss.detach(), gradients.finite)

    def scale_learning_rate(self, factor: float) -> None:
        """Use ``factor`` times the learning rate each parameter group was made with."""
        for group, rate in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """The parameters are judged as they are."""
        return contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.optimizer.load_state_dict(state)

    def state_tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """All tensors in the optimizer's state."""
        return {"optimizer": list(tensors_in(self.optimizer.state))}


def tensors_in(state: Any) -> Iterator[Tensor]:
    """All tensors in nested mappings and sequences of state; some optimizers keep lists of factors."""
    if torch.is_tensor(state):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from tensors_in(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from tensors_in(value)
