"""Laws that hold for every registered optimizer."""

import copy
import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.optimizers import ALL, built, law_batch, law_problem
from torch import Tensor, nn

from apo_bench.data.examples import Batch
from apo_bench.errors import UsageError
from apo_bench.plugins.registry import optimizers
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import Schedulable, UpdateRule
from apo_bench.records.spec import Precision
from apo_bench.training.checkpoint import Checkpoints

PRECISIONS = [Precision.FP32, Precision.BF16, Precision.FP16, Precision.PURE_BF16, Precision.PURE_FP16]


def _network() -> nn.Module:
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*convolution, nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))


def _made(name: str, precision: Precision = Precision.FP32) -> tuple[Problem, UpdateRule]:
    torch.manual_seed(1)
    problem = law_problem(_network(), precision)
    return problem, built(name, problem)


def _parameters(problem: Problem) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in problem.parameters]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ALL)
def test_the_loss_falls(name: str, precision: Precision) -> None:
    _, rule = _made(name, precision)
    losses = [rule.step(law_batch(0)).loss.item() for _ in range(100)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ALL)
def test_save_load_continue_equals_uninterrupted(name: str, precision: Precision, tmp_path: Path) -> None:
    problem, rule = _made(name, precision)
    for seed in range(5):
        rule.step(law_batch(seed))
    checkpoints = Checkpoints(tmp_path, "a run")
    checkpoints.save({"model": problem.model.state_dict(), "problem": problem.state_dict(), "rule": rule.state_dict()})
    expected = [rule.step(law_batch(seed)).loss.item() for seed in range(5, 10)]

    problem_2, rule_2 = _made(name, precision)
    saved = checkpoints.load()
    assert saved is not None
    problem_2.model.load_state_dict(saved["model"])
    problem_2.load_state_dict(saved["problem"])
    rule_2.load_state_dict(saved["rule"])
    assert [rule_2.step(law_batch(seed)).loss.item() for seed in range(5, 10)] == expected
    for one, other in zip(_parameters(problem), _parameters(problem_2), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ALL)
def test_zero_gradient_and_no_decay_leaves_parameters(name: str) -> None:
    problem, _ = _made(name)
    rule = built(name, problem, weight_decay=0.0)
    before = _parameters(problem)
    problem.loss = lambda outputs, batch: (outputs * 0.0).sum()  # type: ignore[method-assign] # a loss that is constant on purpose
    for seed in range(2):  # the first step of some only gathers statistics
        rule.step(law_batch(seed))
    for one, other in zip(before, _parameters(problem), strict=True):
        assert torch.equal(one, other)


def _small_network() -> nn.Module:
    """Layers so nearly square that the gradient of a batch leaves no Kronecker factor two eigenvalues that are zero.

    Where it does, an eigenbasis is anyone's choice: see `test_soap_follows_rounding_where_its_eigenbasis_is_free`.
    """
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.AvgPool2d(4), nn.Flatten())
    return nn.Sequential(*convolution, nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))


def _ends_of_both_orders(name: str, network: Callable[[], nn.Module]) -> list[list[Tensor]]:
    """Parameters after three steps in float64, with the examples of each batch in two orders."""
    order = torch.randperm(16, generator=torch.Generator().manual_seed(4))
    ends = []
    for permuted in (False, True):
        torch.manual_seed(1)
        problem = law_problem(network().double())
        # the true Fisher draws targets by place, and a share of the batch is its first examples
        rule = built(name, problem, fisher="empirical", factor_share=1.0, meta_share=1.0)
        for seed in range(3):
            batch = law_batch(seed)
            batch = Batch((batch.inputs[0].double(),), batch.targets)
            rule.step(Batch((batch.inputs[0][order],), batch.targets[order]) if permuted else batch)
        ends.append(_parameters(problem))
    return ends


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_examples_in_a_batch_does_not_matter(name: str) -> None:
    one, other = _ends_of_both_orders(name, _small_network)
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_an_update_is_proportional_to_the_scheduled_factor(name: str) -> None:
    moves = []
    for factor in (1.0, 0.25):
        problem, _ = _made(name)
        rule = built(name, problem, meta_lr=0.0)  # what is learned answers to the step's length
        if not isinstance(rule, Schedulable):
            pytest.skip("follows no schedule")
        rule.step(law_batch(0))  # the first step of some only gathers statistics
        before = _parameters(problem)
        rule.scale_learning_rate(factor)
        rule.step(law_batch(1))
        moves.append([after - start for after, start in zip(_parameters(problem), before, strict=True)])
    assert any(whole.any() for whole in moves[0])
    for whole, quarter in zip(*moves, strict=True):
        torch.testing.assert_close(quarter, 0.25 * whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ALL)
def test_evaluating_does_not_disturb_training(name: str, precision: Precision) -> None:
    ends = []
    for evaluates in (False, True):
        problem, rule = _made(name, precision)
        losses = []
        for seed in range(6):
            losses.append(rule.step(law_batch(seed)).loss.item())
            if evaluates:
                with rule.evaluating(), torch.no_grad():
                    problem.model.eval()
                    problem.outputs(law_batch(50))
                    problem.model.train()
        ends.append((losses, dict(problem.model.state_dict()), torch.get_rng_state()))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


def _counters(state: Any) -> Iterator[float]:
    """Numbers of steps in a tree of state; those of a meta-optimizer, which takes fewer, lie under ``meta``."""
    if isinstance(state, Mapping):
        for key, value in state.items():
            if key in {"step", "steps", "k"}:
                yield float(value)
            elif key != "meta":
                yield from _counters(value)
    elif isinstance(state, Sequence) and not isinstance(state, str):
        for value in state:
            yield from _counters(value)


@pytest.mark.parametrize("name", ALL)
def test_after_n_steps_every_counter_says_n(name: str) -> None:
    _, rule = _made(name)
    for seed in range(12):
        rule.step(law_batch(seed))
    found = list(_counters(rule.state_dict()))
    if not found:
        pytest.skip("counts nothing")
    assert set(found) == {12.0}


@pytest.mark.parametrize("name", ALL)
def test_nothing_piles_up_over_200_steps(name: str) -> None:
    """Neither tensors nor graphs of gradients, nor hooks or attributes of the model's modules."""
    torch.manual_seed(1)
    model = _network()
    traces = _traces(model)
    graphs = sum(tensor.grad_fn is not None for tensor in _live_tensors())
    rule = built(name, law_problem(model), start_steps=10)
    for seed in range(20):
        rule.step(law_batch(seed))
    tensors = len(_live_tensors())
    for seed in range(200):
        rule.step(law_batch(seed))
    live = _live_tensors()
    assert len(live) == tensors
    assert sum(tensor.grad_fn is not None for tensor in live) == graphs
    assert _traces(model) == traces


def _live_tensors() -> list[Tensor]:
    gc.collect()
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]


def _traces(model: nn.Module) -> list[tuple[list[str], int]]:
    """Attributes of every module, and how many hooks hang on it; likewise for every parameter."""
    return [
        (sorted(vars(part)), sum(len(value or ()) for key, value in vars(part).items() if "hooks" in key))
        for part in (*model.modules(), *model.parameters())
    ]


class _Unused(nn.Module):
    """A network with a layer that its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(4, 4)
        self.used = _network()

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.used(images)
        return out


def _tied(*, one_module: bool) -> nn.Module:
    """One weight used twice: by one module, or by two that share it."""
    first, second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    second.weight = first.weight
    second = first if one_module else second
    return nn.Sequential(
        nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), first, nn.Tanh(), second, nn.Tanh(), nn.Linear(8, 3)
    )


def _trained(name: str, model: nn.Module) -> list[float]:
    """Losses of steps on one batch; a model that the optimizer refuses with a clear line is skipped."""
    rule = built(name, law_problem(model))
    try:
        return [rule.step(law_batch(0)).loss.item() for _ in range(12)]
    except UsageError as error:
        pytest.skip(f"refused with a clear line: {error}")


@pytest.mark.parametrize("name", ALL)
def test_frozen_parameters_stay(name: str) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(*_network().children())
    model[0].requires_grad_(requires_grad=False)
    model[4].bias.requires_grad_(requires_grad=False)  # type: ignore[call-arg] # torch types submodules loosely
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    before = copy.deepcopy(frozen)
    losses = _trained(name, model)
    assert losses[-1] < losses[0]
    torch.testing.assert_close(frozen, before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_parameters_that_the_loss_does_not_reach_stay(name: str) -> None:
    torch.manual_seed(1)
    model = _Unused()
    before = copy.deepcopy(model.unused.state_dict())
    losses = _trained(name, model)
    assert losses[-1] < losses[0]
    torch.testing.assert_close(model.unused.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_a_weight_of_two_modules_steps_as_that_of_one_used_twice(name: str) -> None:
    ends = []
    for one_module in (False, True):
        torch.manual_seed(1)
        model = _tied(one_module=one_module)
        losses = _trained(name, model)
        assert losses[-1] < losses[0]
        assert model[3].weight is model[5].weight  # type: ignore[index] # torch and pandas type this loosely
        ends.append((losses, list(model.parameters())))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


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
        batch = law_batch(seed)
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
    losses = [usual.step(law_batch(0)).loss.item() for _ in range(10)]
    assert math.isnan(losses[-1])


def test_soap_follows_rounding_where_its_eigenbasis_is_free() -> None:
    """Its eigenbasis is made from one batch's gradient, whose factors have null spaces of many dimensions.

    Any basis of such a null space will do, rounding picks one, and the next gradients are scaled elementwise in it.
    """
    one, other = _ends_of_both_orders("soap", _network)
    assert any(not torch.allclose(a, b, rtol=1e-2, atol=1e-6) for a, b in zip(one, other, strict=True))
