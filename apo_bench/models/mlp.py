"""Fully connected networks: multilayer perceptrons, products of matrices and autoencoders."""

import itertools
from collections.abc import Callable, Sequence

from torch import nn


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers from ``sizes[0]`` inputs, which are flattened, to ``sizes[-1]`` outputs, with activations between.

    ``mlp([784, 1000, 1000, 10])`` has 1,796,010 parameters.

    Raises:
        ValueError: Fewer than two sizes.
    """
    if len(sizes) < 2:  # noqa: PLR2004 - an input and an output
        raise ValueError(f"a network has at least an input and an output size, not {list(sizes)}")
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def linear(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers without biases and with nothing between: a product of matrices.

    ``linear([6, 6, 10])`` has 96 parameters.
    """
    layers = [nn.Linear(inputs, outputs, bias=False) for inputs, outputs in itertools.pairwise(sizes)]
    return nn.Sequential(*layers)


def autoencoder(pixels: int = 784, widths: Sequence[int] = (1000, 500, 250, 30)) -> nn.Sequential:
    """The deep autoencoder of Hinton and Salakhutdinov (2006): sigmoid units, decoder untied, logits of pixels.

    With 784 pixels and four layers down to 30 units it has 2,837,314 parameters; the code is linear, as theirs. Weights
    begin uniform with 4 times the bound of Glorot and Bengio (2010), which fits a sigmoid's slope of 1/4 at 0, and
    biases at 0: from torch's default, made for rectified units, SGD leaves the mean image only after many epochs.
    """
    encoder = mlp([pixels, *widths], nn.Sigmoid)
    decoder = mlp([*reversed(widths), pixels], nn.Sigmoid)
    network = nn.Sequential(*encoder, *decoder[1:])
    for module in network:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, gain=4.0)
            nn.init.zeros_(module.bias)
    return network
