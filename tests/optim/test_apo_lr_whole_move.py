"""APO-LR whose lookahead is all that a gradient moves the parameters over all steps: exact in float64."""

import copy
import math

import pytest
import torch
from support.problems import WEIGHTS, problem_of, some_batch, some_network
from support.theory import F64, FrozenLayer
from support.theory import WEIGHTS as FROZEN
from torch import Tensor, nn

from apo_bench.errors import UsageError
from apo_bench.optim.apo_lr import APOLR
from apo_bench.problem.objectives import CrossEntropy
from apo_bench.problem.problem import Problem

DECAY, MOMENTUM, RATE = 1e-2, 0.9, 0.03


def _rule(problem: Problem, *, dampening: float = 0.0, whole_move: bool = True) -> APOLR:
    base = torch.optim.SGD(problem.parameters, lr=RATE, momentum=MOMENTUM, dampening=dampening, weight_decay=DECAY)
    return APOLR(problem, base, weights=WEIGHTS, meta_lr=0.0, interval=3, whole_move=whole_move)


@pytest.mark.parametrize("dampening", [0.0, 0.9])
def test_the_meta_gradient_equals_finite_differences_of_q(dampening: float) -> None:
    """θ′ = θ − η (1 − dampening) (∇J_B(θ) + λ θ) / (1 − μ), with batch normalization and dropout."""
    network = some_network().double()
    problem = problem_of(network, dtype=F64)
    rule = _rule(problem, dampening=dampening)
    for seed in range(3):
        rule.step(some_batch(seed, F64))
    batch, other = some_batch(3, F64), some_batch(99, F64)
    twin, masks = copy.deepcopy(network), torch.get_rng_state()
    rule.step(batch)
    assert rule._psi.grad is not None

    def outputs(values: list[Tensor], data: Tensor) -> Tensor:
        model = copy.deepcopy(twin)
        with torch.no_grad(), torch.random.fork_rng([]):
            for parameter, value in zip(model.parameters(), values, strict=True):
                parameter.copy_(value)
            torch.set_rng_state(masks)
            out: Tensor = model(data)
        return out

    start = [parameter.detach().clone() for parameter in twin.parameters()]
    model = copy.deepcopy(twin)
    with torch.random.fork_rng([]):
        torch.set_rng_state(masks)
        loss = nn.functional.cross_entropy(model(batch.inputs[0]), batch.targets)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    length = RATE * (1.0 - dampening) / (1.0 - MOMENTUM)
    moves = [length * (g + DECAY * own) for g, own in zip(gradients, start, strict=True)]
    old = outputs(start, other.inputs[0])

    def objective(psi: float) -> float:
        ahead = [own - math.exp(psi) * move for own, move in zip(start, moves, strict=True)]
        loss = nn.functional.cross_entropy(outputs(ahead, batch.inputs[0]), batch.targets)
        discrepancy = CrossEntropy().discrepancy(outputs(ahead, other.inputs[0]), old, other)
        moved = sum(float((a - b).square().sum()) for a, b in zip(ahead, start, strict=True))
        penalty = sum(float(a.square().sum()) for a in ahead)
        return float(loss) + 0.7 * float(discrepancy) + 0.15 * moved + 0.5 * DECAY * penalty

    expected = (objective(1e-4) - objective(-1e-4)) / 2e-4
    assert rule._psi.grad.item() == pytest.approx(expected, rel=1e-6, abs=1e-10)


def test_at_meta_rate_0_it_is_the_base_optimizer_bit_for_bit() -> None:
    """The lookahead leaves no trace on the parameters, on batch normalization or on the random state."""
    ends = []
    for whole_move in (False, True):
        problem = problem_of(some_network())
        rule = _rule(problem, whole_move=whole_move)
        torch.manual_seed(5)
        for seed in range(7):
            rule.step(some_batch(seed))
        ends.append((problem.model.state_dict(), torch.get_rng_state()))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("mean", [0.0, 0.7, 5.0])
def test_the_learning_rate_around_heavy_ball_is_that_without_momentum(mean: float, apart: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """η* = (1 − μ) tr Σ / tr(M Σ), wherever mean and noise lie."""
    momentum = 0.5
    layer = FrozenLayer(torch.diag(torch.tensor([0.01, 1.0, 100.0], dtype=F64)))
    flat, steep = torch.zeros(2, 2, 3, dtype=F64).unbind()
    flat[0, 0] = 1.0
    steep[0, 2 if apart else 0] = 1.0
    gradients = [mean * flat + deviation * steep for deviation in (-1.0, 1.0)]
    vectors = torch.stack([gradient.mT.reshape(-1) for gradient in gradients])
    second = vectors.mT @ vectors / 2
    best = (1.0 - momentum) * float(second.trace() / (layer.M @ second).trace())

    def slope(rate: float) -> float:
        base = torch.optim.SGD(layer.problem.parameters, lr=rate, momentum=momentum)
        rule = APOLR(layer.problem, base, weights=FROZEN, meta_lr=0.0, interval=1, whole_move=True)
        found = []
        for gradient in gradients:
            layer.step(rule, gradient)
            assert rule._psi.grad is not None
            found.append(rule._psi.grad.item())
        return sum(found)

    assert slope(0.8 * best) < 0.0 < slope(1.25 * best)
    assert abs(slope(best)) < 1e-8 * abs(slope(2.0 * best))


def test_other_optimizers_are_refused() -> None:
    problem = problem_of(some_network())
    with pytest.raises(UsageError, match=r"APO-LR knows what a gradient moves over all steps of torch's SGD"):
        APOLR(problem, torch.optim.Adam(problem.parameters), weights=WEIGHTS, whole_move=True)
