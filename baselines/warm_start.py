"""APO-P that starts at the damped Kronecker factors of KFAC's first steps and not at the identity: ours.

KFAC with unfactored damping is exactly representable by APO-P's structure. With the eigendecompositions of its factors,
A = U_A s_A U_Aᵀ and G = U_G s_G U_Gᵀ,

    (λ_FSD A ⊗ G + λ_0 I)⁻¹ = (U_A ⊗ U_G) diag(vec S)² (U_A ⊗ U_G)ᵀ,    S = (λ_FSD s_G s_Aᵀ + λ_0)^(−1/2),

which is T1's best P where the Fisher information is the discrepancy's Hessian. So the first steps are KFAC's, then
there is one eigendecomposition of each factor, and from there on P is learned: no covariance and no inverse again.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from apo_bench import Batch, Competitor, Problem, Search, StepResult, UpdateRule, UsageError, hyperparameter
from apo_bench.optim import APOP, MetaOptimizer, ProximalWeights, kronecker
from baselines.kfac import KFAC, Fisher, Settings


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """APO-P from KFAC's factors."""

    lr: float = hyperparameter(0.0469, search=Search(3e-3, 0.3, log=True), symbol="η")
    meta_lr: float = hyperparameter(1.14e-3, search=Search(1e-5, 1e-2, log=True), symbol="α")
    fsd: float = hyperparameter(18.2, search=Search(0.1, 1000.0, log=True), symbol="λ_FSD")
    meta_share: float = hyperparameter(0.25, symbol="|b| / |B|")
    interval: int = hyperparameter(10, symbol="K")
    momentum: float = hyperparameter(0.9, symbol="μ")
    weight_decay: float = hyperparameter(0.0, search=Search(1e-6, 1e-2, log=True), symbol="λ")
    start_steps: int = hyperparameter(30)
    start_damping: float = hyperparameter(0.121, search=Search(1e-3, 1.0, log=True), symbol="λ_0")
    kfac_lr: float = hyperparameter(0.1)
    kfac_damping: float = hyperparameter(0.0226)
    kfac_kl_clip: float = hyperparameter(2.16e-4, symbol="κ")
    fisher: str = hyperparameter("true")


class WarmStartedAPOP:
    """KFAC for ``start_steps`` steps, then APO-P from its factors.

    Raises:
        UsageError: A number is out of its range, or the model has no layer.
    """

    def __init__(self, problem: Problem, h: WarmStart) -> None:
        if h.start_steps < 1:
            raise UsageError(f"apo-p-warm: start_steps must be at least 1 (got {h.start_steps}); use apo-p")
        if not h.start_damping > 0:
            raise UsageError(f"apo-p-warm: start_damping must be above 0 (got {h.start_damping})")
        self.problem = problem
        self.h = h
        self.steps = 0
        self.apo = APOP(
            problem,
            lr=h.lr,
            weights=ProximalWeights(fsd=h.fsd, wsd=0.0, share=h.meta_share),
            meta_lr=h.meta_lr,
            meta_optimizer=MetaOptimizer.ADAM,
            interval=h.interval,
            momentum=h.momentum,
            weight_decay=h.weight_decay,
        )
        self.kfac: KFAC | None = self._new_kfac()

    @property
    def intervals(self) -> Mapping[str, int]:
        """Steps between two meta-updates, once the start is over."""
        return self.apo.intervals

    @property
    def left_alone(self) -> Mapping[str, tuple[str, ...]]:
        """Weights that step with P = I."""
        return self.apo.left_alone

    def scale_learning_rate(self, factor: float) -> None:
        """Use ``factor`` times the learning rates from now on."""
        self.apo.scale_learning_rate(factor)
        if self.kfac is not None:
            self.kfac.scale_learning_rate(factor)

    def step(self, batch: Batch) -> StepResult:
        """A step of KFAC at the start, of APO-P after it."""
        if self.kfac is not None and self.steps >= self.h.start_steps:
            with self.problem.phase("inverse"):
                self.apo.start_at(self._start(self.kfac))
            self.kfac = None  # and what it keeps
        if self.kfac is not None:
            result = self.kfac.step(batch)
        else:
            self.apo.steps = self.steps
            result = self.apo.step(batch)
        self.steps += result.applied
        self.apo.steps = self.steps
        return result

    @torch.no_grad()
    def _start(self, kfac: KFAC) -> list[kronecker.AnyFactors]:
        """Factors of P; those of the identity for a layer whose curvature KFAC does not know."""
        curvatures = {layer.weight: own for layer, own in zip(kfac.layers, kfac.curvatures, strict=True)}
        start = []
        for layer, factors in zip(self.apo.layers, self.apo.factors, strict=True):
            own = curvatures.get(layer.weight)
            new: kronecker.AnyFactors = factors
            if own is not None and own.A_II is not None and own.G_OO is not None:
                dtype = factors.S_OI.dtype
                with contextlib.suppress(kronecker.NoEigenvectorsError):
                    new = kronecker.damped_kfac(
                        own.A_II.to(dtype), own.G_OO.to(dtype), self.h.fsd, self.h.start_damping
                    )
            start.append(new)
        return start

    def _new_kfac(self) -> KFAC:
        h = self.h
        return KFAC(
            self.problem,
            Settings(
                lr=h.kfac_lr,
                damping=h.kfac_damping,
                kl_clip=h.kfac_kl_clip,
                momentum=h.momentum,
                weight_decay=h.weight_decay,
                factor_interval=1,
                factor_share=1.0,
                inverse_interval=10,
                fisher=Fisher(h.fisher),
            ),
        )

    def readings(self) -> Mapping[str, float]:
        """Those of APO-P."""
        return self.apo.readings()

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """The parameters are judged as they are."""
        return contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """The state of both rules; KFAC's until it has handed over."""
        return {
            "steps": self.steps,
            "apo": self.apo.state_dict(),
            "kfac": None if self.kfac is None else self.kfac.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.steps = state["steps"]
        self.apo.load_state_dict(state["apo"])
        self.kfac = None if state["kfac"] is None else self._new_kfac()
        if self.kfac is not None:
            self.kfac.load_state_dict(state["kfac"])

    def state_tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """Those of APO-P, and at the start KFAC's."""
        tensors = {purpose: list(own) for purpose, own in self.apo.state_tensors().items()}
        if self.kfac is not None:
            for purpose, own in self.kfac.state_tensors().items():
                tensors.setdefault(purpose, []).extend(own)
        return tensors


def _build(problem: Problem, h: WarmStart) -> UpdateRule:
    return WarmStartedAPOP(problem, h)


apo_p_warm = Competitor(
    WarmStart,
    _build,
    "ours, after Bae, Vicol, HaoChen and Grosse, 2022, and Martens and Grosse, 2015",
    left_alone=(
        "all but linear layers and 2-d convolutions: embeddings, packed projections of attention, grouped "
        "convolutions, weights behind parametrizations; they step as under SGDm"
    ),
)
