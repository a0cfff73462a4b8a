"""Optimizers of what APO learns."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

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

    def over(self, groups: Sequence[tuple[list[Tensor], float]]) -> torch.optim.Optimizer:
        """Make it for tensors, each group of them with its learning rate α."""
        return _KINDS[self]([{"params": tensors, "lr": lr} for tensors, lr in groups])


_KINDS: dict[MetaOptimizer, Callable[[list[dict[str, Any]]], torch.optim.Optimizer]] = {
    MetaOptimizer.SGD: lambda groups: torch.optim.SGD(groups, foreach=True),
    MetaOptimizer.RMSPROP: lambda groups: torch.optim.Adam(groups, betas=(0.0, 0.99), foreach=True),
    MetaOptimizer.ADAM: lambda groups: torch.optim.Adam(groups, foreach=True),
}
