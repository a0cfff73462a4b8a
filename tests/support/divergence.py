"""Runs that are made to diverge."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from support.devices import CPU
from support.runs import TASK, run_spec
from torch import Tensor, nn

from apo_bench.data.examples import Batch
from apo_bench.plugins.registry import optimizers
from apo_bench.plugins.task import Task
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import StepResult, UpdateRule
from apo_bench.records.outcome import Diverged, NonFinite, Reason
from apo_bench.records.spec import RunSpec
from apo_bench.training.checkpoint import Checkpoints
from apo_bench.training.result import Training
from apo_bench.training.trainer import train

INF = float("inf")
LOSS = Reason.TRAINING_LOSS
Change = Callable[["Changed"], None]


class Changed:
    """Any rule, with something done before or after a step; counts its steps also where a checkpoint was taken up.

    Attributes:
        made: Number of steps that this object took.
    """

    def __init__(self, rule: UpdateRule, problem: Problem, before: Change, after: Change) -> None:
        self.rule = rule
        self.problem = problem
        self.before = before
        self.after = after
        self.taken = 0
        self.made = 0

    def step(self, batch: Batch) -> StepResult:
        self.taken += 1
        self.made += 1
        self.before(self)
        result = self.rule.step(batch)
        self.after(self)
        return result

    def parameter(self, name: str) -> Tensor:
        return self.problem.model.get_parameter(name).data

    def state_dict(self) -> dict[str, Any]:
        return {"rule": self.rule.state_dict(), "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rule.load_state_dict(state["rule"])
        self.taken = state["taken"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rule, name)


def nothing(_: Changed) -> None:
    pass


def run_changed(
    optimizer: str = "sgdm",
    *,
    before: Change = nothing,
    after: Change = nothing,
    task: Task = TASK,
    checkpoints: Checkpoints | None = None,
    made: list[Changed] | None = None,
    spec: RunSpec | None = None,
    **fields: Any,
) -> Training:
    own = optimizers()[optimizer].load()

    def build(problem: Problem, h: object) -> UpdateRule:
        rule = Changed(own.build(problem, h), problem, before, after)
        if made is not None:
            made.append(rule)
        return rule

    run = spec or run_spec(optimizer, **fields)
    return train(run, task, dataclasses.replace(own, build=build), CPU, checkpoints=checkpoints)


def diverged_outcome(training: Training) -> Diverged:
    assert isinstance(training.outcome, Diverged)
    return training.outcome


def first_finding(training: Training) -> NonFinite | None:
    return diverged_outcome(training).first


def spoil_parameter(step: int, name: str) -> Change:
    def after(rule: Changed) -> None:
        if rule.taken == step:
            rule.parameter(name).view(-1)[0] = INF

    return after


def plain_task(*layers: nn.Module) -> Task:
    """A task whose network has no dropout and no normalization, so that an overflow is easily placed."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), *copy.deepcopy(layers))  # a run must not start from another's weights

    return dataclasses.replace(TASK, model=model, augmentation=None, evaluation_interval=10)
