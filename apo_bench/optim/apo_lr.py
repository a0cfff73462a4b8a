"""APO-LR: the learning rate of any optimizer, learned by descending the proximal objective.

For an optimizer whose update is linear in its learning rate, θ′ = θ − η d, the step just taken *is* the lookahead and

    ∂Q/∂η = −⟨q, d⟩,    q = ∇_{θ′} Q,

so that no second update is computed. The rate is η = η₀ exp ψ with ψ = 0 at the start, hence

    ∂Q/∂ψ = −⟨q, θ − θ′⟩.

Every K steps ψ takes a step of its meta-optimizer and the parameters move to θ + (η_new / η_old) (θ′ − θ)
[poster, "APO for Learning Rate Adaptation"].

Around heavy ball, v ← μ v + g, the objective sees one step η v, while each gradient moves θ over all steps by
η g / (1 − μ). At a frozen θ and a linearized loss, with independent gradients of mean ḡ and second moment Σ,
M = λ_FSD G + λ_WSD I and a = μ / (1 − μ), the rate that it learns is

    η* = E[gᵀ v] / E[vᵀ M v] = (1 − μ²) tr(Σ + a ḡ ḡᵀ) / tr(M (Σ + 2 a ḡ ḡᵀ)),

by which a gradient moves θ over all steps 1 + μ times as far as the best rate without momentum where noise dominates,
and half of that where the mean does. Where the mean lies in flat directions and the noise in steep ones it is up to
(1 + μ) / (1 − μ) times as far: v sums the mean up, which the loss term rewards in full, and the discrepancy charges the
noise of this one step. One rate for all directions is then too high; the P of APO-P has one for each, and is not.

The lookahead may instead be all that this gradient will move, θ′ = θ − η g / (1 − μ) (`APOLR`, ``whole_move``). It does
not depend on the history, so that the objective is that of plain SGD in η / (1 − μ), and

    η* / (1 − μ) = tr Σ / tr(M Σ),

the best rate without momentum, wherever mean and noise lie.
"""

import contextlib
import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from apo_bench.data.examples import Batch
from apo_bench.errors import UsageError
from apo_bench.optim.combined import optimizers_of_groups
from apo_bench.optim.meta import MetaOptimizer
from apo_bench.optim.proximal import ProximalObjective, ProximalWeights
from apo_bench.problem.closure import take_step
from apo_bench.problem.held import tensors_in
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import StepResult, TorchRule

_CHECK_AT = 2
"""Step, counted from 0, at which linearity is checked: at the first, buffers that hold the rate still look linear."""
_LINEARITY = 1e-6


class APOLR:
    """An optimizer whose learning rate η = η₀ exp ψ adapts: every K steps ψ descends Q (Bae et al., 2022).

    Args:
        problem: What is minimized.
        optimizer: Base optimizer with its initial learning rate η₀; holds some or all of the problem's parameters.
        weights: λ_FSD and λ_WSD.
        meta_lr: α, the meta-optimizer's learning rate on ψ; 0 gives the base optimizer bit for bit.
        meta_optimizer: Which.
        interval: K, steps between two meta-updates.
        per_group: Whether each parameter group has a rate of its own.
        whole_move: Whether the lookahead is all that the gradient of B moves θ over all steps, g / (1 − μ) times η,
            instead of the step just taken; for `torch.optim.SGD` only.
        bounds: Smallest and largest learning rate.

    Raises:
        UsageError: Parameters are stored in 16 bit, where θ − θ′ is rounding noise, or (at the third step) the
            optimizer's update is not linear in its learning rate, or ``whole_move`` around another optimizer.
    """

    def __init__(
        self,
        problem: Problem,
        optimizer: torch.optim.Optimizer,
        *,
        weights: ProximalWeights,
        meta_lr: float = 0.1,
        meta_optimizer: MetaOptimizer = MetaOptimizer.RMSPROP,
        interval: int = 10,
        per_group: bool = False,
        whole_move: bool = False,
        bounds: tuple[float, float] = (1e-8, 1e2),
    ) -> None:
        if any(parameter.dtype in {torch.float16, torch.bfloat16} for parameter in problem.parameters):
            raise UsageError(
                "APO-LR needs parameters in 32 bit: in pure 16 bit a step's length is rounding noise; use fp16 or bf16"
            )
        if interval < 1:
            raise UsageError(f"APO-LR: interval must be at least 1 (got {interval})")
        if not 0 < bounds[0] < bounds[1]:
            raise UsageError(f"APO-LR: bounds must be two rates above 0, the lower one first (got {bounds})")
        if whole_move and type(optimizer) is not torch.optim.SGD:
            raise UsageError(
                f"APO-LR knows what a gradient moves over all steps of torch's SGD, and not of "
                f"{type(optimizer).__name__}; leave out whole_move"
            )
        self.problem = problem
        self.optimizer = optimizer
        self.weights = weights
        self.interval = interval
        self.whole_move = whole_move
        self.meta_updates = 0
        self.steps = 0
        self._initial = [float(group["lr"]) for group in optimizer.param_groups]
        count = len(self._initial) if per_group else 1
        self._psi = torch.zeros(count, dtype=torch.float64)
        self._meta = meta_optimizer.over([([self._psi], meta_lr)])
        self._bounds = bounds
        index = {id(parameter): place for place, parameter in enumerate(problem.parameters)}
        self._members = [
            [index[id(parameter)] for parameter in group["params"] if id(parameter) in index]
            for group in optimizer.param_groups
        ]

    @property
    def learning_rates(self) -> list[float]:
        """η of each parameter group."""
        return [
            rate * math.exp(float(self._psi[min(group, len(self._psi) - 1)]))
            for group, rate in enumerate(self._initial)
        ]

    @property
    def intervals(self) -> Mapping[str, int]:
        """Steps between two meta-updates."""
        return {"meta": self.interval}

    def step(self, batch: Batch) -> StepResult:
        """Step with the present rate; every K steps adapt the rate and rescale the step to it."""
        problem = self.problem
        meta = self.steps % self.interval == 0
        random_state = problem.random_state() if meta else {}
        loss = problem.loss(problem.outputs(batch), batch)
        gradients = problem.gradients(loss)
        if not gradients.finite:
            return StepResult(loss.detach(), applied=False)
        for parameter, gradient in zip(problem.parameters, gradients.values, strict=True):
            parameter.grad = gradient
        if self.steps == _CHECK_AT:
            check_linear(self.optimizer)
        with problem.phase("meta"):
            objective = ProximalObjective(problem, batch, random_state, self.weights) if meta else None
        moves = self._whole_moves() if meta and self.whole_move else None
        with problem.phase("update"):
            take_step(self.optimizer)
            self.optimizer.zero_grad(set_to_none=True)
        if objective is not None:
            with problem.phase("meta"):
                self._adapt(objective, moves)
        self.steps += 1
        return StepResult(loss.detach(), applied=True)

    @torch.no_grad()
    def _whole_moves(self) -> dict[int, Tensor]:
        """η (1 − dampening) g / (1 − μ) by parameter, the gradient with its coupled weight decay."""
        moves = {}
        decays = self._coupled_decay()
        for group, members in zip(self.optimizer.param_groups, self._members, strict=True):
            length = group["lr"] * (1.0 - group["dampening"] * bool(group["momentum"])) / (1.0 - group["momentum"])
            for place in members:
                parameter = self.problem.parameters[place]
                if parameter.grad is not None:
                    moves[place] = length * parameter.grad.add(parameter, alpha=decays[place])
        return moves

    def _adapt(self, objective: ProximalObjective, whole_moves: Mapping[int, Tensor] | None = None) -> None:
        """One meta-update, and the step just taken rescaled to the new rate; skipped when q overflows."""
        problem = self.problem
        decays = self._coupled_decay()
        if whole_moves is None:
            q = objective.gradient(decays)
        else:
            with _moved(problem, objective.start, whole_moves):
                q = objective.gradient(decays)
        if not q.finite:
            return
        gradient = torch.zeros_like(self._psi)
        with torch.no_grad():
            for group, members in enumerate(self._members):
                products = [
                    torch.dot(
                        (
                            objective.start[place] - problem.parameters[place]
                            if whole_moves is None
                            else whole_moves[place]
                        )
                        .flatten()
                        .double(),
                        q.values[place].flatten().double(),  # type: ignore[union-attr] # never None
                    )
                    for place in members
                    if whole_moves is None or place in whole_moves
                ]
                if products:
                    gradient[min(group, len(self._psi) - 1)] -= torch.stack(products).sum().cpu()
        if not bool(gradient.isfinite().all()):
            return
        before = self.learning_rates
        self._psi.grad = gradient
        self._meta.step()
        self._respect_bounds()
        self.meta_updates += 1
        after = self.learning_rates
        with torch.no_grad():
            for group, members in enumerate(self._members):
                self.optimizer.param_groups[group]["lr"] = after[group]
                ratio = after[group] / before[group]
                if ratio == 1.0:
                    continue
                for place in members:
                    parameter = problem.parameters[place]
                    parameter.copy_(torch.lerp(objective.start[place], parameter, ratio))

    def _coupled_decay(self) -> list[float]:
        """Coefficient by parameter of weight decay that acts through the gradient."""
        decay = [0.0] * len(self.problem.parameters)
        owners = optimizers_of_groups(self.optimizer)
        for group, owner, members in zip(self.optimizer.param_groups, owners, self._members, strict=True):
            decoupled = group.get("decoupled_weight_decay", isinstance(owner, torch.optim.Muon))
            for place in members:
                decay[place] = 0.0 if decoupled else float(group.get("weight_decay", 0.0))
        return decay

    def _respect_bounds(self) -> None:
        low, high = self._bounds
        with torch.no_grad():
            if len(self._psi) == len(self._initial):
                rates = torch.tensor(self._initial, dtype=torch.float64)
                self._psi.clamp_((low / rates).log(), (high / rates).log())
            else:
                self._psi.clamp_(math.log(low / min(self._initial)), math.log(high / max(self._initial)))

    def readings(self) -> Mapping[str, float]:
        """Learning rates and the number of meta-updates, for the curve."""
        rates = {f"learning_rate_{group}": rate for group, rate in enumerate(self.learning_rates)}
        if len(self._psi) == 1:
            rates = {"learning_rate": self.learning_rates[0]}
        return rates | {"meta_updates": float(self.meta_updates)}

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """The parameters are judged as they are."""
        return contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state, ψ and its meta-optimizer's."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "psi": self._psi.clone(),
            "meta": self._meta.state_dict(),
            "steps": self.steps,
            "meta_updates": self.meta_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.optimizer.load_state_dict(state["optimizer"])
        self._psi.copy_(state["psi"])
        self._meta.load_state_dict(state["meta"])
        self.steps = state["steps"]
        self.meta_updates = state["meta_updates"]

    def state_tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """The base optimizer's tensors, and those of the meta-level."""
        return {
            "optimizer": list(TorchRule(self.problem, self.optimizer).state_tensors()["optimizer"]),
            "meta": [self._psi, *tensors_in(self._meta.state)],
        }


@contextlib.contextmanager
def _moved(problem: Problem, start: Iterable[Tensor], moves: Mapping[int, Tensor]) -> Iterator[None]:
    """Let the parameters stand at ``start`` less ``moves``, and put them back where they are."""
    parameters = list(problem.parameters)
    with torch.no_grad():
        back = [parameter.detach().clone() for parameter in parameters]
        for place, (parameter, own) in enumerate(zip(parameters, start, strict=True)):
            parameter.copy_(own - moves[place] if place in moves else own)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, back)


def check_linear(optimizer: torch.optim.Optimizer) -> None:
    """Hold an optimizer to an update that is linear in its learning rate, with its gradients as they are now.

    A copy steps in float64 with the rate, another with half of it: the displacement must be half as long and the state
    the same. The optimizer itself is untouched.

    Raises:
        UsageError: It is not linear.
    """
    ends = [_trial_step(optimizer, factor) for factor in (1.0, 0.5)]
    (whole, state), (half, other_state) = ends
    kind = type(optimizer).__name__
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, one, other in zip(parameters, whole, half, strict=True):
        rounding = 1e-14 * float(parameter.detach().abs().max())
        if not torch.allclose(0.5 * one, other, rtol=0.0, atol=_LINEARITY * float(one.abs().max()) + rounding):
            raise UsageError(f"APO-LR needs an update that is linear in the learning rate; that of {kind} is not")
    for one, other in zip(state, other_state, strict=True):
        if not torch.allclose(one, other, rtol=_LINEARITY, atol=0.0):
            raise UsageError(f"APO-LR needs a state that does not depend on the learning rate; that of {kind} does")


def _trial_step(optimizer: torch.optim.Optimizer, factor: float) -> tuple[list[Tensor], list[Tensor]]:
    """Displacements and floating-point state after a step of a float64 copy with ``factor`` times the rate."""
    trial = copy.deepcopy(optimizer)
    starts = []
    for group, original in zip(trial.param_groups, optimizer.param_groups, strict=True):
        for parameter, source in zip(group["params"], original["params"], strict=True):
            parameter.data = parameter.data.double()
            parameter.grad = None if source.grad is None else source.grad.detach().double()
            starts.append(parameter.data.clone())
    trial.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # casts the state as the parameters are
    for group in trial.param_groups:
        group["lr"] = group["lr"] * factor
    take_step(trial)
    parameters = [parameter for group in trial.param_groups for parameter in group["params"]]
    moves = [start - parameter.data for start, parameter in zip(starts, parameters, strict=True)]
    return moves, [value for value in tensors_in(trial.state) if value.is_floating_point()]
