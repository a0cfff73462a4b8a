"""Laws that hold for every registered optimizer."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from apo_bench.data.examples import Batch
from apo_bench.errors import UsageError
from apo_bench.registry import optimizers
from apo_bench.spec import Precision, Scalar
from apo_bench.training.objectives import CrossEntropy
from apo_bench.training.precision import PrecisionPolicy
from apo_bench.training.problem import Problem, UpdateRule

ALL = optimizers().names()
PRECISIONS = [Precision.FP32, Precision.BF16, Precision.FP16, Precision.PURE_BF16, Precision.PURE_FP16]


def _batch(seed: int) -> Batch:
    source = torch.Generator().manual_seed(seed)
    return Batch((torch.randn(16, 1, 6, 6, generator=source),), torch.randint(0, 3, (16,), generator=source))


def _made(name: str, precision: Precision = Precision.FP32) -> tuple[Problem, UpdateRule]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    policy = PrecisionPolicy(precision, torch.device("cpu"))
    policy.prepare(model)

    def additional() -> Batch:
        inputs, targets = _batch(99)
        wide = model[0].weight.dtype is torch.float64
        return Batch((inputs[0].double(),), targets) if wide else Batch(inputs, targets)

    problem = Problem(model, CrossEntropy(), policy, additional)
    return problem, _built(name, problem)


def _built(name: str, problem: Problem, **wanted: Scalar) -> UpdateRule:
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


def _parameters(problem: Problem) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in problem.parameters]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ALL)
def test_the_loss_falls(name: str, precision: Precision) -> None:
    _, rule = _made(name, precision)
    losses = [rule.step(_batch(0)).loss.item() for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ALL)
def test_save_load_continue_equals_uninterrupted(name: str, precision: Precision) -> None:
    problem, rule = _made(name, precision)
    for seed in range(5):
        rule.step(_batch(seed))
    saved = copy.deepcopy((problem.model.state_dict(), problem.state_dict(), rule.state_dict()))
    expected = [rule.step(_batch(seed)).loss.item() for seed in range(5, 10)]

    problem_2, rule_2 = _made(name, precision)
    model_state, problem_state, rule_state = saved
    problem_2.model.load_state_dict(model_state)
    problem_2.load_state_dict(problem_state)
    rule_2.load_state_dict(rule_state)
    assert [rule_2.step(_batch(seed)).loss.item() for seed in range(5, 10)] == expected
    for one, other in zip(_parameters(problem), _parameters(problem_2), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ALL)
def test_zero_gradient_and_no_decay_leaves_parameters(name: str) -> None:
    problem, _ = _made(name)
    rule = _built(name, problem, weight_decay=0.0)
    before = _parameters(problem)
    problem.loss = lambda outputs, batch: (outputs * 0.0).sum()  # type: ignore[method-assign]
    rule.step(_batch(0))
    for one, other in zip(before, _parameters(problem), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_examples_in_a_batch_does_not_matter(name: str) -> None:
    order = torch.randperm(16, generator=torch.Generator().manual_seed(4))
    ends = []
    for permuted in (False, True):
        problem, _ = _made(name)
        problem.model.double()
        rule = _built(name, problem, fisher="empirical")  # targets drawn for the true Fisher belong to a place
        for seed in range(3):
            batch = _batch(seed)
            batch = Batch((batch.inputs[0].double(),), batch.targets)
            rule.step(Batch((batch.inputs[0][order],), batch.targets[order]) if permuted else batch)
        ends.append(_parameters(problem))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_an_update_is_proportional_to_the_scheduled_factor(name: str) -> None:
    moves = []
    for factor in (1.0, 0.25):
        problem, _ = _made(name)
        rule = _built(name, problem, meta_lr=0.0)  # what is learned answers to the step's length
        if not hasattr(rule, "scale_learning_rate"):
            pytest.skip("follows no schedule")
        before = _parameters(problem)
        rule.scale_learning_rate(factor)
        rule.step(_batch(0))
        moves.append([after - start for after, start in zip(_parameters(problem), before, strict=True)])
    for whole, quarter in zip(*moves, strict=True):
        torch.testing.assert_close(quarter, 0.25 * whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_hyperparameters_are_documented(name: str) -> None:
    competitor = optimizers()[name].load()
    assert competitor.title
    assert competitor.reference


def test_sgdm_is_the_heavy_ball() -> None:
    """θ ← θ − η v with v ← μ v + g, no dampening, no Nesterov (Polyak, 1964)."""
    problem, rule = _made("sgdm")
    competitor = optimizers()["sgdm"].load()
    rate, momentum = competitor.hyperparameters().lr, competitor.hyperparameters().momentum
    shadow = copy.deepcopy(problem.model)
    velocity = [torch.zeros_like(parameter) for parameter in shadow.parameters()]
    for seed in range(4):
        batch = _batch(seed)
        rule.step(batch)
        loss = nn.functional.cross_entropy(shadow(batch.inputs[0]), batch.targets)
        gradients = torch.autograd.grad(loss, list(shadow.parameters()))
        with torch.no_grad():
            for parameter, gradient, v in zip(shadow.parameters(), gradients, velocity, strict=True):
                v.mul_(momentum).add_(gradient)
                parameter.sub_(rate * v)
    for one, other in zip(problem.parameters, shadow.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_adam_in_pure_fp16_needs_an_epsilon_that_fp16_can_hold() -> None:
    """The usual 1e-8 is 0 in fp16, and so is v where gradients are below 2⁻¹²: 0 / 0."""
    problem, _ = _made("adam", Precision.PURE_FP16)
    competitor = optimizers()["adam"].load()
    usual = competitor.build(problem, competitor.hyperparameters(eps=1e-8))
    losses = [usual.step(_batch(0)).loss.item() for _ in range(10)]
    assert math.isnan(losses[-1])
