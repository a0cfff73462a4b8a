"""Every registered optimizer, built on a small problem."""

import dataclasses

import pytest
import torch
from support.devices import policy_for
from torch import nn

from apo_bench.data.examples import Batch
from apo_bench.errors import UsageError
from apo_bench.plugins.registry import optimizers
from apo_bench.problem.objectives import CrossEntropy
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import UpdateRule
from apo_bench.records.spec import Precision, Scalar

ALL = optimizers().names()


def law_batch(seed: int) -> Batch:
    source = torch.Generator().manual_seed(seed)
    return Batch((torch.randn(16, 1, 6, 6, generator=source),), torch.randint(0, 3, (16,), generator=source))


def law_problem(model: nn.Module, precision: Precision = Precision.FP32) -> Problem:
    policy = policy_for(model, precision)
    policy.prepare(model)

    def additional() -> Batch:
        inputs, targets = law_batch(99)
        wide = next(model.parameters()).dtype is torch.float64
        return Batch((inputs[0].double(),), targets) if wide else Batch(inputs, targets)

    return Problem(model, CrossEntropy(), policy, additional)


def built(name: str, problem: Problem, **wanted: Scalar) -> UpdateRule:
    """The rule with its defaults, and those of ``wanted`` that it has."""
    competitor = optimizers()[name].load()
    fields = {field.name for field in dataclasses.fields(competitor.hyperparameters)}
    overrides = competitor.in_precision.get(problem.precision.precision, {})
    overrides = {**overrides, **{key: value for key, value in wanted.items() if key in fields}}
    try:
        rule: UpdateRule = competitor.build(problem, competitor.hyperparameters(**overrides))
    except UsageError as error:
        pytest.skip(f"refused with a clear line: {error}")
    return rule
