"""APO-LR: exact in float64, bit for bit its base at meta-rate 0, and right under every precision."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.devices import policy_for
from support.problems import WEIGHTS, problem_of, some_batch, some_network
from torch import Tensor, nn

from apo_bench.data.examples import Batch
from apo_bench.errors import UsageError
from apo_bench.optim.apo_lr import APOLR, check_linear
from apo_bench.optim.combined import Combined
from apo_bench.optim.meta import MetaOptimizer
from apo_bench.optim.proximal import ProximalObjective, ProximalWeights
from apo_bench.problem.objectives import CrossEntropy, SquaredError
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import TorchRule
from apo_bench.records.spec import Precision

BASES: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=1e-2),
    "sgdm": lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9, weight_decay=1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=1e-2),
    "muon": lambda p: Combined(
        torch.optim.Muon([q for q in p if q.ndim == 2], lr=1e-2, weight_decay=1e-2),
        torch.optim.AdamW([q for q in p if q.ndim != 2], lr=1e-3, weight_decay=1e-2),
    ),
}
DECOUPLED = {"adamw", "muon"}
"""Bases whose weight decay does not act through the gradient."""


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP16])
@pytest.mark.parametrize("base", BASES)
def test_t7_meta_rate_0_is_the_base_optimizer_bit_for_bit(base: str, precision: Precision) -> None:
    """Also its batch-normalization statistics, its dropout masks and its loss scale."""
    ends = []
    for adaptive in (False, True):
        problem = problem_of(some_network(), precision)
        optimizer = BASES[base](problem.parameters)
        rule: Any = TorchRule(problem, optimizer)
        if adaptive:
            rule = APOLR(problem, optimizer, weights=WEIGHTS, meta_lr=0.0, interval=2)
        torch.manual_seed(5)
        for seed in range(9):
            rule.step(some_batch(seed))
        ends.append(
            (problem.model.state_dict(), optimizer.state_dict()["state"], problem.scale(), torch.get_rng_state())
        )
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


@pytest.mark.parametrize("base", BASES)
def test_t6_the_meta_gradient_equals_finite_differences_of_q(base: str) -> None:
    """With momentum and weight decay, coupled and decoupled; in float64, after some steps."""
    network = some_network().double()
    problem = problem_of(network, dtype=torch.float64)
    optimizer = BASES[base](problem.parameters)
    rule = APOLR(problem, optimizer, weights=WEIGHTS, meta_lr=0.0, interval=4)
    for seed in range(4):
        rule.step(some_batch(seed, torch.float64))
    batch = some_batch(4, torch.float64)
    start = [parameter.detach().clone() for parameter in problem.parameters]
    buffers = copy.deepcopy(network.state_dict())
    masks = torch.get_rng_state()
    rule.step(batch)
    assert rule._psi.grad is not None
    got = rule._psi.grad.item()
    ends = [parameter.detach().clone() for parameter in problem.parameters]

    decay = 0.0 if base in DECOUPLED else 1e-2
    old = _outputs(network, buffers, start, masks, some_batch(99, torch.float64))

    def objective(psi: float) -> float:
        ahead = [a + math.exp(psi) * (b - a) for a, b in zip(start, ends, strict=True)]
        outputs = _outputs(network, buffers, ahead, masks, batch)
        loss = nn.functional.cross_entropy(outputs, batch.targets)
        new = _outputs(network, buffers, ahead, masks, some_batch(99, torch.float64))
        moved = sum(float((a - b).square().sum()) for a, b in zip(ahead, start, strict=True))
        penalty = sum(float(a.square().sum()) for a in ahead)
        discrepancy = float(CrossEntropy().discrepancy(new, old, batch))
        return float(loss) + 0.7 * discrepancy + 0.15 * moved + 0.5 * decay * penalty

    step = 1e-4
    expected = (objective(step) - objective(-step)) / (2 * step)
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-10)


def _outputs(
    network: nn.Module, buffers: dict[str, Tensor], parameters: list[Tensor], masks: Tensor, batch: Batch
) -> Tensor:
    twin = copy.deepcopy(network)
    twin.load_state_dict(buffers)
    with torch.no_grad(), torch.random.fork_rng([]):
        for parameter, value in zip(twin.parameters(), parameters, strict=True):
            parameter.copy_(value)
        torch.set_rng_state(masks)
        out: Tensor = twin(batch.inputs[0])
    return out


def test_t1d_the_best_learning_rate_on_an_exact_quadratic() -> None:
    """η* = E‖g‖² / E[gᵀ (H + λ_FSD G + λ_WSD I) g]: there the meta-gradients of production code sum to zero."""
    inputs = torch.randn(12, 5, dtype=torch.float64)
    hessian = inputs.mT @ inputs / 12
    batches = [Batch((inputs,), torch.randn(12, 2, dtype=torch.float64)) for _ in range(20)]
    matrix = hessian + 0.7 * hessian + 0.3 * torch.eye(5, dtype=torch.float64)

    def meta_gradients(rate: float) -> tuple[Tensor, float]:
        found, squares, curvatures = [], 0.0, 0.0
        for batch in batches:
            torch.manual_seed(0)
            model = nn.Linear(5, 2, bias=False).double()
            problem = Problem(model, SquaredError(), policy_for(model), lambda: batches[0])
            gradient = torch.autograd.grad(problem.loss(problem.outputs(batch), batch), model.weight)[0]
            squares += float(gradient.square().sum())
            curvatures += float((gradient @ matrix * gradient).sum())
            rule = APOLR(problem, torch.optim.SGD(model.parameters(), lr=rate), weights=WEIGHTS, meta_lr=0.0)
            rule.step(batch)
            assert rule._psi.grad is not None
            found.append(rule._psi.grad.item())
        return torch.tensor(found, dtype=torch.float64), squares / curvatures

    _, best = meta_gradients(0.01)
    at_best, _ = meta_gradients(best)
    assert abs(float(at_best.sum())) < 1e-8 * float(at_best.abs().sum())
    below, _ = meta_gradients(0.9 * best)
    above, _ = meta_gradients(1.1 * best)
    assert float(below.sum()) < 0.0 < float(above.sum())


def test_meta_descent_finds_that_rate() -> None:
    """At a frozen θ, from three decades of initial rates."""
    inputs = torch.randn(12, 5, dtype=torch.float64)
    hessian = inputs.mT @ inputs / 12
    targets = torch.randn(12, 2, dtype=torch.float64)
    batch = Batch((inputs,), targets)
    matrix = 1.7 * hessian + 0.3 * torch.eye(5, dtype=torch.float64)
    for initial in (1e-3, 1e-2, 1e-1):
        torch.manual_seed(0)
        model = nn.Linear(5, 2, bias=False).double()
        start = model.weight.detach().clone()
        problem = Problem(model, SquaredError(), policy_for(model), lambda: batch)
        rule = APOLR(
            problem,
            torch.optim.SGD(model.parameters(), lr=initial),
            weights=WEIGHTS,
            meta_lr=0.02,
            meta_optimizer=MetaOptimizer.ADAM,
            interval=1,
        )
        gradient = torch.autograd.grad(problem.loss(problem.outputs(batch), batch), model.weight)[0]
        best = float(gradient.square().sum() / (gradient @ matrix * gradient).sum())
        for _ in range(800):
            rule.step(batch)
            with torch.no_grad():
                model.weight.copy_(start)
        assert rule.learning_rates[0] == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP16])
def test_q_is_evaluated_at_the_swapped_parameters(precision: Precision) -> None:
    """Against a deep copy of the model: a stale autocast cache would give the gradient at θ."""
    network = some_network()
    problem = problem_of(network, precision)
    batch = some_batch(0)
    state = problem.random_state()
    loss = problem.loss(problem.outputs(batch), batch)
    g = problem.gradients(loss).values
    objective = ProximalObjective(problem, batch, state, WEIGHTS)
    with torch.no_grad():
        for parameter, gradient in zip(problem.parameters, g, strict=True):
            parameter.sub_(gradient, alpha=0.5)  # type: ignore[arg-type] # the loss reaches all
    q = objective.gradient()
    twin = copy.deepcopy(network)
    other = problem_of(twin, precision)
    with other.lookahead(state):
        expected_loss = other.loss(other.outputs(batch), batch)
    with other.lookahead(state):
        expected_loss = expected_loss + 0.7 * other.discrepancy(
            other.outputs(some_batch(99)), objective._old_outputs, batch
        )
    expected = other.gradients(expected_loss, "meta").values
    for index, (got, want) in enumerate(zip(q.values, expected, strict=True)):
        assert got is not None
        assert want is not None
        moved = problem.parameters[index].detach() - objective.start[index]
        torch.testing.assert_close(got, want + 0.3 * moved, rtol=1e-5, atol=1e-7)
    assert float((q.values[-2] - g[-2]).norm() / g[-2].norm()) > 0.1  # type: ignore[operator, union-attr] # the loss reaches all


def test_t4_at_unmoved_parameters_the_discrepancy_and_its_gradient_vanish() -> None:
    """With batch normalization and dropout: q is then the step's own gradient."""
    network = some_network().double()
    problem = problem_of(network, dtype=torch.float64)
    batch = some_batch(0, torch.float64)
    state = problem.random_state()
    g = problem.gradients(problem.loss(problem.outputs(batch), batch)).values
    q = ProximalObjective(problem, batch, state, ProximalWeights(fsd=100.0, wsd=100.0)).gradient().values
    for got, want in zip(q, g, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_an_overflow_of_q_skips_the_rate_and_not_the_step() -> None:
    problem = problem_of(some_network(dropout=0.0), Precision.FP16)
    rule = APOLR(problem, torch.optim.SGD(problem.parameters, lr=0.1), weights=WEIGHTS, interval=1)
    problem._scale("meta").value = 2.0**50
    before = [parameter.detach().clone() for parameter in problem.parameters]
    assert rule.step(some_batch(0)).applied
    assert (rule.meta_updates, rule.learning_rates) == (0, [0.1])
    assert not torch.equal(before[0], problem.parameters[0])
    assert problem.scale("meta") == 2.0**49


def test_an_overflow_of_g_skips_everything() -> None:
    problem = problem_of(some_network(), Precision.FP16)
    rule = APOLR(problem, torch.optim.SGD(problem.parameters, lr=0.1), weights=WEIGHTS, interval=1)
    problem._scale("base").value = 2.0**50
    before = [parameter.detach().clone() for parameter in problem.parameters]
    assert not rule.step(some_batch(0)).applied
    assert (rule.meta_updates, rule.steps) == (0, 0)
    assert all(torch.equal(one, other) for one, other in zip(before, problem.parameters, strict=True))


@pytest.mark.parametrize("base", BASES)
def test_updates_that_are_linear_in_their_rate_are_accepted(base: str) -> None:
    network = some_network()
    optimizer = BASES[base](list(network.parameters()))
    before = _filled(network, optimizer)
    check_linear(optimizer)
    torch.testing.assert_close((network.state_dict(), optimizer.state_dict()["state"]), before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [torch.optim.ASGD, torch.optim.Rprop])
def test_others_are_refused_with_a_clear_line(kind: type[torch.optim.Optimizer]) -> None:
    network = some_network()
    optimizer = kind(network.parameters(), lr=0.01)  # type: ignore[call-arg] # each kind takes it
    _filled(network, optimizer)
    with pytest.raises(UsageError, match=f"APO-LR needs .* of {kind.__name__} "):
        check_linear(optimizer)


def _filled(network: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """Take two steps, and leave gradients for a third."""
    for seed in range(3):
        batch = some_batch(seed)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(batch.inputs[0]), batch.targets).backward()
        if seed < 2:
            optimizer.step()
    return copy.deepcopy((network.state_dict(), optimizer.state_dict()["state"]))


def test_one_rate_or_one_for_each_group() -> None:
    network = some_network(dropout=0.0)
    problem = problem_of(network)
    groups = [{"params": list(network[0].parameters()), "lr": 0.1}, {"params": list(network[5].parameters())}]
    rates = {}
    for per_group in (False, True):
        optimizer = torch.optim.SGD([dict(group) for group in groups], lr=0.01)  # type: ignore[call-overload] # a group of parameters
        rule = APOLR(problem, optimizer, weights=WEIGHTS, interval=1, per_group=per_group)
        for seed in range(4):
            rule.step(some_batch(seed))
        rates[per_group] = rule.learning_rates
        assert [group["lr"] for group in optimizer.param_groups] == rule.learning_rates
    assert rates[False][0] / rates[False][1] == pytest.approx(10.0)
    assert rates[True][0] / rates[True][1] != pytest.approx(10.0, rel=1e-3)


def test_bounds_hold() -> None:
    problem = problem_of(some_network(dropout=0.0))
    optimizer = torch.optim.SGD(problem.parameters, lr=0.1)
    rule = APOLR(problem, optimizer, weights=WEIGHTS, meta_lr=5.0, interval=1, bounds=(0.05, 0.2))
    seen = []
    for seed in range(12):
        rule.step(some_batch(seed))
        seen.append(rule.learning_rates[0])
    assert all(0.05 * (1 - 1e-12) <= rate <= 0.2 * (1 + 1e-12) for rate in seen)
    assert any(rate == pytest.approx(bound) for rate in seen for bound in (0.05, 0.2))


@pytest.mark.parametrize("precision", [Precision.PURE_BF16, Precision.PURE_FP16])
def test_parameters_in_16_bit_are_refused(precision: Precision) -> None:
    problem = problem_of(some_network(), precision)
    with pytest.raises(UsageError, match="APO-LR needs parameters in 32 bit"):
        APOLR(problem, torch.optim.SGD(problem.parameters, lr=0.1), weights=WEIGHTS)


def test_negative_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="not negative"):
        ProximalWeights(fsd=-1.0, wsd=0.0)


def test_parameters_that_the_loss_does_not_reach_stay() -> None:
    network = some_network()
    network.register_parameter("unused", nn.Parameter(torch.ones(3)))
    problem = problem_of(network)
    rule = APOLR(problem, torch.optim.SGD(problem.parameters, lr=0.1), weights=WEIGHTS, interval=1)
    for seed in range(4):
        rule.step(some_batch(seed))
    assert torch.equal(network.unused, torch.ones(3))  # type: ignore[arg-type] # torch types it loosely
    assert rule.meta_updates == 4
