"""Linear and convolution layers as matrices, out × in: kernels unfolded, the bias as a last input column.

A kernel's columns run over height, width and then channels: unfolding one stored with its channels last copies nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

_MATRIX = 2
Tensors = Sequence[Tensor] | Mapping[int, Tensor]
"""Tensors by the place of their parameter."""


class Layer(NamedTuple):
    """A layer whose gradient is one matrix.

    Attributes:
        weight: Place of the weight among the parameters.
        bias: Place of the bias, or `None`.
        out_features: Rows.
        in_features: Columns, the bias's included.
        kernel: Places of the kernel, 1 for a linear layer.
    """

    weight: int
    bias: int | None
    out_features: int
    in_features: int
    kernel: int

    @property
    def places(self) -> tuple[int, ...]:
        """Places of its parameters among the model's."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


def find_layers(
    model: nn.Module, parameters: Sequence[Tensor], *, called: bool = False
) -> tuple[list[Layer], list[int]]:
    """Find the layers among a model's parameters.

    A weight shared by several modules is one layer: its gradient is their sum. A grouped convolution is not one matrix
    and is left with the rest.

    Args:
        model: Whose modules are searched.
        parameters: Those that are trained.
        called: Only layers that the model calls, which hooks see: torch's attention takes the weight of its output
            projection and does not call the layer.

    Returns:
        Layers, and the places of all other parameters.
    """
    places = {id(parameter): place for place, parameter in enumerate(parameters)}
    layers: list[Layer] = []
    rest = dict.fromkeys(range(len(parameters)))
    uncalled = {module.out_proj for module in model.modules() if isinstance(module, nn.MultiheadAttention)}
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Conv2d) or (isinstance(module, nn.Conv2d) and module.groups > 1):
            continue
        if called and module in uncalled:
            continue
        weight = places.get(id(module.weight))
        if weight is None or weight not in rest:
            continue
        bias = None if module.bias is None else places.get(id(module.bias))
        del rest[weight]
        if bias is not None and bias in rest:
            del rest[bias]
        else:
            bias = None
        shape = module.weight.shape
        layers.append(Layer(weight, bias, shape[0], shape[1:].numel() + (bias is not None), shape[2:].numel()))
    return layers, list(rest)


def left_alone(model: nn.Module, parameters: Sequence[Tensor], layers: Iterable[Layer]) -> dict[str, tuple[str, ...]]:
    """Name the trained parameters that are in no layer, by the reason; vectors (normalization, biases) go unsaid."""
    inside = {id(parameters[place]) for layer in layers for place in layer.places}
    trained = {id(parameter) for parameter in parameters} - inside
    found: dict[str, tuple[str, ...]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if id(parameter) in trained and parameter.ndim >= _MATRIX:
                trained.remove(id(parameter))
                reason = _reason(prefix, module, name.rpartition(".")[2])
                found[reason] = (*found.get(reason, ()), name)
    return found


def _reason(prefix: str, module: nn.Module, name: str) -> str:
    """Why a parameter is in no layer."""
    base = name.rpartition("_")[0]
    if "parametrizations" in prefix.split(".") or (base and isinstance(module.__dict__.get(base), Tensor)):
        return "behind a parametrization"
    match module:
        case nn.Embedding() | nn.EmbeddingBag():
            return "embedding"
        case nn.MultiheadAttention():
            return "packed projection of attention"
        case nn.Conv2d() if module.groups > 1:
            return "grouped convolution"
        case nn.Linear() | nn.Conv2d():
            return "layer never called"
    return f"part of {type(module).__name__}"


def to_matrix(layer: Layer, tensors: Tensors) -> Shaped[Tensor, "{layer.out_features} {layer.in_features}"]:
    """The layer's part of ``tensors`` as a matrix ``(out, in)``."""
    tensor = tensors[layer.weight]
    if tensor.ndim > _MATRIX:
        tensor = tensor.movedim(1, -1)
    matrix = tensor.reshape(layer.out_features, -1)
    if layer.bias is None:
        return matrix
    return torch.cat([matrix, tensors[layer.bias].unsqueeze(1)], dim=1)


def from_matrix(
    layer: Layer, matrix_OI: Shaped[Tensor, "{layer.out_features} {layer.in_features}"], like: Tensors
) -> dict[int, Tensor]:
    """Undo `to_matrix`: tensors by the place of their parameter, in the shapes of ``like``."""
    shape = like[layer.weight].shape
    weight = matrix_OI if layer.bias is None else matrix_OI[:, :-1]
    if len(shape) > _MATRIX:
        weight = weight.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    if layer.bias is None:
        return {layer.weight: weight}
    return {layer.weight: weight, layer.bias: matrix_OI[:, -1]}
