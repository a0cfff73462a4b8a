"""Optimizers of what APO learns."""

from collections.abc import Callable
from enum import StrEnum

import torch
from torch import Tensor


class MetaOptimizer(StrEnum):
    """Which optimizer descends the proximal objective; each torch's own, with its other settings at their defaults."""

    SGD = "sgd"
    RMSPROP = "rmsprop"
    ADAM = "adam"

    def over(self, parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
        """Make it for some tensors, with learning rate α."""
        return _KINDS[self](parameters, lr)


_KINDS: dict[MetaOptimizer, Callable[[list[Tensor], float], torch.optim.Optimizer]] = {
    MetaOptimizer.SGD: lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, foreach=True),
    MetaOptimizer.RMSPROP: lambda parameters, lr: torch.optim.RMSprop(parameters, lr=lr, foreach=True),
    MetaOptimizer.ADAM: lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, foreach=True),
}
