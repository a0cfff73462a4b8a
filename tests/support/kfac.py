"""Networks, batches and dense matrices to hold KFAC to."""

import copy
from typing import Any

import pytest
import torch
from support.devices import policy_for
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from apo_bench import Batch, CrossEntropy, Precision, Problem
from baselines.kfac.optimizer import KFAC
from baselines.kfac.settings import Settings

F64 = torch.float64


def problem_of(
    model: nn.Module, objective: Any = None, precision: Precision = Precision.FP32, **options: Any
) -> Problem:
    policy = policy_for(model, precision)
    policy.prepare(model)
    return Problem(model, objective or CrossEntropy(), policy, lambda: pytest.fail("draws no batch"), **options)


def image_batch(seed: int = 0, dtype: torch.dtype = F64, examples: int = 8) -> Batch:
    source = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, 2, 7, 6, generator=source, dtype=F64).to(dtype)
    return Batch((inputs,), torch.randint(0, 3, (examples,), generator=source))


def convolutional() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 3, 2, bias=False),
        nn.Flatten(),
        nn.Linear(18, 3),
    ).double()


def estimated(problem: Problem, batch: Batch, **settings: Any) -> KFAC:
    """KFAC after its first step, whose parameters are put back."""
    rule = KFAC(problem, Settings(lr=1e-12, momentum=0.0, **settings))
    start = copy.deepcopy(problem.model.state_dict())
    rule.step(batch)
    problem.model.load_state_dict(start)
    return rule


def curvature_of(rule: KFAC, place: int) -> Tensor:
    """A ⊗ G of one layer over its matrix by rows."""
    A, G = rule.curvatures[place].A_II, rule.curvatures[place].G_OO
    assert A is not None
    assert G is not None
    return torch.kron(G, A)


def dense_ggn(problem: Problem, batch: Batch, name: str) -> Tensor:
    """The exact GGN of the mean loss in one parameter: 1/N Σ_n J_nᵀ H_n J_n, only by autograd."""
    model = problem.model
    parameters = {key: value.detach() for key, value in model.named_parameters()}
    outputs = model(*batch.inputs).detach()

    def network(weight: Tensor) -> Tensor:
        out: Tensor = functional_call(model, {**parameters, name: weight}, batch.inputs)
        return out

    def loss(out: Tensor) -> Tensor:
        return problem.loss(out, batch)

    J = jacrev(network)(parameters[name]).reshape(outputs.numel(), -1)
    H = jacrev(jacrev(loss))(outputs).reshape(outputs.numel(), -1)
    found: Tensor = J.mT @ H @ J
    return found
