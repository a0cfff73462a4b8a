"""Linear and convolution layers as matrices, out × in: kernels unfolded, the bias as a last input column."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Layer(NamedTuple):
    """A layer whose gradient is one matrix.

    Attributes:
        weight: Place of the weight among the parameters.
        bias: Place of the bias, or `None`.
        out_features: Rows.
        in_features: Columns, the bias's included.
    """

    weight: int
    bias: int | None
    out_features: int
    in_features: int


def find_layers(model: nn.Module, parameters: Sequence[Tensor]) -> tuple[list[Layer], list[int]]:
    """Find the layers among a model's parameters.

    A weight shared by several modules is one layer: its gradient is their sum. A grouped convolution is not one matrix
    and is left with the rest.

    Returns:
        Layers, and the places of all other parameters.
    """
    places = {id(parameter): place for place, parameter in enumerate(parameters)}
    layers: list[Layer] = []
    rest = dict.fromkeys(range(len(parameters)))
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Conv2d) or (isinstance(module, nn.Conv2d) and module.groups > 1):
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
        layers.append(Layer(weight, bias, shape[0], shape[1:].numel() + (bias is not None)))
    return layers, list(rest)


def to_matrix(layer: Layer, tensors: Sequence[Tensor]) -> Tensor:
    """The layer's part of ``tensors`` (one for each parameter) as a matrix ``(out, in)``."""
    matrix = tensors[layer.weight].reshape(layer.out_features, -1)
    if layer.bias is None:
        return matrix
    return torch.cat([matrix, tensors[layer.bias].unsqueeze(1)], dim=1)


def from_matrix(layer: Layer, matrix_OI: Tensor, like: Sequence[Tensor]) -> dict[int, Tensor]:
    """Undo `to_matrix`: tensors by the place of their parameter, in the shapes of ``like``."""
    if layer.bias is None:
        return {layer.weight: matrix_OI.reshape(like[layer.weight].shape)}
    return {
        layer.weight: matrix_OI[:, :-1].reshape(like[layer.weight].shape),
        layer.bias: matrix_OI[:, -1],
    }
