"""APO-P: a structured preconditioner, learned by descending the proximal objective.

    θ ← θ − η P m,   P = (A ⊗ B) diag(vec S)² (A ⊗ B)ᵀ for each layer    [poster, "Structured Preconditioner ..."]

with m the heavy-ball average of the gradients. Every K steps the step just taken is the lookahead θ′; q = ∇_{θ′} Q
gives the gradient of A, B and S in closed form (`kronecker.meta_gradient`), they take a step of Adam, and the
parameters move to the step that the new P makes of the same m. No covariance, no eigendecomposition, no inverse.

Momentum is applied before P, so that the lookahead sees P times all of m, and is dampened by default (m ← μ m +
(1 − μ) g, from m = 0), so that P = I starts with steps no longer than those of SGD. At a frozen θ and a linearized
loss, with independent gradients of mean ḡ and second moment Σ, M = λ_FSD G + λ_WSD I and a = μ / (1 − μ), the best P is

    P* = (1 + μ) M⁻¹ (Σ + a ḡ ḡᵀ) (Σ + 2 a ḡ ḡᵀ)⁻¹,

M⁻¹ where the mean dominates and (1 + μ) M⁻¹ where noise does; all steps together move θ by P g for each gradient.
Without dampening P* is 1 − μ times as long and makes the same steps. With momentum after P (v ← μ v + P g) it would be
M⁻¹ Σ (Σ + a ḡ ḡᵀ)⁻¹, and noise would move θ by M⁻¹ g / (1 − μ).

Layers are linear and convolution layers with their bias as an input column; all other parameters (normalization,
embeddings, packed projections of attention, grouped convolutions, weights behind parametrizations) step with P = I.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from apo_bench.data.examples import Batch
from apo_bench.errors import UsageError
from apo_bench.optim import kronecker
from apo_bench.optim.kronecker import AnyFactors
from apo_bench.optim.layers import Layer, find_layers, from_matrix, left_alone, to_matrix
from apo_bench.optim.meta import MetaOptimizer
from apo_bench.optim.proximal import ProximalObjective, ProximalWeights
from apo_bench.problem.held import tensors_in
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import StepResult


class Structure(StrEnum):
    """What A is for a convolution of C channels and a kernel of K places.

    ``FULL``: (K C) × (K C), as in the paper. ``SPATIAL``: a Kronecker product of K × K and C × C, much cheaper for
    wide convolutions.
    """

    FULL = "full"
    SPATIAL = "spatial"


class APOP:
    """SGD with momentum, preconditioned layer by layer by P = (A ⊗ B) diag(vec S)² (A ⊗ B)ᵀ (Bae et al., 2022).

    A, B, S and the meta-optimizer's state are kept in float32 (float64 for a float64 model) whatever the precision:
    stored in 16 bit they would never move.

    Args:
        problem: What is minimized.
        lr: η.
        weights: λ_FSD and λ_WSD.
        meta_lr: α, the meta-optimizer's learning rate on A, B and S; 0 gives SGD with momentum bit for bit, where its
            buffers start at 0.
        meta_optimizer: Which.
        interval: K, steps between two meta-updates.
        momentum: μ.
        dampening: A gradient enters the average with the weight 1 − dampening, the first one too; by default μ.
        weight_decay: Coefficient of an L2 penalty, part of the gradient and of Q.
        warmup_steps: Steps during which the parameters follow P = I while P is already learned.
        structure: What A is for a convolution.
        meta_width: n₀. One step of Adam moves each entry by α, and the spectral norm of an n × n matrix by up to n α:
            A and B of n > n₀ rows take α n₀ / n, so that ‖A − I‖₂ grows by at most n₀ α a meta-update, whatever the
            width; 0 for α everywhere.
        scale_lr: The meta-optimizer's learning rate on log c of a factor c that each layer's P has besides, from c = 1;
            0 for no such factor.

    Raises:
        UsageError: A number is out of its range, or the model has no layer.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        lr: float,
        weights: ProximalWeights,
        meta_lr: float = 1e-4,
        meta_optimizer: MetaOptimizer = MetaOptimizer.ADAM,
        interval: int = 10,
        momentum: float = 0.9,
        dampening: float | None = None,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        structure: Structure = Structure.FULL,
        meta_width: int = 0,
        scale_lr: float = 0.0,
    ) -> None:
        for name, value, holds, bounds in (
            ("interval", interval, interval >= 1, "at least 1"),
            ("lr", lr, lr > 0, "above 0"),
            ("momentum", momentum, 0 <= momentum < 1, "in [0, 1)"),
            ("warmup_steps", warmup_steps, warmup_steps >= 0, "at least 0"),
            ("meta_width", meta_width, meta_width >= 0, "at least 0"),
            ("scale_lr", scale_lr, scale_lr >= 0, "at least 0"),
        ):
            if not holds:
                raise UsageError(f"APO-P: {name} must be {bounds} (got {value})")
        self.problem = problem
        self.lr = lr
        self.weights = weights
        self.interval = interval
        self.momentum = momentum
        self.dampening = momentum if dampening is None else dampening
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.steps = 0
        self.meta_updates = 0
        self.layers, _ = find_layers(problem.model, problem.parameters)
        if not self.layers:
            raise UsageError(
                "APO-P: this model has no linear layer and no convolution to precondition, so that all of it would be "
                "stepped by SGD with momentum; use sgdm"
            )
        self._parameters: list[Tensor] = list(problem.parameters)
        self.factors = [_identity(layer, problem.parameters[layer.weight], structure) for layer in self.layers]
        self._buffers: dict[int, Tensor] = {}
        self._log_scales = self.factors[0].S_OI.new_zeros(len(self.layers)) if scale_lr else None
        groups = _by_rate(self.factors, meta_lr, meta_width)
        if self._log_scales is not None:
            groups.append(([self._log_scales], scale_lr))
        self._meta = meta_optimizer.over(groups)
        self._factor = 1.0

    @property
    def intervals(self) -> Mapping[str, int]:
        """Steps between two meta-updates."""
        return {"meta": self.interval}

    @property
    def left_alone(self) -> Mapping[str, tuple[str, ...]]:
        """Weights that step with P = I."""
        return left_alone(self.problem.model, self.problem.parameters, self.layers)

    @torch.no_grad()
    def start_at(self, factors: Iterable[AnyFactors]) -> None:
        """Let P start elsewhere than at the identity: A, B and S of each layer, which are copied."""
        for own, given in zip(self.factors, factors, strict=True):
            for part, value in zip(own, given, strict=True):
                part.copy_(value)

    def scale_learning_rate(self, factor: float) -> None:
        """Use ``factor`` times the learning rate from now on."""
        self._factor = factor

    def step(self, batch: Batch) -> StepResult:
        """Step with the present P; every K steps adapt P and take the step again with it."""
        problem = self.problem
        meta = self.steps % self.interval == 0
        random_state = problem.random_state() if meta else {}
        loss = problem.loss(problem.outputs(batch), batch)
        gradients = problem.gradients(loss)
        if not gradients.finite:
            return StepResult(loss.detach(), applied=False)
        with problem.phase("meta"):
            objective = ProximalObjective(problem, batch, random_state, self.weights) if meta else None
        active = self.steps >= self.warmup_steps
        with problem.phase("update"):
            averages = self._average(gradients.values)
            self._move(self._directions(averages, preconditioned=active or meta))
        if objective is not None:
            with problem.phase("meta"):
                adapted = self._adapt(objective, averages)
                if adapted or not active:
                    self._restore(objective.start)
                    self._move(self._directions(averages, preconditioned=active))
        self.steps += 1
        return StepResult(loss.detach(), applied=True)

    @property
    def _rate(self) -> float:
        return self.lr * self._factor

    @torch.no_grad()
    def _average(self, gradients: Sequence[Tensor | None]) -> list[Tensor]:
        """Momentum buffers after this step; zeros where the loss does not reach.

        They start at 0. `torch.optim.SGD` starts them at the first gradient, undampened: with dampening = μ the first
        step would be 1 / (1 − μ) times as long as the gradient's share of an average.
        """
        parameters, buffers = self._parameters, self._buffers
        found = {place: gradient for place, gradient in enumerate(gradients) if gradient is not None}
        if self.weight_decay and found:
            own = [parameters[place] for place in found]
            decayed = torch._foreach_add(list(found.values()), own, alpha=self.weight_decay)  # noqa: SLF001
            found = dict(zip(found, decayed, strict=True))
        if self.momentum:
            buffers |= {place: torch.zeros_like(gradient) for place, gradient in found.items() if place not in buffers}
            averaged = [buffers[place] for place in found]
            if averaged:
                torch._foreach_mul_(averaged, self.momentum)
                torch._foreach_add_(averaged, list(found.values()), alpha=1.0 - self.dampening)
            found = dict(zip(found, averaged, strict=True))
        return [found[place] if place in found else torch.zeros_like(own) for place, own in enumerate(parameters)]

    @torch.no_grad()
    def _directions(self, averages: list[Tensor], *, preconditioned: bool) -> list[Tensor]:
        """P m, or m, by parameter."""
        directions = list(averages)
        if preconditioned:
            for layer, factors, scale in zip(self.layers, self.factors, self._scales(), strict=True):
                matrix = kronecker.precondition(factors, to_matrix(layer, averages).to(factors.S_OI.dtype))
                matrix = matrix if scale is None else matrix * scale
                for place, part in from_matrix(layer, matrix, averages).items():
                    directions[place] = part.to(averages[place].dtype)
        return directions

    def _scales(self) -> Sequence[Tensor | None]:
        """The factor c of each layer."""
        return [None] * len(self.layers) if self._log_scales is None else self._log_scales.exp().unbind()

    @torch.no_grad()
    def _move(self, directions: list[Tensor]) -> None:
        torch._foreach_add_(self._parameters, directions, alpha=-self._rate)

    @torch.no_grad()
    def _restore(self, start: list[Tensor]) -> None:
        torch._foreach_copy_(self._parameters, start)

    def _adapt(self, objective: ProximalObjective, averages: list[Tensor]) -> bool:
        """One meta-update of A, B and S; skipped when q or their gradient is not finite."""
        q = objective.gradient([self.weight_decay] * len(averages))
        if not q.finite:
            return False
        found = []
        values = [value for value in q.values if value is not None]
        with torch.no_grad():
            for layer, factors, scale in zip(self.layers, self.factors, self._scales(), strict=True):
                dtype = factors.S_OI.dtype
                G_OI, q_OI = to_matrix(layer, averages).to(dtype), to_matrix(layer, values).to(dtype)
                found.append(
                    kronecker.meta_gradient(factors, G_OI if scale is None else G_OI * scale, q_OI, self._rate)
                )
            flat = [part for gradients in found for part in gradients]
            if self._log_scales is not None:
                flat.append(_in_log_scales(self.factors, found))
            if not bool(torch.stack(torch._foreach_norm(flat, float("inf"))).isfinite().all()):  # noqa: SLF001
                return False
            if self._log_scales is not None:
                self._log_scales.grad = flat[-1]
            for factors, gradients in zip(self.factors, found, strict=True):
                for part, gradient in zip(factors, gradients, strict=True):
                    part.grad = gradient
        self._meta.step()
        self._meta.zero_grad(set_to_none=True)
        self.meta_updates += 1
        return True

    def readings(self) -> Mapping[str, float]:
        """The number of meta-updates, and how far P is from the identity, ‖P − I‖ / ‖I‖, by layer."""
        distances = {
            f"distance_from_identity_{place}": kronecker.distance_from_identity(factors)
            for place, factors in enumerate(self.factors)
        }
        scales = {} if self._log_scales is None else dict(enumerate(self._log_scales.exp().tolist()))
        return (
            {"meta_updates": float(self.meta_updates)}
            | distances
            | {f"scale_{place}": scale for place, scale in scales.items()}
        )

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """The parameters are judged as they are."""
        return contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """A, B, S, momentum, the meta-optimizer's state and the counters."""
        return {
            "factors": [tuple(part.clone() for part in factors) for factors in self.factors],
            "log_scales": None if self._log_scales is None else self._log_scales.clone(),
            "buffers": [self._buffers.get(place) for place in range(len(self._parameters))],
            "meta": self._meta.state_dict(),
            "steps": self.steps,
            "meta_updates": self.meta_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.start_at(state["factors"])
        if self._log_scales is not None:
            self._log_scales.copy_(state["log_scales"])
        self._buffers = {
            place: saved.to(self._parameters[place], copy=True)
            for place, saved in enumerate(state["buffers"])
            if saved is not None
        }
        self._meta.load_state_dict(state["meta"])
        self.steps = state["steps"]
        self.meta_updates = state["meta_updates"]

    def state_tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """Momentum, A, B and S, and the meta-optimizer's state."""
        return {
            "optimizer": list(self._buffers.values()),
            "preconditioner": [
                *(part for factors in self.factors for part in factors),
                *([] if self._log_scales is None else [self._log_scales]),
            ],
            "meta": list(tensors_in(self._meta.state)),
        }


def _identity(layer: Layer, weight: Tensor, structure: Structure) -> AnyFactors:
    dtype = torch.promote_types(weight.dtype, torch.float32)
    if structure is Structure.SPATIAL and layer.kernel > 1:
        return kronecker.spatial_identity(
            layer.out_features, layer.in_features, layer.kernel, dtype=dtype, device=weight.device
        )
    return kronecker.identity(layer.out_features, layer.in_features, dtype=dtype, device=weight.device)


def _by_rate(factors: Iterable[AnyFactors], rate: float, width: int) -> list[tuple[list[Tensor], float]]:
    """A, B and S of all layers by their rate: that of a matrix of more than ``width`` rows falls with its rows."""
    groups: dict[float, list[Tensor]] = {}
    for own in factors:
        *matrices, scales = own
        for matrix in matrices:
            share = min(1.0, width / matrix.shape[-1]) if width else 1.0
            groups.setdefault(rate * share, []).append(matrix)
        groups.setdefault(rate, []).append(scales)
    return [(tensors, own_rate) for own_rate, tensors in groups.items()]


def _in_log_scales(factors: Iterable[AnyFactors], gradients: Iterable[AnyFactors]) -> Tensor:
    """∂Q/∂log c of each layer, −⟨q, θ − θ′⟩ = ½ ⟨S, ∂Q/∂S⟩, since P depends on c S² alone."""
    products = [(own.S_OI * found.S_OI).sum() for own, found in zip(factors, gradients, strict=True)]
    return torch.stack(products) / 2.0
