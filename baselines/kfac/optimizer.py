"""KFAC and EKFAC as update rules.

    θ ← θ − η v,    v ← μ v + ν (A ⊗ G + damping)⁻¹ ∇J + λ_wd θ

Every ``factor_interval`` steps A and G are estimated from the batch and averaged; every ``inverse_interval`` steps they
are inverted. EKFAC keeps the eigenvectors of A and G and replaces the eigenvalues.

ν ≤ 1 is the KL clip, min(1, √(κ / (η² ⟨∇J, P ∇J⟩))) over all layers; ``clip_rate`` says which η it is. Weight decay
enters neither P nor the clip: it shrinks every weight alike, by η λ_wd / (1 − μ) of itself a step in the long run, and
at rest ∇J = −(λ_wd/ν) P⁻¹ θ.

Parameters outside linear and convolution layers (normalization, embeddings, packed projections of attention, grouped
convolutions, weights behind parametrizations) are stepped by what ``rest`` says: along their plain gradient by the same
momentum (P = 1, ν = 1), or by Adam, with a learning rate of their own. `KFAC.left_alone` names them.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from apo_bench import Batch, Problem, StepResult, UsageError
from apo_bench.optim.layers import Layer, find_layers, from_matrix, left_alone, to_matrix
from baselines.kfac.curvature import KroneckerCurvature, Recipe, Rows
from baselines.kfac.examples import Arrangement, Examples, Free
from baselines.kfac.factors import Sharing
from baselines.kfac.gathering import Gathered
from baselines.kfac.hooks import Call, recording
from baselines.kfac.reach import reach
from baselines.kfac.rest import adam_of
from baselines.kfac.settings import ClipRate, Fisher, Settings


class KFAC:
    """SGD with momentum, preconditioned by Kronecker-factored curvature (Martens and Grosse, 2015).

    Args:
        problem: What is minimized.
        settings: Hyperparameters.
        curvature: What is kept of each layer; `CorrectedCurvature` makes it EKFAC.

    Raises:
        UsageError: The model has no layer.
    """

    computes_in_fp32 = ("products and inverses of the Kronecker factors",)

    def __init__(
        self, problem: Problem, settings: Settings, curvature: type[KroneckerCurvature] = KroneckerCurvature
    ) -> None:
        self.problem = problem
        self.settings = settings
        self.steps = 0
        self.layers, rest = find_layers(problem.model, problem.parameters, called=True)
        if not self.layers:
            raise UsageError(
                "KFAC: this model calls no linear layer and no convolution to precondition, so that all of it would be "
                "stepped by SGD with momentum; use sgdm"
            )
        self._layer_of = _modules_of(self.layers, problem)
        self._examples = Examples(problem, self._layer_of)
        self._by_example = curvature.by_example or settings.sharing is Sharing.REDUCE
        recipe = Recipe(settings.damping, settings.decay, settings.solver, settings.form)
        self.curvatures = [
            curvature(recipe, bias=layer.bias is not None, storage=problem.parameters[layer.weight].dtype)
            for layer in self.layers
        ]
        self._velocity: dict[int, Tensor] = {}
        self._rest = frozenset(rest)
        self._adam = adam_of(problem, rest, settings)
        self._generator = problem.generator("curvature")
        self._factor = 1.0
        self._clip: Tensor | None = None

    @property
    def intervals(self) -> Mapping[str, int]:
        """Steps between two estimates of the factors and between two inversions."""
        return {"factors": self.settings.factor_interval, "inverse": self.settings.inverse_interval}

    @property
    def left_alone(self) -> Mapping[str, tuple[str, ...]]:
        """Weights that step along their plain gradient; after a first step also those whose layer was not called."""
        seen = [
            layer
            for layer, curvature in zip(self.layers, self.curvatures, strict=True)
            if self.steps == 0 or curvature.estimates
        ]
        return left_alone(self.problem.model, self.problem.parameters, seen)

    def scale_learning_rate(self, factor: float) -> None:
        """Use ``factor`` times the learning rates from now on."""
        self._factor = factor
        if self._adam is not None:
            self._adam.param_groups[0]["lr"] = self.settings.rate_of_rest * factor

    def step(self, batch: Batch) -> StepResult:
        """Estimate and invert the curvature where that is due, and step along the preconditioned gradient.

        An overflow of the curvature's gradients skips the estimate; only where there is none yet, it skips the step.
        """
        problem = self.problem
        first = all(curvature.estimates == 0 for curvature in self.curvatures)
        due = first or self.steps % self.settings.factor_interval == 0
        rows: list[Rows | None] | None = None
        if due:
            with recording(self._layer_of) as calls:
                outputs = problem.outputs(batch, eager=True)
            loss = problem.loss(outputs, batch)
            with problem.phase("curvature"):
                rows = self._rows(calls, outputs, batch)
            if rows is None and first:
                return StepResult(loss.detach(), applied=False)
        else:
            outputs = problem.outputs(batch)
            loss = problem.loss(outputs, batch)
        gradients = problem.gradients(loss)
        if not gradients.finite:
            return StepResult(loss.detach(), applied=False)
        with torch.no_grad():
            self._update_curvature(rows, invert=first or self.steps % self.settings.inverse_interval == 0)
            with problem.phase("update"):
                self._move(gradients.values)
        self.steps += 1
        return StepResult(loss.detach(), applied=True)

    def _rows(self, calls: Sequence[Call], outputs: Tensor, batch: Batch) -> list[Rows | None] | None:
        """Inputs and output gradients of every layer, where the loss reaches it; `None` after an overflow.

        Raises:
            UsageError: The model calls no layer, or one with rows that cannot be told apart.
        """
        if not calls:
            raise UsageError(
                "KFAC: this model uses the weights of its layers without calling the layers, so that nothing can be "
                "preconditioned; call them as modules, or use sgdm"
            )
        problem = self.problem
        # 7 % of 100 are 7, and 7.000000000000001 in floating point
        count = math.ceil(self.settings.factor_share * batch.size * (1.0 - 1e-12))
        part = Batch(tuple(inputs[:count] for inputs in batch.inputs), batch.targets[:count])
        normalizer = problem.normalizer(part)
        if not normalizer:  # no label among them: they say nothing of the curvature
            return [None] * len(self.layers)
        arrangements = self._arrangements(calls, batch)
        if count < batch.size and any(isinstance(found, Free) for found in arrangements.values()):
            # Whose rows are whose is not known, and so the examples that count go through the model by themselves.
            with problem.lookahead(), recording(self._layer_of) as own_calls:
                outputs = problem.outputs(part, eager=True)
            calls = own_calls
            arrangements = dict.fromkeys(range(len(self.layers)), Free())
        reached = reach(problem, self._layer_of, calls, arrangements, outputs[:count], part, batch.size)
        places = range(len(self.layers))
        gathered = [Gathered(arrangements.get(place), count, reached.get(place)) for place in places]
        for call in calls:
            gathered[self._layer_of[call.module]].take(call)
        edges = [call.output for call in calls]
        for loss in self._curvature_losses(outputs[:count], part):
            gradients = problem.intermediate_gradients(loss, edges)
            if not gradients.finite:
                return None
            for own in gathered:
                own.start_loss()
            for call, value in zip(calls, gradients.values, strict=True):
                gathered[self._layer_of[call.module]].take_gradient(call.shaped(value))
        with torch.no_grad():
            return [own.rows(self.settings.sharing, normalizer) for own in gathered]

    def _arrangements(self, calls: Sequence[Call], batch: Batch) -> dict[int, Arrangement]:
        """How the rows of the layers belong to examples.

        Raises:
            UsageError: They do in no order, and this curvature needs one.
        """
        found = self._examples.of(calls, batch)
        if self._by_example:
            for place, arrangement in found.items():
                if isinstance(arrangement, Free):
                    raise UsageError(
                        f"KFAC: which rows of layer {self._examples.name(place)!r} belong to one example follows no "
                        "order (a router, a mask); EKFAC and sharing 'reduce' need it: use kfac with sharing 'expand'"
                    )
        return found

    def _curvature_losses(self, outputs: Tensor, batch: Batch) -> Iterator[Tensor]:
        """Losses, the second moments of whose gradients add up to G."""
        problem = self.problem
        match self.settings.fisher:
            case Fisher.TRUE:
                yield problem.loss(
                    outputs, batch._replace(targets=problem.sample_targets(outputs, batch, self._generator))
                )
            case Fisher.EMPIRICAL:
                yield problem.loss(outputs, batch)
            case Fisher.EXACT:
                wide = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
                for column in problem.hessian_square_root(outputs.detach(), batch):
                    yield (wide * column).sum() / problem.normalizer(batch)

    def _update_curvature(self, rows: Sequence[Rows | None] | None, *, invert: bool) -> None:
        for place, curvature in enumerate(self.curvatures):
            own = rows[place] if rows is not None else None
            if own is not None:
                with self.problem.phase("curvature"):
                    curvature.average(own)
            if invert:
                with self.problem.phase("inverse"):
                    curvature.refresh()
            if own is not None:
                with self.problem.phase("curvature"):
                    curvature.correct(own)

    def _move(self, gradients: Sequence[Tensor | None]) -> None:
        """Take the step; parameters that the loss does not reach stay."""
        settings = self.settings
        directions = {place: gradient for place, gradient in enumerate(gradients) if gradient is not None}
        if self._adam is not None:
            for place in self._rest & directions.keys():
                self.problem.parameters[place].grad = directions.pop(place)
            self._adam.step()
            self._adam.zero_grad(set_to_none=True)
        self._precondition(directions)
        parameters: list[Tensor] = [self.problem.parameters[place] for place in directions]
        updates = list(directions.values())
        if settings.weight_decay:
            updates = list(torch._foreach_add(updates, parameters, alpha=settings.weight_decay))  # noqa: SLF001
        if settings.momentum:
            new = directions.keys() - self._velocity.keys()
            self._velocity |= {place: torch.zeros_like(self.problem.parameters[place]) for place in new}
            velocities = [self._velocity[place] for place in directions]
            torch._foreach_mul_(velocities, settings.momentum)
            torch._foreach_add_(velocities, updates)
            updates = velocities
        rates = (settings.lr * self._factor, settings.rate_of_rest * self._factor)
        if rates[0] == rates[1]:
            torch._foreach_add_(parameters, updates, alpha=-rates[0])
            return
        for is_rest, rate in enumerate(rates):
            own = [index for index, place in enumerate(directions) if (place in self._rest) == bool(is_rest)]
            if own:
                torch._foreach_add_([parameters[i] for i in own], [updates[i] for i in own], alpha=-rate)

    def _precondition(self, directions: dict[int, Tensor]) -> None:
        """Replace the gradients of layers by ν P ∇J."""
        whole = [
            (layer, curvature)
            for layer, curvature in zip(self.layers, self.curvatures, strict=True)
            if all(place in directions for place in layer.places)
        ]
        found, products = [], []
        with self.problem.precision.arithmetic():
            for layer, curvature in whole:
                W_OI = to_matrix(layer, directions)
                found.append(curvature.precondition(W_OI))
                if self.settings.kl_clip:
                    wide = torch.promote_types(W_OI.dtype, torch.float32)  # in 16 bit the products would vanish
                    products.append(torch.vdot(found[-1].to(wide).flatten(), W_OI.to(wide).flatten()))
        if products:
            predicted = torch.stack(products).sum().clamp_min(torch.finfo(torch.float32).tiny)
            rate = self.settings.lr * (self._factor if self.settings.clip_rate is ClipRate.CURRENT else 1.0)
            self._clip = (self.settings.kl_clip / (rate**2 * predicted)).sqrt().clamp_max(1.0)
            torch._foreach_mul_(found, self._clip.to(found[0].dtype))
        for (layer, _), matrix in zip(whole, found, strict=True):
            directions.update(from_matrix(layer, matrix, directions))

    def readings(self) -> Mapping[str, float]:
        """The factor ν of the last step, where there is a KL clip."""
        return {} if self._clip is None else {"kl_clip_factor": float(self._clip)}

    def evaluating(self) -> contextlib.AbstractContextManager[None]:
        """The parameters are judged as they are."""
        return contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Momentum, Adam's state, factors, inverses, the generator of the Fisher's targets and the counters."""
        return {
            "velocity": [self._velocity.get(place) for place in range(len(self.problem.parameters))],
            "curvatures": [
                {"tensors": curvature.tensors(), "estimates": curvature.estimates} for curvature in self.curvatures
            ],
            "rest": None if self._adam is None else self._adam.state_dict(),
            "generator": self._generator.get_state(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self._velocity = {
            place: saved.to(self.problem.parameters[place], copy=True)
            for place, saved in enumerate(state["velocity"])
            if saved is not None
        }
        for curvature, saved in zip(self.curvatures, state["curvatures"], strict=True):
            curvature.load(saved["tensors"], saved["estimates"])
        if self._adam is not None:
            self._adam.load_state_dict(state["rest"])
        self._generator.set_state(state["generator"].cpu())
        self.steps = state["steps"]

    def state_tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """Momentum and Adam's moments, and what is kept of the curvature."""
        moments = [] if self._adam is None else [one for own in self._adam.state.values() for one in own.values()]
        return {
            "optimizer": [*self._velocity.values(), *moments],
            "curvature": [tensor for curvature in self.curvatures for tensor in curvature.tensors().values()],
        }


def _modules_of(layers: Sequence[Layer], problem: Problem) -> dict[nn.Module, int]:
    """Modules that use the layers' weights, with the layer's number; a shared weight has several."""
    weights = {id(problem.parameters[layer.weight]): place for place, layer in enumerate(layers)}
    modules = [module for module in problem.model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return {module: weights[id(module.weight)] for module in modules if id(module.weight) in weights}
