"""APO-P from KFAC's factors: KFAC at first, then exactly its damped Fisher information, then learned."""

import copy
from typing import Any

import pytest
import torch
from support.problems import problem_of, some_batch, some_network

from apo_bench.errors import UsageError
from apo_bench.optim.kronecker import dense, distance_from_identity
from baselines.kfac import KFAC
from baselines.warm_start import WarmStart, WarmStartedAPOP

F64 = torch.float64


def _rule(**fields: Any) -> WarmStartedAPOP:
    torch.manual_seed(1)
    return WarmStartedAPOP(problem_of(some_network(dropout=0.0).double(), dtype=F64), WarmStart(**fields))


def test_p_starts_at_the_damped_kronecker_factors() -> None:
    """(λ_FSD A ⊗ G + λ_0 I)⁻¹ of the factors that KFAC has after its steps, for a convolution and a linear layer."""
    rule = _rule(start_steps=4, start_damping=0.2, fsd=5.0, meta_lr=0.0)
    for seed in range(4):
        rule.step(some_batch(seed, F64))
    kfac = rule.kfac
    assert isinstance(kfac, KFAC)
    moments = [(own.A_II, own.G_OO) for own in kfac.curvatures]
    rule.step(some_batch(4, F64))
    assert rule.kfac is not kfac
    for (A, G), factors in zip(moments, rule.apo.factors, strict=True):
        assert A is not None
        assert G is not None
        fisher = 5.0 * torch.kron(A, G)
        expected = torch.linalg.inv(fisher + 0.2 * torch.eye(len(fisher), dtype=F64))
        torch.testing.assert_close(dense(factors), expected, rtol=1e-9, atol=1e-9)


def test_at_the_start_it_is_kfac_bit_for_bit() -> None:
    rule = _rule(start_steps=6, weight_decay=1e-2)
    twin = _rule(start_steps=6, weight_decay=1e-2)
    assert twin.kfac is not None
    for seed in range(6):
        rule.step(some_batch(seed, F64))
        twin.kfac.step(some_batch(seed, F64))
    torch.testing.assert_close(rule.problem.model.state_dict(), twin.problem.model.state_dict(), rtol=0, atol=0)


def test_from_there_on_p_is_learned_and_nothing_of_kfac_is_kept() -> None:
    rule = _rule(start_steps=3, interval=2)
    for seed in range(3):
        rule.step(some_batch(seed, F64))
    during = sum(tensor.numel() for own in rule.state_tensors().values() for tensor in own)
    rule.step(some_batch(3, F64))
    start = [distance_from_identity(factors) for factors in rule.apo.factors]
    for seed in range(4, 9):
        rule.step(some_batch(seed, F64))
    assert rule.apo.meta_updates == 3  # at steps 4, 6 and 8
    assert [distance_from_identity(factors) for factors in rule.apo.factors] != start
    after = {purpose: list(own) for purpose, own in rule.state_tensors().items()}
    assert set(after) == {"optimizer", "preconditioner", "meta"}
    assert rule.intervals == {"meta": 2}
    assert rule.apo.weights.share == 0.25
    assert during > 0


@pytest.mark.parametrize("taken", [2, 5])
def test_it_continues_from_a_saved_state_on_either_side_of_the_start(taken: int) -> None:
    ends = []
    for interrupted in (False, True):
        rule = _rule(start_steps=4, interval=2)
        for seed in range(taken):
            rule.step(some_batch(seed, F64))
        if interrupted:
            saved = copy.deepcopy((rule.problem.model.state_dict(), rule.problem.state_dict(), rule.state_dict()))
            rule = _rule(start_steps=4, interval=2)
            rule.problem.model.load_state_dict(saved[0])
            rule.problem.load_state_dict(saved[1])
            rule.load_state_dict(saved[2])
        for seed in range(taken, 8):
            rule.step(some_batch(seed, F64))
        ends.append(rule.problem.model.state_dict())
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


def test_a_start_is_at_least_a_step_and_damped() -> None:
    with pytest.raises(UsageError, match="apo-p-warm: start_steps must be at least 1"):
        _rule(start_steps=0)
    with pytest.raises(UsageError, match="apo-p-warm: start_damping must be above 0"):
        _rule(start_damping=0.0)
