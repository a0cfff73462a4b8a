"""Exact objects that the theory names."""

from typing import Any

import torch
from support.devices import CPU
from torch import Tensor, nn

from apo_bench.data.examples import Batch
from apo_bench.optim.apo_p import APOP
from apo_bench.optim.kronecker import Factors, damped_kfac, meta_gradient, precondition
from apo_bench.optim.proximal import ProximalObjective, ProximalWeights
from apo_bench.problem.objectives import SquaredError
from apo_bench.problem.precision import PrecisionPolicy
from apo_bench.problem.problem import Problem
from apo_bench.records.spec import Precision

F64 = torch.float64
WEIGHTS = ProximalWeights(fsd=0.7, wsd=0.3)
POLICY = PrecisionPolicy(Precision.FP64, CPU)


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


class LinearizedSquaredError(SquaredError):
    """Squared error linearized at a frozen θ: the targets are the residuals there, and the loss is ⟨f, residual⟩."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return (outputs * batch.targets).sum() / len(outputs)


class FrozenLayer:
    """A linear layer, 3 inputs and 2 outputs, that every step finds at the same θ, under the linearized loss.

    The FSD's Hessian is the Kronecker product of the second moment of B′'s inputs with I, so that
    (λ_FSD G + λ_WSD I)⁻¹ is a P with the structure of APO-P; a batch can be made for any gradient.
    """

    def __init__(self, moment_II: Tensor | None = None) -> None:
        self.model = nn.Linear(3, 2, bias=False).double()
        self.start = self.model.weight.detach().clone()
        self.inputs = torch.randn(6, 3, dtype=F64)
        other = torch.randn(5, 3, dtype=F64)
        if moment_II is not None:
            other = 3**0.5 * torch.linalg.cholesky(moment_II).mT
        self.moment_II = other.mT @ other / len(other)
        self.problem = Problem(
            self.model, LinearizedSquaredError(), POLICY, lambda: Batch((other,), torch.empty(len(other), 2))
        )
        self.M = WEIGHTS.fsd * torch.kron(self.moment_II, torch.eye(2, dtype=F64)) + WEIGHTS.wsd * torch.eye(
            6, dtype=F64
        )
        self.best = damped_kfac(self.moment_II, torch.eye(2, dtype=F64), WEIGHTS.fsd, WEIGHTS.wsd)

    def batch(self, G_OI: Tensor) -> Batch:
        """A batch whose gradient is ``G_OI``."""
        gram = self.inputs.mT @ self.inputs / len(self.inputs)
        return Batch((self.inputs,), self.inputs @ torch.linalg.solve(gram, G_OI.mT))

    def rule(self, factors: Factors | None = None, **options: Any) -> APOP:
        """APO-P at the frozen θ, with P of the given factors."""
        rule = APOP(self.problem, lr=1.0, weights=WEIGHTS, **{"interval": 1, "momentum": 0.0, **options})
        if factors is not None:
            for part, value in zip(rule.factors[0], factors, strict=True):
                part.copy_(value)
        return rule

    def step(self, rule: Any, G_OI: Tensor) -> None:
        """Step on a batch of this gradient and put θ back."""
        rule.step(self.batch(G_OI))
        with torch.no_grad():
            self.model.weight.copy_(self.start)

    def meta_gradient(self, factors: Factors, G_OI: Tensor, loss_OI: Tensor) -> Factors:
        """∂Q/∂(A, B, S) when ``G_OI`` made the step and the loss term's batch has the gradient ``loss_OI``."""
        state = self.problem.random_state()
        objective = ProximalObjective(self.problem, self.batch(loss_OI), state, WEIGHTS)
        with torch.no_grad():
            self.model.weight.copy_(self.start - precondition(factors, G_OI))
        (q_OI,) = objective.gradient().values
        with torch.no_grad():
            self.model.weight.copy_(self.start)
        assert q_OI is not None
        found = meta_gradient(factors, G_OI, q_OI, 1.0)
        assert isinstance(found, Factors)
        return found


def size_of(gradients: list[Factors]) -> float:
    """Norm of the mean of meta-gradients."""
    means = [torch.stack(parts).mean(0) for parts in zip(*gradients, strict=True)]
    return float(torch.cat([mean.flatten() for mean in means]).norm())
