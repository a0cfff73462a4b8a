"""Optimizers of what APO learns."""

import pytest
import torch
from torch import Tensor

from apo_bench.optim.meta import MetaOptimizer


def _moves(kind: MetaOptimizer, gradients: list[float], lr: float) -> list[float]:
    psi = torch.zeros(1, dtype=torch.float64)
    optimizer = kind.over([([psi], lr)])
    moves = []
    for gradient in gradients:
        before: Tensor = psi.clone()
        psi.grad = torch.full_like(psi, gradient)
        optimizer.step()
        moves.append(float(before - psi))
    return moves


@pytest.mark.parametrize("kind", [MetaOptimizer.RMSPROP, MetaOptimizer.ADAM])
def test_the_first_step_is_as_long_as_the_learning_rate(kind: MetaOptimizer) -> None:
    """Whatever the gradient's scale: before the averages know anything, no step is longer than α."""
    for gradient in (1e-3, 1.0, 1e3):
        assert _moves(kind, [gradient], 0.1)[0] == pytest.approx(0.1, rel=1e-4)


def test_rmsprop_is_torchs_with_the_bias_of_the_average_corrected() -> None:
    gradients, v = [1.0, -0.3, 0.7, 2.0, 0.1], 0.0
    for step, (gradient, move) in enumerate(zip(gradients, _moves(MetaOptimizer.RMSPROP, gradients, 0.1), strict=True)):
        v = 0.99 * v + 0.01 * gradient**2
        corrected = v / (1.0 - 0.99 ** (step + 1))
        assert move == pytest.approx(0.1 * gradient / (corrected**0.5 + 1e-8), rel=1e-10)


def test_after_a_while_it_is_torchs() -> None:
    torch.manual_seed(0)
    gradients = (1.0 + 0.5 * torch.randn(2000, dtype=torch.float64)).tolist()
    psi = torch.zeros(1, dtype=torch.float64)
    optimizer, theirs = torch.optim.RMSprop([psi], lr=0.1), []
    for gradient in gradients:
        before = psi.clone()
        psi.grad = torch.full_like(psi, gradient)
        optimizer.step()
        theirs.append(float(before - psi))
    assert _moves(MetaOptimizer.RMSPROP, gradients, 0.1)[-1] == pytest.approx(theirs[-1], rel=1e-6)
