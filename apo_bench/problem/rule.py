"""Update rules ready to use."""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from apo_bench.data.examples import Batch
from apo_bench.errors import UsageError
from apo_bench.problem.closure import take_step
from apo_bench.problem.held import tensors_in
from apo_bench.problem.problem import Problem


class StepResult(NamedTuple):
    """What a step reports.

    Attributes:
        loss: Detached loss of the batch before the step.
        applied: False when a scaled gradient overflowed and parameters, optimizer state and everything learned are
            untouched.
    """

    loss: Tensor
    applied: bool


class UpdateRule(Protocol):
    """Anything that can take a step on a `Problem`.

    A rule may be more than that, and is asked by `isinstance` whether it is: `Schedulable`, `Observable`, `Periodic`,
    `PartlyWide`, `Selective`. A rule that wraps another defines their members itself: Python 3.12 does not see what
    ``__getattr__`` passes on.
    """

    def step(self, batch: Batch) -> StepResult:
        """Update the model's parameters in place from one batch."""
        ...

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """While active the model holds the parameters as they should be judged (averages, for some)."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        ...

    def state_tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """Tensors held beside parameters and gradients, by purpose, for exact byte counts."""
        ...


@runtime_checkable
class Observable(Protocol):
    """An update rule that says something of itself at every point of the curve."""

    def readings(self) -> Mapping[str, float]:
        """Numbers by name."""
        ...


@runtime_checkable
class Periodic(Protocol):
    """An update rule some of whose steps do more than others: estimate curvature, invert it, adapt what is learned.

    With it costs are measured a kind of step at a time and composed by their frequencies; without it every step counts
    as alike. Consecutive steps are held against it (`apo_bench.measure.consecutive`): costs of a rule that does not
    keep to it are not known.

    Attributes:
        steps: Steps taken, the rule's only counter; each applied step adds 1. It may be set: a step at ``steps`` = t
            does what is due at t, and nothing else.
        intervals: By the name of what is done, the number of steps between two times, at least 1; due where it divides
            ``steps``.
    """

    steps: int

    @property
    def intervals(self) -> Mapping[str, int]:
        """Intervals by name, for example ``{"meta": 10}``."""
        ...


@runtime_checkable
class Schedulable(Protocol):
    """An update rule whose learning rate can follow a schedule."""

    def scale_learning_rate(self, factor: float) -> None:
        """Use ``factor`` times the declared learning rate from now on."""
        ...


@runtime_checkable
class PartlyWide(Protocol):
    """An update rule that computes something in float32 where parameters are stored in 16 bit.

    What its state holds in float32 is seen from `UpdateRule.state_tensors`.

    Attributes:
        computes_in_fp32: What is computed so, for the record.
    """

    @property
    def computes_in_fp32(self) -> tuple[str, ...]:
        """What is computed in float32."""
        ...


@runtime_checkable
class Selective(Protocol):
    """An update rule whose method acts on some weights only and leaves the others to a plainer one.

    Attributes:
        left_alone: Names of the weights that it leaves, by the reason, for the record.
    """

    @property
    def left_alone(self) -> Mapping[str, tuple[str, ...]]:
        """Names by reason, for example ``{"embedding": ("tokens.weight",)}``; vectors go unsaid."""
        ...


class TorchRule:
    """Any `torch.optim.Optimizer` as an update rule.

    Args:
        problem: What is minimized.
        optimizer: Holds some or all of the problem's parameters.
    """

    def __init__(self, problem: Problem, optimizer: torch.optim.Optimizer) -> None:
        self.problem = problem
        self.optimizer = optimizer
        self._base_rates = [group.get("lr") for group in optimizer.param_groups]

    def step(self, batch: Batch) -> StepResult:
        """Forward, backward, update; nothing is updated when a scaled gradient overflowed."""
        problem = self.problem
        loss = problem.loss(problem.outputs(batch), batch)
        gradients = problem.gradients(loss)
        if gradients.finite:
            with problem.phase("update"):
                for parameter, gradient in zip(problem.parameters, gradients.values, strict=True):
                    parameter.grad = gradient
                take_step(self.optimizer)
                self.optimizer.zero_grad(set_to_none=True)
        return StepResult(loss.detach(), gradients.finite)

    def scale_learning_rate(self, factor: float) -> None:
        """Use ``factor`` times the learning rate each parameter group was made with.

        Raises:
            UsageError: A group has none.
        """
        for group, rate in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            if rate is None:
                name = type(self.optimizer).__name__
                raise UsageError(f"{name} has no 'lr' in its groups and cannot follow a schedule; declare it constant")
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
        """All tensors that the optimizer holds, in its state and elsewhere, but for the model's."""
        model = self.problem.model
        known = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
        known |= {id(parameter.grad) for parameter in model.parameters()}
        held = tensors_in(vars(self.optimizer), without=(self.problem, model))
        return {"optimizer": [tensor for tensor in held if id(tensor) not in known]}
