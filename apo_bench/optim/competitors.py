"""APO as competitors of the suites.

Only K = 10, the RMSprop meta-optimizer around a learning rate, Adam around a preconditioner and the initial learning
rates (0.1 for SGD and SGDm, 3e-4 for RMSprop and Adam) are recalled from the paper, and not verified. Everything that
is searched has as its default what had the highest validation accuracy of 8 trials (``reports/steps-to-accuracy``:
LeNet on Fashion-MNIST-20k, 5 epochs).

``meta_share`` is the share of B and B′ on which Q is taken. ``reverse_kl`` takes KL(new ‖ old) as the function-space
discrepancy instead of KL(old ‖ new); ``extra_batch`` is the number of examples on which it is taken, 0 for as many as
``meta_share`` says. ``fresh_batch`` takes the loss term of Q on a batch of its own, which is wrong on purpose: the
ablation that shows why the paper reuses B. ``per_layer`` gives every module with parameters a learning rate of its own.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from apo_bench.optim.apo_lr import APOLR
from apo_bench.optim.apo_p import APOP, Structure
from apo_bench.optim.meta import MetaOptimizer
from apo_bench.optim.proximal import ProximalWeights
from apo_bench.plugins.optimizer import Competitor, Search, hyperparameter
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import UpdateRule

_REFERENCE = "Bae, Vicol, HaoChen and Grosse, 2022"
_META_LR = Search(1e-2, 1.0, log=True)
_FSD = Search(1e-2, 10.0, log=True)


@dataclasses.dataclass(frozen=True)
class APOSGD:
    """SGD whose learning rate is adapted by APO."""

    lr: float = hyperparameter(0.1, symbol="η₀")
    meta_lr: float = hyperparameter(0.0107, search=_META_LR, symbol="α")
    meta_optimizer: str = hyperparameter("rmsprop")
    fsd: float = hyperparameter(0.222, search=_FSD, symbol="λ_FSD")
    wsd: float = hyperparameter(0.0, symbol="λ_WSD")
    reverse_kl: bool = hyperparameter(False)  # noqa: FBT003 - the default of a field
    meta_share: float = hyperparameter(1.0, symbol="|b| / |B|")
    extra_batch: int = hyperparameter(0, symbol="|B′|")
    fresh_batch: bool = hyperparameter(False)  # noqa: FBT003 - the default of a field
    interval: int = hyperparameter(10, symbol="K")
    per_layer: bool = hyperparameter(False)  # noqa: FBT003
    weight_decay: float = hyperparameter(0.0, search=Search(1e-6, 1e-2, log=True), symbol="λ")


@dataclasses.dataclass(frozen=True)
class APOSGDm(APOSGD):
    """SGDm whose learning rate is adapted by APO."""

    meta_lr: float = hyperparameter(0.0421, search=_META_LR, symbol="α")
    fsd: float = hyperparameter(2.67, search=_FSD, symbol="λ_FSD")
    momentum: float = hyperparameter(0.9, symbol="μ")
    whole_move: bool = hyperparameter(False)  # noqa: FBT003


@dataclasses.dataclass(frozen=True)
class APORMSprop(APOSGD):
    """RMSprop whose learning rate is adapted by APO."""

    meta_lr: float = hyperparameter(0.147, search=_META_LR, symbol="α")
    fsd: float = hyperparameter(0.0955, search=_FSD, symbol="λ_FSD")
    lr: float = hyperparameter(3e-4, symbol="η₀")
    alpha: float = hyperparameter(0.99, symbol="α")
    eps: float = hyperparameter(1e-8, symbol="ε")


@dataclasses.dataclass(frozen=True)
class APOAdam(APOSGD):
    """Adam whose learning rate is adapted by APO."""

    meta_lr: float = hyperparameter(0.0314, search=_META_LR, symbol="α")
    fsd: float = hyperparameter(0.596, search=_FSD, symbol="λ_FSD")
    lr: float = hyperparameter(3e-4, symbol="η₀")
    beta1: float = hyperparameter(0.9, symbol="β₁")
    beta2: float = hyperparameter(0.999, symbol="β₂")
    eps: float = hyperparameter(1e-8, symbol="ε")


def _weights(h: "APOSGD | APOPHyperparameters") -> ProximalWeights:
    return ProximalWeights(
        fsd=h.fsd,
        wsd=h.wsd,
        reverse=h.reverse_kl,
        share=h.meta_share,
        extra=h.extra_batch or None,
        fresh=h.fresh_batch,
    )


def _around(problem: Problem, h: APOSGD, base: Callable[..., torch.optim.Optimizer], **fields: object) -> UpdateRule:
    groups = _by_module(problem) if h.per_layer else problem.parameters
    return APOLR(
        problem,
        base(groups, lr=h.lr, weight_decay=h.weight_decay, foreach=True, **fields),
        weights=_weights(h),
        meta_lr=h.meta_lr,
        meta_optimizer=MetaOptimizer(h.meta_optimizer),
        interval=h.interval,
        per_group=h.per_layer,
        whole_move=isinstance(h, APOSGDm) and h.whole_move,
    )


def _by_module(problem: Problem) -> list[dict[str, object]]:
    """Parameter groups, one for each module that holds parameters itself, in the order of the parameters."""
    owners = {
        id(parameter): name
        for name, module in reversed(list(problem.model.named_modules()))
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[str | None, list[Tensor]] = {}
    for parameter in problem.parameters:
        groups.setdefault(owners.get(id(parameter)), []).append(parameter)
    return [{"params": parameters} for parameters in groups.values()]


def _sgd(problem: Problem, h: APOSGD) -> UpdateRule:
    return _around(problem, h, torch.optim.SGD)


def _sgdm(problem: Problem, h: APOSGDm) -> UpdateRule:
    return _around(problem, h, torch.optim.SGD, momentum=h.momentum)


def _rmsprop(problem: Problem, h: APORMSprop) -> UpdateRule:
    return _around(problem, h, torch.optim.RMSprop, alpha=h.alpha, eps=h.eps)


def _adam(problem: Problem, h: APOAdam) -> UpdateRule:
    return _around(problem, h, torch.optim.Adam, betas=(h.beta1, h.beta2), eps=h.eps)


@dataclasses.dataclass(frozen=True)
class APOPHyperparameters:
    """APO-P: SGDm with a structured preconditioner learned by APO."""

    lr: float = hyperparameter(0.31, search=Search(3e-2, 3.0, log=True), symbol="η")
    meta_lr: float = hyperparameter(1.22e-3, search=Search(1e-5, 1e-2, log=True), symbol="α")
    meta_optimizer: str = hyperparameter("adam")
    fsd: float = hyperparameter(3.05, search=Search(0.1, 10.0, log=True), symbol="λ_FSD")
    wsd: float = hyperparameter(0.0, symbol="λ_WSD")
    reverse_kl: bool = hyperparameter(False)  # noqa: FBT003 - the default of a field
    meta_share: float = hyperparameter(1.0, symbol="|b| / |B|")
    extra_batch: int = hyperparameter(0, symbol="|B′|")
    fresh_batch: bool = hyperparameter(False)  # noqa: FBT003 - the default of a field
    interval: int = hyperparameter(10, symbol="K")
    momentum: float = hyperparameter(0.9, symbol="μ")
    weight_decay: float = hyperparameter(0.0, search=Search(1e-6, 1e-2, log=True), symbol="λ")
    warmup_steps: int = hyperparameter(0)
    structure: str = hyperparameter("full")
    meta_width: int = hyperparameter(0, symbol="n₀")
    scale_lr: float = hyperparameter(0.0, symbol="α_c")


def _apo_p(problem: Problem, h: APOPHyperparameters) -> UpdateRule:
    return APOP(
        problem,
        lr=h.lr,
        weights=_weights(h),
        meta_lr=h.meta_lr,
        meta_optimizer=MetaOptimizer(h.meta_optimizer),
        interval=h.interval,
        momentum=h.momentum,
        weight_decay=h.weight_decay,
        warmup_steps=h.warmup_steps,
        structure=Structure(h.structure),
        meta_width=h.meta_width,
        scale_lr=h.scale_lr,
    )


_OUTSIDE_LAYERS = (
    "all but linear layers and 2-d convolutions: embeddings, packed projections of attention, grouped convolutions, "
    "weights behind parametrizations; they step as under SGDm"
)
apo_p = Competitor(APOPHyperparameters, _apo_p, _REFERENCE, left_alone=_OUTSIDE_LAYERS)
apo_lr_sgd = Competitor(APOSGD, _sgd, _REFERENCE)
apo_lr_sgdm = Competitor(APOSGDm, _sgdm, _REFERENCE)
apo_lr_rmsprop = Competitor(APORMSprop, _rmsprop, _REFERENCE)
apo_lr_adam = Competitor(APOAdam, _adam, _REFERENCE)
