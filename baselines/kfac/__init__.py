"""KFAC and EKFAC from scratch, with no dependency but torch."""

import dataclasses
from enum import StrEnum
from typing import Any

from apo_bench import Competitor, Problem, Search, UpdateRule, UsageError, hyperparameter
from baselines.kfac.curvature import CorrectedCurvature
from baselines.kfac.damping import Damping, Solver
from baselines.kfac.factors import Sharing
from baselines.kfac.optimizer import KFAC
from baselines.kfac.settings import ClipRate, Fisher, Rest, Settings

__all__ = [
    "KFAC",
    "ClipRate",
    "CorrectedCurvature",
    "Damping",
    "Fisher",
    "Rest",
    "Settings",
    "Sharing",
    "Solver",
    "ekfac",
    "kfac",
]


@dataclasses.dataclass(frozen=True)
class _Hyperparameters:
    lr: float = hyperparameter(0.1, symbol="η")
    damping: float = hyperparameter(0.0226, search=Search(1e-3, 1.0, log=True), symbol="λ")
    momentum: float = hyperparameter(0.9, symbol="μ")
    weight_decay: float = hyperparameter(0.0, search=Search(1e-6, 1e-2, log=True), symbol="λ_wd")
    factor_interval: int = hyperparameter(10)
    factor_share: float = hyperparameter(0.25, symbol="τ₁")
    inverse_interval: int = hyperparameter(10)
    decay: float = hyperparameter(0.95)
    kl_clip: float = hyperparameter(2.16e-4, search=Search(1e-4, 1e-2, log=True), symbol="κ")
    clip_rate: str = hyperparameter("declared")
    fisher: str = hyperparameter("true")
    sharing: str = hyperparameter("expand")
    rest: str = hyperparameter("sgd")
    rest_lr: float | None = hyperparameter(None)


@dataclasses.dataclass(frozen=True)
class EKFACHyperparameters(_Hyperparameters):
    """EKFAC: KFAC's eigenvectors with second moments of the gradients in their basis."""


@dataclasses.dataclass(frozen=True)
class KFACHyperparameters(_Hyperparameters):
    """KFAC: Kronecker-factored approximate curvature, with momentum."""

    solver: str = hyperparameter("cholesky")
    form: str = hyperparameter("factored")


def _settings(h: _Hyperparameters) -> Settings:
    fields: dict[str, Any] = dataclasses.asdict(h)
    choices: dict[str, type[StrEnum]] = {
        "clip_rate": ClipRate,
        "fisher": Fisher,
        "sharing": Sharing,
        "solver": Solver,
        "form": Damping,
        "rest": Rest,
    }
    for name, kind in choices.items():
        if name in fields:
            if fields[name] not in list(kind):
                raise UsageError(f"KFAC: {name} must be one of {', '.join(kind)} (got {fields[name]!r})")
            fields[name] = kind(fields[name])
    return Settings(**fields)


def _build_kfac(problem: Problem, h: KFACHyperparameters) -> UpdateRule:
    return KFAC(problem, _settings(h))


def _build_ekfac(problem: Problem, h: EKFACHyperparameters) -> UpdateRule:
    return KFAC(problem, _settings(h), CorrectedCurvature)


_OUTSIDE_LAYERS = (
    "all but linear layers and 2-d convolutions that the model calls: embeddings, attention of torch, grouped "
    "convolutions, weights behind parametrizations; they step as `rest` says"
)
kfac = Competitor(
    KFACHyperparameters,
    _build_kfac,
    "Martens and Grosse, 2015; Grosse and Martens, 2016 (convolutions)",
    left_alone=_OUTSIDE_LAYERS,
)
ekfac = Competitor(
    EKFACHyperparameters,
    _build_ekfac,
    "George, Laurent, Bouthillier, Ballas and Vincent, 2018",
    left_alone=_OUTSIDE_LAYERS,
)
