"""Optimizers of what APO learns."""

from collections.abc import Callable
from enum import StrEnum

import torch
from torch import Tensor


class MetaOptimizer(StrEnum):
    """Which optimizer descends the proximal objective; each torch's own, with its other settings at their defaults.

    RMSprop has the bias correction of Adam, of which it is the case β₁ = 0, β₂ = 0.99. torch's RMSprop has none: its
    average of squares starts at 0, so that the first step is 1 / √0.01 = 10 times as long as α, and APO-LR's rate would
    change by exp(10 α) before anything is known.
    """

    SGD = "sgd"
    RMSPROP = "rmsprop"
    ADAM = "adam"

    def over(self, parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
        """Make it for some tensors, with learning rate α."""
        return _KINDS[self](parameters, lr)


_KINDS: dict[MetaOptimizer, Callable[[list[Tensor], float], torch.optim.Optimizer]] = {
    MetaOptimizer.SGD: lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, foreach=True),
    MetaOptimizer.RMSPROP: lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, betas=(0.0, 0.99), foreach=True),
    MetaOptimizer.ADAM: lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, foreach=True),
}
