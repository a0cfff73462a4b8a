"""Bytes held: every registered optimizer's equal a hand count, and what is shared counts once."""

import functools
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.optimizers import ALL, built, law_batch, law_problem
from torch import nn

from apo_bench.measure.state import bytes_by_purpose, model_bytes, state_bytes
from apo_bench.problem.rule import TorchRule
from apo_bench.records.spec import Precision


@dataclass(frozen=True)
class _Shapes:
    """What the hand counts need of a network in float32.

    Attributes:
        matrices: Outputs and inputs of each layer as a matrix, with the bias's input.
        kernels: Shapes of the layers' weights.
        hidden: Numbers in the hidden matrices.
        parameters: Numbers in all parameters.
        tensors: How many parameters there are.
    """

    matrices: tuple[tuple[int, int], ...]
    kernels: tuple[tuple[int, ...], ...]
    hidden: int
    parameters: int
    tensors: int

    @property
    def factors(self) -> int:
        """Numbers in a matrix out × out and one in × in for each layer."""
        return sum(out**2 + inputs**2 for out, inputs in self.matrices)

    @property
    def weights(self) -> int:
        """Numbers in a matrix out × in for each layer."""
        return sum(out * inputs for out, inputs in self.matrices)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def _convolutional() -> nn.Module:
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*convolution, nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], _Shapes]] = {
    "mlp": (
        _mlp,
        _Shapes(
            matrices=((5, 37), (4, 6), (3, 5)),
            kernels=((5, 36), (4, 5), (3, 4)),
            hidden=5 * 36 + 4 * 5,
            parameters=5 * 37 + 4 * 6 + 3 * 5,
            tensors=6,
        ),
    ),
    "convolutional": (
        _convolutional,
        _Shapes(
            matrices=((4, 10), (5, 65), (3, 6)),
            kernels=((4, 1, 3, 3), (5, 64), (3, 5)),
            hidden=5 * 64,
            parameters=4 * 10 + 2 * 4 + 5 * 65 + 3 * 6,
            tensors=8,
        ),
    ),
}
NUMBER = 4
"""Bytes in float32; torch counts the steps of each parameter in such a number too."""
RATE = 8 + 2 * 8 + 4
"""APO-LR: ψ and both of Adam's moments in float64, of which RMSprop is a case, and the count of steps."""


def _adam(n: _Shapes) -> int:
    return NUMBER * (2 * n.parameters + n.tensors)


def _rmsprop(n: _Shapes) -> int:
    return NUMBER * (n.parameters + n.tensors)


def _learned(n: _Shapes) -> int:
    """A, B and S of APO-P."""
    return n.factors + n.weights


COUNTS: Mapping[str, Callable[[_Shapes], dict[str, int]]] = {
    "sgd": lambda n: {"optimizer": 0},
    "sgdm": lambda n: {"optimizer": NUMBER * n.parameters},
    "adam": lambda n: {"optimizer": _adam(n)},
    "adamw": lambda n: {"optimizer": _adam(n)},
    "rmsprop": lambda n: {"optimizer": _rmsprop(n)},
    # momentum of the hidden matrices, and AdamW for the rest
    "muon": lambda n: {
        "optimizer": NUMBER * n.hidden
        + NUMBER * (2 * (n.parameters - n.hidden) + n.tensors - sum(len(k) == 2 for k in n.kernels[:-1]))
    },
    "schedule-free-adamw": lambda n: {"optimizer": NUMBER * 2 * n.parameters},
    # both moments, and for each dimension of a kernel a factor with its eigenvectors
    "soap": lambda n: {"optimizer": NUMBER * (2 * n.parameters + 2 * sum(d**2 for k in n.kernels for d in k))},
    # factors and inverses
    "kfac": lambda n: {"optimizer": NUMBER * n.parameters, "curvature": NUMBER * 2 * n.factors},
    # factors, eigenvectors, second moments and their damped inverses
    "ekfac": lambda n: {"optimizer": NUMBER * n.parameters, "curvature": NUMBER * (2 * n.factors + 2 * n.weights)},
    # Adam over A, B and S of each of three layers
    "apo-p": lambda n: {
        "optimizer": NUMBER * n.parameters,
        "preconditioner": NUMBER * _learned(n),
        "meta": NUMBER * (2 * _learned(n) + 3 * 3),
    },
    "apo-lr-sgd": lambda n: {"optimizer": 0, "meta": RATE},
    "apo-lr-sgdm": lambda n: {"optimizer": NUMBER * n.parameters, "meta": RATE},
    "apo-lr-rmsprop": lambda n: {"optimizer": _rmsprop(n), "meta": RATE},
    "apo-lr-adam": lambda n: {"optimizer": _adam(n), "meta": RATE},
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ALL)
def test_state_bytes_equal_a_hand_count(name: str, network: str) -> None:
    make, shapes = NETWORKS[network]
    begun = {"start_steps": 1, "interval": 1} if name == "apo-p-warm" else {}  # then it keeps what apo-p does
    rule = built(name, law_problem(make()), **begun)
    for seed in range(3):
        assert rule.step(law_batch(seed)).applied
    assert state_bytes(rule) == COUNTS[name.removesuffix("-warm")](shapes)


def test_model_bytes_equal_a_hand_count() -> None:
    parameters = NETWORKS["mlp"][1].parameters
    assert model_bytes(_mlp()) == {"parameters": 4 * parameters, "gradients": 4 * parameters, "buffers": 0}
    statistics = 2 * 4 * 4 + 8  # means and variances of four channels, and a count of batches in int64
    parameters = NETWORKS["convolutional"][1].parameters
    expected = {"parameters": 4 * parameters, "gradients": 4 * parameters, "buffers": statistics}
    assert model_bytes(_convolutional()) == expected


def test_in_pure_16_bit_parameters_and_gradients_take_half_but_for_normalization() -> None:
    model = _convolutional()
    law_problem(model, Precision.PURE_BF16)
    held = model_bytes(model)
    normalization = 2 * 4
    half = 2 * (NETWORKS["convolutional"][1].parameters - normalization) + 4 * normalization
    assert (held["parameters"], held["gradients"]) == (half, half)


def test_frozen_parameters_have_no_gradient() -> None:
    model = _mlp()
    model[1].weight.requires_grad_(requires_grad=False)  # type: ignore[index] # torch and pandas type this loosely
    held = model_bytes(model)
    assert held["parameters"] - held["gradients"] == 4 * 5 * 36


def test_tied_parameters_count_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert model_bytes(model) == {"parameters": 64, "gradients": 64, "buffers": 0}


def test_memory_that_state_shares_counts_once_and_whole() -> None:
    whole = torch.zeros(10)
    groups = {"first": [whole[:2], whole[5:]], "second": [whole, torch.zeros(3)], "third": []}
    rule = SimpleNamespace(state_tensors=lambda: groups)
    assert state_bytes(rule) == {"first": 40, "second": 12, "third": 0}


def test_a_purpose_with_a_name_of_the_models_is_not_lost() -> None:
    rule = SimpleNamespace(state_tensors=lambda: {"buffers": [torch.zeros(10)], "own": [torch.zeros(1)]})
    model = _convolutional()
    held = bytes_by_purpose(rule, model)
    assert list(held) == ["parameters", "gradients", "buffers", "own"]
    assert held == model_bytes(model) | {"buffers": 40 + 40, "own": 4}


class _Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: object) -> None:
        self.inner = inner


def _hiding_places(tensor: torch.Tensor) -> dict[str, Any]:
    return {
        "a list in a mapping": {"a": [{"b": tensor}]},
        "an object": SimpleNamespace(inner=SimpleNamespace(factor=tensor)),
        "a slot": _Slotted([tensor]),
        "a deque": deque([tensor], maxlen=3),
        "a set": {tensor},
        "a module": nn.ParameterList([nn.Parameter(tensor)]),
        "a partial function": functools.partial(torch.mul, tensor),
        "a closure": lambda: tensor,
        "an array": tensor.numpy(),
        "itself": _circle(tensor),
    }


def _circle(tensor: torch.Tensor) -> list[Any]:
    circle: list[Any] = [tensor]
    circle.append(circle)
    return circle


@pytest.mark.parametrize("place", list(_hiding_places(torch.ones(1))))
@pytest.mark.parametrize("where", ["state", "attribute", "group"])
def test_state_is_counted_wherever_it_lies(place: str, where: str) -> None:
    problem = law_problem(_mlp())
    optimizer = torch.optim.SGD(problem.parameters, lr=0.1)
    hidden = _hiding_places(torch.ones(100))[place]
    if where == "state":
        optimizer.state[problem.parameters[0]]["hidden"] = hidden
    elif where == "attribute":
        optimizer.hidden = hidden  # type: ignore[attr-defined] # an optimizer may keep anything
    else:
        optimizer.param_groups[0]["hidden"] = hidden
    assert state_bytes(TorchRule(problem, optimizer)) == {"optimizer": 400}


def test_what_is_the_models_is_not_the_optimizers() -> None:
    network = _convolutional()
    problem = law_problem(network)
    optimizer: Any = torch.optim.SGD(problem.parameters, lr=0.1)
    optimizer.model, optimizer.problem, optimizer.views = network, problem, list(network.buffers())
    rule = TorchRule(problem, optimizer)
    rule.step(law_batch(0))
    for parameter in problem.parameters:
        parameter.grad = torch.ones_like(parameter)
    assert state_bytes(rule) == {"optimizer": 0}


def test_factors_in_objects_of_a_library_are_counted() -> None:
    """By hand: a statistic and a root for each dimension of each matrix, beside what lies open in the state."""
    pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 64), nn.ReLU(), nn.Linear(64, 10))
    problem = law_problem(network)
    rule = TorchRule(problem, pytorch_optimizer.ScalableShampoo(problem.parameters, lr=0.01))
    rule.step(law_batch(0))
    momentum = 2 * 4 * sum(parameter.numel() for parameter in problem.parameters)  # one of them in a graft object
    factors = 2 * 4 * (36**2 + 64**2 + 64**2 + 10**2)
    assert state_bytes(rule) == {"optimizer": momentum + factors}
