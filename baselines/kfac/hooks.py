"""What goes in and out of layers during a forward pass."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge


class Call(NamedTuple):
    """One call of a layer.

    Attributes:
        module: The layer.
        inputs: What it was called with.
        output: Place of its output in the autograd graph; the gradient there is right even where the network then
            changes the output in place.
    """

    module: nn.Module
    inputs: Tensor
    output: GradientEdge


@contextlib.contextmanager
def recording(modules: Iterable[nn.Module]) -> Iterator[list[Call]]:
    """Record the calls of some modules; leaves no trace on them.

    The hooks run before all others, which may replace an output. Calls whose output needs no gradient are left out.
    """
    calls: list[Call] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        if output.requires_grad:
            inputs: Tensor = args[0] if args else kwargs["input"]
            calls.append(Call(module, inputs.detach(), get_gradient_edge(output)))

    handles = [module.register_forward_hook(record, with_kwargs=True, prepend=True) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
