"""The loss term on a part of B has the expectation of that on B, by enumeration of all batches; in float64."""

import itertools

import pytest
import torch
from support.theory import F64, POLICY, LinearizedSquaredError, relative
from torch import Tensor, nn

from apo_bench.data.examples import Batch
from apo_bench.optim.kronecker import Factors, meta_gradient, precondition
from apo_bench.optim.proximal import ProximalObjective, ProximalWeights
from apo_bench.problem.objectives import SquaredError
from apo_bench.problem.problem import Problem

_SIZE = 3
"""Examples of B, of 4 in all."""


class _Enumerated:
    """A linear layer at a frozen θ, with APO-P's P somewhere off the identity, and every batch of three examples."""

    def __init__(self, objective: SquaredError) -> None:
        self.model = nn.Linear(3, 2, bias=False).double()
        self.start = self.model.weight.detach().clone()
        self.inputs, self.targets = torch.randn(4, 3, dtype=F64), torch.randn(4, 2, dtype=F64)
        self.problem = Problem(self.model, objective, POLICY, lambda: Batch((self.inputs,), self.targets))
        self.factors = Factors(*(torch.randn(*shape, dtype=F64) for shape in ((3, 3), (2, 2), (2, 3))))

    def batches(self, *, replacement: bool) -> list[Batch]:
        """All of them, equally likely, in every order: a part is the first examples."""
        chosen: list[tuple[int, ...]] = (
            list(itertools.product(range(4), repeat=_SIZE))
            if replacement
            else list(itertools.permutations(range(4), _SIZE))
        )
        return [Batch((self.inputs[[*rows]],), self.targets[[*rows]]) for rows in chosen]

    def meta_gradient(self, batch: Batch, share: float) -> Tensor:
        """Production's ∂Q/∂(A, B, S) for the step that this batch makes, as one vector."""
        problem = self.problem
        weights = ProximalWeights(fsd=0.7, wsd=0.3, share=share, extra=4)
        objective = ProximalObjective(problem, batch, problem.random_state(), weights)
        (G_OI,) = problem.gradients(problem.loss(problem.outputs(batch), batch)).values
        assert G_OI is not None
        with torch.no_grad():
            self.model.weight.sub_(precondition(self.factors, G_OI), alpha=0.1)
        (q_OI,) = objective.gradient().values
        with torch.no_grad():
            self.model.weight.copy_(self.start)
        assert q_OI is not None
        return torch.cat([part.flatten() for part in meta_gradient(self.factors, G_OI, q_OI, 0.1)])

    def mean(self, share: float, *, replacement: bool) -> Tensor:
        """Over all batches."""
        found = [self.meta_gradient(batch, share) for batch in self.batches(replacement=replacement)]
        return torch.stack(found).mean(0)


class _QuarticError(SquaredError):
    """A loss that is far from quadratic."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return (outputs - batch.targets).square().sum(1).square().mean()


class _NormalizedError(SquaredError):
    """A loss that mixes the examples of a batch, as batch normalization does."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return super().loss(outputs - outputs.mean(0), batch)


@pytest.mark.parametrize("objective", [LinearizedSquaredError(), SquaredError(), _QuarticError()], ids=type)
@pytest.mark.parametrize("share", [1 / 3, 2 / 3])
def test_the_meta_gradient_on_a_part_has_the_expectation_of_that_on_the_whole(
    share: float, objective: SquaredError
) -> None:
    """For batches without replacement, as an epoch draws them, and for any loss; each single one differs."""
    case = _Enumerated(objective)
    assert relative(case.mean(share, replacement=False), case.mean(1.0, replacement=False)) < 1e-12
    some = case.batches(replacement=False)[7]
    assert relative(case.meta_gradient(some, share), case.meta_gradient(some, 1.0)) > 0.01


def test_so_it_has_for_independent_draws() -> None:
    case = _Enumerated(SquaredError())
    assert relative(case.mean(1 / 3, replacement=True), case.mean(1.0, replacement=True)) < 1e-12


def test_where_examples_are_mixed_it_differs() -> None:
    """A known limit: a part normalized by itself is a smaller batch."""
    case = _Enumerated(_NormalizedError())
    assert relative(case.mean(2 / 3, replacement=False), case.mean(1.0, replacement=False)) > 0.01
