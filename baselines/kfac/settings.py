"""Hyperparameters of KFAC and EKFAC."""

import dataclasses
from enum import StrEnum

from apo_bench import UsageError
from baselines.kfac.damping import Damping, Solver
from baselines.kfac.factors import Sharing


class Fisher(StrEnum):
    """From which gradients G is estimated.

    ``TRUE``: of targets drawn from the model's own prediction, one an example. ``EXACT``: of the loss's exact Hessian
    in the outputs, with a backward pass for each output. ``EMPIRICAL``: of the data's targets.
    """

    TRUE = "true"
    EXACT = "exact"
    EMPIRICAL = "empirical"


class ClipRate(StrEnum):
    """Which learning rate the KL clip's η is.

    ``DECLARED``: ``lr``, so that ν P ∇J does not depend on the schedule, and a schedule shortens clipped steps too.
    ``CURRENT``: that of the step, which the examples of kfac-pytorch (Pauloski et al., 2020) pass to it: as the rate
    falls the clip lets go, and clipped steps stay as long.
    """

    DECLARED = "declared"
    CURRENT = "current"


class Rest(StrEnum):
    """What steps the parameters that are in no layer: normalization, embeddings, tied outputs.

    ``SGD``: the same momentum as the layers, along the plain gradient. ``ADAM``: torch's Adam with weight decay coupled
    to the gradient, β = (0.9, 0.999), and ε = 1e-8 (1e-4 in pure fp16, where 1e-8 is 0).
    """

    SGD = "sgd"
    ADAM = "adam"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Hyperparameters of KFAC and EKFAC.

    Attributes:
        lr: η.
        damping: λ.
        momentum: μ, heavy-ball on the preconditioned gradient.
        weight_decay: λ_wd. A layer steps along ν P ∇J + λ_wd θ: decay passes through neither P nor the clip, and at
            rest ∇J = −(λ_wd/ν) P⁻¹ θ, a penalty in the metric of the damped curvature (Zhang et al., 2019). For the
            parameters that are in no layer it is the gradient of (λ_wd/2) ‖θ‖².
        factor_interval: Steps between two estimates of the factors.
        factor_share: Share of the batch's examples, the first ones, from which they are estimated (Martens and Grosse,
            2015, section 8, τ₁).
        inverse_interval: Steps between two inversions.
        decay: Largest share of the old average that a new estimate leaves.
        kl_clip: Largest η² ⟨∇J, P ∇J⟩, twice the KL divergence that a step is predicted to cause; 0 for no clip.
        clip_rate: Which learning rate the η of ``kl_clip`` is.
        fisher: From which gradients G is estimated.
        sharing: How positions that share a weight are treated.
        solver: How KFAC's factors are inverted.
        form: Where KFAC's damping is added.
        rest: What steps the parameters that are in no layer.
        rest_lr: Their learning rate; `None` for ``lr`` under ``SGD`` and 3e-3 under ``ADAM``. Schedules act on it too.
    """

    lr: float
    damping: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    factor_interval: int = 10
    factor_share: float = 1.0
    inverse_interval: int = 10
    decay: float = 0.95
    kl_clip: float = 0.0
    clip_rate: ClipRate = ClipRate.DECLARED
    fisher: Fisher = Fisher.TRUE
    sharing: Sharing = Sharing.EXPAND
    solver: Solver = Solver.CHOLESKY
    form: Damping = Damping.FACTORED
    rest: Rest = Rest.SGD
    rest_lr: float | None = None

    @property
    def rate_of_rest(self) -> float:
        """Declared learning rate of the parameters that are in no layer."""
        if self.rest_lr is not None:
            return self.rest_lr
        return self.lr if self.rest is Rest.SGD else _ADAM_RATE

    def __post_init__(self) -> None:
        """Refuse what is out of its range."""
        rest = self.rate_of_rest
        for name, holds, fix in (
            ("lr", self.lr > 0, "above 0"),
            ("damping", self.damping > 0, "above 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("decay", 0 <= self.decay < 1, "in [0, 1)"),
            ("factor_share", 0 < self.factor_share <= 1, "in (0, 1]"),
            ("kl_clip", self.kl_clip >= 0, "at least 0"),
            ("factor_interval", self.factor_interval >= 1, "at least 1"),
            ("inverse_interval", self.inverse_interval >= 1, "at least 1"),
            ("rest_lr", isinstance(rest, int | float) and rest > 0, "None, or a number above 0"),
        ):
            if not holds:
                raise UsageError(f"KFAC: {name} must be {fix} (got {getattr(self, name)})")
        if self.solver is Solver.CHOLESKY and self.form is Damping.UNFACTORED:
            raise UsageError("KFAC: unfactored damping needs eigenvectors; give solver 'eigen', or form 'factored'")


_ADAM_RATE = 3e-3
