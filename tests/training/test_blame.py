"""An exception in a step is the optimizer's failure, unless the model, the data or the machine raised it."""

import dataclasses
from typing import Any

import pytest
import torch
from support.devices import CPU
from support.runs import TASK, run_spec
from torch import Tensor, nn

from apo_bench.data.examples import Batch
from apo_bench.errors import UsageError
from apo_bench.plugins.registry import optimizers
from apo_bench.plugins.task import Task
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import StepResult, TorchRule
from apo_bench.training.blame import RuleFailedError
from apo_bench.training.trainer import train


class Raising(TorchRule):
    """Raises at the third step, from itself or from a hook in the forward pass."""

    def __init__(self, problem: Problem, error: Exception, *, in_hook: bool = False) -> None:
        super().__init__(problem, torch.optim.SGD(problem.parameters, lr=0.05))
        self.error = error
        self.taken = 0
        if in_hook:
            next(iter(problem.model.children())).register_forward_hook(self._hook)
        self.in_hook = in_hook

    def _hook(self, *_: object) -> None:
        if self.taken == 3:
            raise self.error

    def step(self, batch: Batch) -> StepResult:
        self.taken += 1
        if self.taken == 3 and not self.in_hook:
            raise self.error
        return super().step(batch)


class Moody(nn.Module):
    """A model that raises at its third training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = TASK.model()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.calls += 1
            if self.calls == 3:
                raise ValueError("the model is in no mood")
        out: Tensor = self.inner(images)
        return out


def _train(build: Any, task: Task = TASK) -> None:
    competitor = dataclasses.replace(optimizers()["sgdm"].load(), build=build)
    train(run_spec("sgdm"), task, competitor, CPU)


@pytest.mark.parametrize("in_hook", [False, True])
@pytest.mark.parametrize(
    "error", [ValueError("singular"), UsageError("this layer is refused; use another"), KeyError(3)]
)
def test_what_the_rule_raises_is_its_failure(error: Exception, in_hook: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with pytest.raises(RuleFailedError) as caught:
        _train(lambda problem, _: Raising(problem, error, in_hook=in_hook))
    assert caught.value.step == 3
    assert str(error) in str(caught.value)


def test_what_the_rule_raises_while_it_is_made_is_its_failure() -> None:
    def build(problem: Problem, _: object) -> TorchRule:
        raise ZeroDivisionError("no layers")

    with pytest.raises(RuleFailedError, match="ZeroDivisionError: no layers") as caught:
        _train(build)
    assert caught.value.step == 0


@pytest.mark.parametrize("error", [OSError("disk"), MemoryError(), torch.OutOfMemoryError("cuda")])
def test_what_the_machine_raises_is_not(error: Exception) -> None:
    with pytest.raises(type(error)):
        _train(lambda problem, _: Raising(problem, error))


@pytest.mark.parametrize("optimizer", ["sgdm", "kfac", "apo-lr-sgdm"])
def test_what_the_model_raises_is_not(optimizer: str) -> None:
    task = dataclasses.replace(TASK, model=Moody)
    with pytest.raises(ValueError, match="in no mood"):
        train(run_spec(optimizer), task, optimizers()[optimizer].load(), CPU)
