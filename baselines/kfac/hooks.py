"""What goes in and out of layers during a forward pass."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge


class Call(NamedTuple):
    """One call of a layer.

    Attributes:
        module: The layer.
        inputs: What it was called with.
        output: Place of its output in the autograd graph; the gradient there is right even where the network then
            changes the output in place.
        shape: Of the output.
    """

    module: nn.Module
    inputs: Tensor
    output: GradientEdge
    shape: torch.Size

    def shaped(self, gradient: Tensor | None) -> Tensor | None:
        """The gradient at ``output``, in the shape of the output."""
        return None if gradient is None else gradient.reshape(self.shape)


@contextlib.contextmanager
def recording(modules: Iterable[nn.Module]) -> Iterator[list[Call]]:
    """Record the calls of some modules; leaves no trace on them.

    The hooks run before all others, which may replace an output. Calls whose output needs no gradient are left out.
    """
    calls: list[Call] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        if output.requires_grad:
            inputs: Tensor = args[0] if args else kwargs["input"]
            calls.append(Call(module, inputs.detach(), get_gradient_edge(_whole(output)), output.shape))

    handles = [module.register_forward_hook(record, with_kwargs=True, prepend=True) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _whole(output: Tensor) -> Tensor:
    """What an output is a reshaped view of; the output itself where it is none.

    A linear layer on more than two dimensions returns a view. Changing it in place makes it, in the graph, a view of
    the changed whole: its old place is then on no path to the loss, and that of the whole still is.
    """
    base = output._base  # noqa: SLF001 - there is no other way to it
    if base is None or not base.requires_grad or base.numel() != output.numel():
        return output
    return base if base.is_contiguous() and output.is_contiguous() else output
