"""Steps of a `torch.optim.Optimizer` whose gradients are there: it gets no closure that would make others."""

import torch

from apo_bench.errors import UsageError


def take_step(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer step on the gradients that its parameters have.

    Raises:
        UsageError: It needs a closure: it evaluates the loss by itself, which nothing would count, scale or replay.
    """
    try:
        optimizer.step()
    except Exception as error:
        if "closure" not in f"{type(error).__name__} {error}".lower():
            raise
        raise UsageError(
            f"{type(optimizer).__name__} needs a closure, and a TorchRule gives none; write a rule of its own, whose "
            "step evaluates the loss with problem.loss and problem.gradients as often as it needs"
        ) from error
