"""What a network's own passes cost, counted without data and without memory for its weights."""

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from apo_bench.data.examples import Batch
    from apo_bench.tasks.task import Task

_META = torch.device("meta")
_CPU = torch.device("cpu")


def make_model(task: "Task") -> nn.Module:
    """The task's network in shapes alone, on the meta device; on the CPU where it cannot be made there."""
    try:
        with _META:
            return task.model()
    except Exception:  # noqa: BLE001 - a plugin's network may look at its numbers, and fail in any way
        return task.model()


def step_flops(task: "Task") -> int | None:
    """Floating-point operations of a forward and a backward pass over one batch: 2 for each multiply-add.

    Matrix products, convolutions and attention are counted; what acts on one number at a time is not, nor the loss, nor
    anything that an optimizer adds. The gradient by the inputs is not needed and not in it. Padded sequences count at
    the length that the dataset's blank batch has.

    Returns:
        The count, `None` where the dataset does not say how its batches look, or where the network takes no such batch:
        an estimate is no reason to stop a run, which will say what is wrong.
    """
    if task.dataset.blank is None:
        return None
    for device in (_META, _CPU):
        try:
            with device:
                model = task.model()
            return _count(model, task.dataset.blank(task.batch_size), device)
        except Exception:  # noqa: BLE001, S112 - on the meta device anything that looks at a number fails
            continue
    return None


def _count(model: nn.Module, batch: "Batch", device: torch.device) -> int:
    """Count both passes; the sum of the outputs stands for the loss, whose gradient has the same shape."""
    inputs = tuple(part.to(device) for part in batch.inputs)
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        model.train()(*inputs).sum().backward()
    return int(counter.get_total_flops())
