"""APO-P: how fast A, B and S move by their width, and a scale for each layer; exact in float64."""

import copy
from typing import Any

import pytest
import torch
from support.devices import policy_for
from support.problems import WEIGHTS, problem_of, some_batch, some_network
from torch import Tensor, nn
from torch.func import functional_call

from apo_bench.data.examples import Batch
from apo_bench.errors import UsageError
from apo_bench.optim import kronecker
from apo_bench.optim.apo_p import APOP
from apo_bench.optim.kronecker import AnyFactors
from apo_bench.optim.layers import from_matrix, to_matrix
from apo_bench.problem.objectives import CrossEntropy
from apo_bench.problem.problem import Problem

F64 = torch.float64


def test_a_meta_update_moves_a_and_b_by_no_more_than_n0_alpha_in_the_spectral_norm() -> None:
    """Whatever the width; with one α for all entries it grows with it. The first step of Adam is α times the sign."""
    rate, width, grown = 1e-3, 32, {}
    for features in (16, 64, 400):
        torch.manual_seed(0)
        model = nn.Linear(features, 8, bias=False)
        batch = Batch((torch.rand(16, features),), torch.randint(0, 8, (16,)))
        for meta_width in (0, width):
            twin = copy.deepcopy(model)
            problem = Problem(twin, CrossEntropy(), policy_for(twin), lambda: batch)  # noqa: B023 - used in this pass
            rule = APOP(problem, lr=0.1, weights=WEIGHTS, meta_lr=rate, interval=1, meta_width=meta_width)
            rule.step(batch)
            A = rule.factors[0].A_II
            grown[features, meta_width] = float(torch.linalg.matrix_norm(A - torch.eye(features), 2))
    assert all(grown[features, width] <= width * rate * (1 + 1e-4) for features in (16, 64, 400))
    assert grown[16, width] == grown[16, 0]  # narrower than n₀
    assert grown[400, 0] > 0.5 * 400 * rate
    assert grown[400, width] == pytest.approx(grown[400, 0] * width / 400, rel=1e-3)


def test_the_meta_gradient_of_the_scales_equals_autograd_through_the_unrolled_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And that of A, B and S with them; momentum, weight decay, batch normalization and dropout."""
    network = some_network().double()
    problem = problem_of(network, dtype=F64)
    rule = APOP(problem, lr=0.2, weights=WEIGHTS, meta_lr=1e-2, interval=3, weight_decay=1e-2, scale_lr=0.3)
    for seed in range(3):
        rule.step(some_batch(seed, F64))
    caught: list[AnyFactors] = []
    original = kronecker.meta_gradient

    def spy(*given: Any) -> AnyFactors:
        caught.append(original(*given))
        return caught[-1]

    monkeypatch.setattr(kronecker, "meta_gradient", spy)
    assert rule._log_scales is not None
    in_scales: list[Tensor] = []
    step = rule._meta.step

    def spied() -> None:
        assert rule._log_scales is not None
        assert rule._log_scales.grad is not None
        in_scales.append(rule._log_scales.grad.clone())
        step()

    monkeypatch.setattr(rule._meta, "step", spied)
    batch, other = some_batch(3, F64), some_batch(99, F64)
    start = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    log_scales = rule._log_scales.detach().clone().requires_grad_()
    assert float(log_scales.detach().abs().min()) > 0.1
    factors = [type(own)._make(part.detach().clone().requires_grad_() for part in own) for own in rule.factors]
    masks = torch.get_rng_state()
    rule.step(batch)

    averages = list(rule._buffers.values())
    directions = list(averages)
    for layer, own, scale in zip(rule.layers, factors, log_scales.exp(), strict=True):
        matrix = scale * kronecker.precondition(own, to_matrix(layer, averages))
        for place, part in from_matrix(layer, matrix, averages).items():
            directions[place] = part
    ahead = {name: own - 0.2 * directions[place] for place, (name, own) in enumerate(start.items())}

    def outputs(parameters: dict[str, Tensor], data: Batch) -> Tensor:
        torch.set_rng_state(masks)
        state = {name: buffer.clone() for name, buffer in buffers.items()}
        out: Tensor = functional_call(network, {**parameters, **state}, data.inputs)
        return out

    loss = nn.functional.cross_entropy(outputs(ahead, batch), batch.targets)
    discrepancy = CrossEntropy().discrepancy(outputs(ahead, other), outputs(start, other).detach(), other)
    moved = torch.stack([(ahead[name] - start[name]).square().sum() for name in start]).sum()
    penalty = torch.stack([value.square().sum() for value in ahead.values()]).sum()
    objective = loss + 0.7 * discrepancy + 0.15 * moved + 0.5e-2 * penalty
    expected = torch.autograd.grad(objective, [log_scales, *(part for own in factors for part in own)])
    for one, want in zip([*in_scales, *(part for own in caught for part in own)], expected, strict=True):
        assert float((one - want).abs().max() / want.abs().max()) < 1e-10


def test_a_state_brings_the_scales_back() -> None:
    rules = [
        APOP(problem_of(some_network()), lr=0.1, weights=WEIGHTS, meta_lr=1e-2, interval=1, scale_lr=0.1)
        for _ in range(2)
    ]
    for seed in range(3):
        rules[0].step(some_batch(seed))
    rules[1].problem.model.load_state_dict(rules[0].problem.model.state_dict())
    rules[1].load_state_dict(copy.deepcopy(rules[0].state_dict()))
    ends = []
    for rule in rules:
        torch.manual_seed(7)
        rule.step(some_batch(3))
        ends.append((rule.problem.model.state_dict(), dict(rule.readings())))
    assert ends[0][1]["scale_0"] != 1.0
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


@pytest.mark.parametrize("field", ["meta_width", "scale_lr"])
def test_negative_values_are_refused(field: str) -> None:
    with pytest.raises(UsageError, match=f"APO-P: {field} must be at least 0"):
        APOP(problem_of(some_network()), lr=0.1, weights=WEIGHTS, **{field: -1})  # type: ignore[arg-type] # both fields
