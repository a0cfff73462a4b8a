"""First-order methods, each torch's own implementation.

Defaults of searched hyperparameters, here and in the other modules, are those of ``reports/steps-to-accuracy``: the
highest validation accuracy of 8 trials, LeNet on Fashion-MNIST-20k, 5 epochs. Weight decay was not searched.
"""

import dataclasses
from collections.abc import Mapping

import torch

from apo_bench import Competitor, Precision, Problem, Scalar, Search, TorchRule, UpdateRule, hyperparameter

_WEIGHT_DECAY = Search(1e-6, 1e-2, log=True)


@dataclasses.dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent."""

    lr: float = hyperparameter(0.176, search=Search(1e-3, 1.0, log=True), symbol="η")
    weight_decay: float = hyperparameter(0.0, search=_WEIGHT_DECAY, symbol="λ")


@dataclasses.dataclass(frozen=True)
class SGDm:
    """SGD with heavy-ball momentum (no Nesterov, no dampening)."""

    lr: float = hyperparameter(0.0401, search=Search(1e-4, 0.3, log=True), symbol="η")
    momentum: float = hyperparameter(0.9, symbol="μ")
    weight_decay: float = hyperparameter(0.0, search=_WEIGHT_DECAY, symbol="λ")


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam with weight decay coupled to the gradient, as in torch."""

    lr: float = hyperparameter(3.56e-3, search=Search(1e-5, 1e-2, log=True), symbol="α")
    beta1: float = hyperparameter(0.9, symbol="β₁")
    beta2: float = hyperparameter(0.999, symbol="β₂")
    eps: float = hyperparameter(1e-8, symbol="ε")
    weight_decay: float = hyperparameter(0.0, search=_WEIGHT_DECAY, symbol="λ")


@dataclasses.dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay."""

    weight_decay: float = hyperparameter(1e-2, search=Search(1e-4, 1.0, log=True), symbol="λ")


@dataclasses.dataclass(frozen=True)
class RMSprop:
    """RMSprop: the gradient over the root of its running mean square."""

    lr: float = hyperparameter(1.76e-3, search=Search(1e-5, 1e-2, log=True), symbol="η")
    alpha: float = hyperparameter(0.99, symbol="α")
    momentum: float = hyperparameter(0.0, symbol="μ")
    eps: float = hyperparameter(1e-8, symbol="ε")
    weight_decay: float = hyperparameter(0.0, search=_WEIGHT_DECAY, symbol="λ")


def _build_sgd(problem: Problem, h: SGD) -> UpdateRule:
    return TorchRule(problem, torch.optim.SGD(problem.parameters, lr=h.lr, weight_decay=h.weight_decay, foreach=True))


def _build_sgdm(problem: Problem, h: SGDm) -> UpdateRule:
    return TorchRule(
        problem,
        torch.optim.SGD(problem.parameters, lr=h.lr, momentum=h.momentum, weight_decay=h.weight_decay, foreach=True),
    )


def _build_adam(problem: Problem, h: Adam) -> UpdateRule:
    kind = torch.optim.AdamW if isinstance(h, AdamW) else torch.optim.Adam
    return TorchRule(
        problem,
        kind(
            problem.parameters,
            lr=h.lr,
            betas=(h.beta1, h.beta2),
            eps=h.eps,
            weight_decay=h.weight_decay,
            foreach=True,
        ),
    )


def _build_rmsprop(problem: Problem, h: RMSprop) -> UpdateRule:
    return TorchRule(
        problem,
        torch.optim.RMSprop(
            problem.parameters,
            lr=h.lr,
            alpha=h.alpha,
            momentum=h.momentum,
            eps=h.eps,
            weight_decay=h.weight_decay,
            foreach=True,
        ),
    )


# 1e-8 is 0 in fp16, where the mean square underflows too: 0 / 0
EPSILON_OF_FP16: Mapping[Precision, Mapping[str, Scalar]] = {Precision.PURE_FP16: {"eps": 1e-4}}

sgd = Competitor(SGD, _build_sgd, "Robbins and Monro, 1951")
sgdm = Competitor(SGDm, _build_sgdm, "Polyak, 1964")
adam = Competitor(
    Adam,
    _build_adam,
    "Kingma and Ba, 2015, algorithm 1",
    in_precision=EPSILON_OF_FP16,
)
adamw = Competitor(AdamW, _build_adam, "Loshchilov and Hutter, 2019, algorithm 2", in_precision=EPSILON_OF_FP16)
rmsprop = Competitor(RMSprop, _build_rmsprop, "Tieleman and Hinton, 2012", in_precision=EPSILON_OF_FP16)
