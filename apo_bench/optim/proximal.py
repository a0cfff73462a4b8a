"""The proximal meta-objective Q and its gradient at the lookahead point.

    Q(φ) = J_B(θ′) + λ_FSD ρ(f(x̃; θ′), f(x̃; θ)) + (λ_WSD / 2) ‖θ′ − θ‖²,   θ′ = u(θ, φ, B)    [poster, APO algorithm]

with the loss term on the batch B that gave the gradient and the function-space discrepancy (FSD) on another batch B′.
For a loss that is a likelihood the FSD is KL(old ‖ new), or KL(new ‖ old) on demand; near θ both are half the squared
length of θ′ − θ in the Fisher metric.
Since the gradient g = ∇J_B(θ) does not depend on φ, ∇_φ Q = (∂θ′/∂φ)ᵀ q with q = ∇_{θ′} Q: one ordinary backward pass
at θ′, no second derivative and no unrolled graph.

The loss term may be taken on a part b of B. θ′ depends on B and not on which of its examples are in b; B is in random
order, so that every example is as likely in b as any other, and for a loss that is a mean over examples

    E[∇J_b(θ′) | B] = ∇J_B(θ′),

exactly, whatever the loss and the step: Q keeps its expectation and its optimum, and only its variance grows. Where b
is no sample of B it does not hold: batch normalization takes the statistics of b, so that its loss is that of a smaller
batch; dropout draws masks of b's shape, so that what the step owes to its masks is no longer rewarded; and a mean over
tokens weighs an example by its length within b.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from apo_bench.data.examples import Batch
from apo_bench.errors import UsageError
from apo_bench.problem.problem import Gradients, Problem


@dataclasses.dataclass(frozen=True)
class ProximalWeights:
    """Weights of the two proximity terms, and how the first is taken.

    Attributes:
        fsd: λ_FSD, of the function-space discrepancy.
        wsd: λ_WSD, of the weight-space discrepancy.
        reverse: Whether the discrepancy is ρ(old, new), for a likelihood KL(new ‖ old), instead of ρ(new, old), which
            is KL(old ‖ new).
        share: Of B, and of B′ unless ``extra`` says how many, on which Q is taken: the first examples, at least one.
            Means stay means, so that λ_FSD keeps its meaning.
        extra: How many examples of B′ are used, the first ones of the batch that is drawn; `None` for ``share``.
        fresh: Whether the loss term is taken on a batch of its own instead of B. Only for the ablation: then Q no
            longer rewards what the step does for its own examples, and the best preconditioner has rank one.
    """

    fsd: float
    wsd: float
    reverse: bool = False
    share: float = 1.0
    extra: int | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        """Refuse negative weights, no share and an empty B′."""
        if self.fsd < 0 or self.wsd < 0:
            raise ValueError(f"weights of a proximal objective are not negative: {self}")
        if not 0 < self.share <= 1:
            raise ValueError(f"a share of the batches is above 0 and at most 1: {self}")
        if self.extra is not None and self.extra < 1:
            raise ValueError(f"the additional batch has at least one example: {self}")


class ProximalObjective:
    """Q for one step: made while the model holds θ, asked for its gradient when it holds θ′.

    Both passes over B, at θ (by the caller) and at θ′, see the same dropout masks, and so do both passes over B′; batch
    normalization uses each batch's own statistics; buffers and the random state are left as they were. B and B′ pass
    separately, so that models which mix the examples of a batch are right too.

    Args:
        problem: The model at θ.
        batch: B.
        random_state: `Problem.random_state` as it was before the caller's forward pass over B.
        weights: λ_FSD and λ_WSD. Without λ_FSD no batch B′ is drawn.

    Raises:
        UsageError: More examples of B′ are wanted than a batch has.
    """

    def __init__(self, problem: Problem, batch: Batch, random_state: dict[str, Any], weights: ProximalWeights) -> None:
        self._problem = problem
        self._batch = _part(problem.draw() if weights.fresh else batch, weights.share)
        self._random_state = random_state
        self._weights = weights
        self._start = [parameter.detach().clone() for parameter in problem.parameters]
        self._other: Batch | None = None
        if weights.fsd > 0:
            other = problem.draw()
            self._other = _part(other, weights.share) if weights.extra is None else _first(other, weights.extra)
            with torch.no_grad(), problem.lookahead(random_state):
                self._old_outputs = problem.outputs(self._other)

    @property
    def start(self) -> list[Tensor]:
        """θ, in the order of `Problem.parameters`."""
        return self._start

    def gradient(self, decay: list[float] | None = None) -> Gradients:
        """Q = ∇_{θ′} Q at the parameters that the model holds now.

        Args:
            decay: Coefficient of an L2 penalty that is part of the loss (coupled weight decay), by parameter. It is
                part of Q too, or the meta-gradient would work against it; decoupled decay is part of the update only.

        Returns:
            q, in the order of `Problem.parameters`, from the stream ``meta``; its overflow says nothing about the step.
        """
        problem, weights = self._problem, self._weights
        with problem.lookahead(self._random_state):
            objective = problem.loss(problem.outputs(self._batch), self._batch)
        if self._other is not None:
            with problem.lookahead(self._random_state):
                ahead = problem.outputs(self._other)
                new_old = (self._old_outputs, ahead) if weights.reverse else (ahead, self._old_outputs)
                objective = objective + weights.fsd * problem.discrepancy(*new_old, self._other)
        found = problem.gradients(objective, "meta")
        finite, values = found.finite, list(found.values)
        del found  # each gradient is let go as soon as q replaces it
        for index, (parameter, start) in enumerate(zip(problem.parameters, self._start, strict=True)):
            now = parameter.detach()
            q = values[index]
            if q is None:
                q = torch.zeros_like(now)
            if weights.wsd:
                q = q.add(now - start, alpha=weights.wsd)
            if decay is not None and decay[index]:
                q = q.add(now, alpha=decay[index])
            values[index] = q
        return Gradients(tuple(values), finite)


def _part(batch: Batch, share: float) -> Batch:
    """The first examples of a batch; itself where that is all of them."""
    return batch if share == 1.0 else _first(batch, max(1, round(share * batch.size)))


def _first(batch: Batch, count: int) -> Batch:
    if count > batch.size:
        raise UsageError(
            f"APO: {count} examples of an additional batch that has {batch.size}; give {batch.size} or fewer"
        )
    return Batch(tuple(part[:count] for part in batch.inputs), batch.targets[:count])
