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
from apo_bench.problem.objectives import CrossEntropy
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import StepResult, TorchRule
from apo_bench.problem.shapes import ShapeError
from apo_bench.records.spec import Precision
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


class Shrinking(Moody):
    """A model whose third training batch is multiplied with a matrix that does not fit."""

    def forward(self, images: Tensor) -> Tensor:
        try:
            return super().forward(images)
        except ValueError:
            return images.flatten(1) @ images.new_ones(3, 4)


class Strict(CrossEntropy):
    """An objective that raises in the third step, from code beside the library's own."""

    steps = 0

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        if torch.is_grad_enabled() and outputs.requires_grad:
            Strict.steps += 1
        return super().loss(outputs[:, :2] if Strict.steps == 3 else outputs, batch)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_what_a_product_raises_below_the_model_is_not(precision: Precision) -> None:
    """In emulated fp16 the product is ours, and not the rule's, although a `TorchRule` stands in the same package."""
    task = dataclasses.replace(TASK, model=Shrinking)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(run_spec("sgdm", precision=precision), task, optimizers()["sgdm"].load(), CPU)


def test_what_an_objective_raises_is_not() -> None:
    Strict.steps = 0
    task = dataclasses.replace(TASK, objective=Strict())
    with pytest.raises(ShapeError, match="label 3 for outputs of 2 classes"):
        train(run_spec("sgdm"), task, optimizers()["sgdm"].load(), CPU)
