"""Lazy modules: their parameters have no shape, and no numbers, before the first forward pass."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def uninitialized(model: nn.Module) -> list[Tensor]:
    """The parameters and buffers of a network that have no shape yet."""
    found = itertools.chain(model.parameters(), model.buffers())
    return [tensor for tensor in found if is_lazy(tensor)]


@torch.no_grad()
def initialize(model: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Give a network's lazy modules their shapes and initial numbers, drawn from torch's global generator.

    The pass is one of evaluation, so that no running statistics see the batch; the modes of all modules are kept.

    Args:
        model: The network.
        inputs: Of a batch.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        model(*inputs)
    finally:
        for module, training in modes:
            module.training = training
