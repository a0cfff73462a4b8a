"""Objectives: how outputs are compared with targets, and with other outputs."""

from collections.abc import Iterator
from typing import Protocol

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from apo_bench.data.examples import Batch
from apo_bench.problem import draws

Outputs = Float[Tensor, "B *rest"]
Logits = Float[Tensor, "B C"]
SequenceLogits = Float[Tensor, "B T V"]
Scalar = Float[Tensor, ""]


class Objective(Protocol):
    """A negative log-likelihood with the discrepancy that belongs to it."""

    def loss(self, outputs: Outputs, batch: Batch) -> Scalar:
        """Mean negative log-likelihood over ``normalizer(batch)``, a float32 scalar."""
        ...

    def discrepancy(self, new: Outputs, old: Outputs, batch: Batch) -> Scalar:
        """Mean output-space discrepancy ρ(new, old) over ``normalizer(batch)``; 0 with zero gradient at ``new = old``.

        Differentiable in both arguments: with their roles swapped it is the discrepancy in the other direction.
        """
        ...

    def hessian_square_root(self, outputs: Outputs, batch: Batch) -> Iterator[Outputs]:
        """Square root of the Hessian of each example's negative log-likelihood in its outputs (for the exact GGN).

        Yields:
            Detached tensors v_c in the shape of ``outputs``, float32 or wider, with Σ_c v_c v_cᵀ = ∂²(−log p) / ∂f² for
            each example by itself: the mean over the batch is not in it. One at a time, as C may be large.
        """
        ...

    def sample_targets(self, outputs: Outputs, batch: Batch, generator: torch.Generator) -> Tensor:
        """Targets drawn from the model's own predictive distribution on ``batch`` (for the true Fisher).

        Outputs that are not finite give some valid target and raise nothing: their loss tells the divergence. With
        `apo_bench.problem.draws` it is so; `torch.multinomial` would end the process's use of a card.
        """
        ...

    def normalizer(self, batch: Batch) -> int:
        """Count over which the loss is a mean: examples or tokens."""
        ...


def wide(outputs: Tensor) -> Tensor:
    """16-bit numbers as float32, others as they are."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


class CrossEntropy:
    """Softmax cross-entropy on logits ``(batch, classes)`` and labels ``(batch,)``; 16-bit logits become float32."""

    def loss(self, outputs: Logits, batch: Batch) -> Scalar:
        """Mean cross-entropy over the examples."""
        return F.cross_entropy(wide(outputs), batch.targets)

    def discrepancy(self, new: Logits, old: Logits, batch: Batch) -> Scalar:  # noqa: ARG002 - every example counts
        """Mean of KL(old ‖ new), whose Hessian at ``new = old`` is the Fisher matrix."""
        return F.kl_div(
            F.log_softmax(wide(new), dim=-1),
            F.log_softmax(wide(old), dim=-1),
            log_target=True,
            reduction="batchmean",
        )

    def hessian_square_root(self, outputs: Logits, batch: Batch) -> Iterator[Logits]:  # noqa: ARG002 - every example counts
        """√p_c (e_c − p) for each class c: the columns of diag(√p) − p √pᵀ, whose square is diag(p) − p pᵀ."""
        return _softmax_columns(wide(outputs.detach()).softmax(dim=-1))

    def sample_targets(self, outputs: Logits, batch: Batch, generator: torch.Generator) -> Integer[Tensor, "B"]:  # noqa: ARG002 - every example counts
        """One label an example, drawn from the softmax; ``generator`` lives on the outputs' device."""
        return draws.categorical(wide(outputs.detach()).softmax(dim=-1), generator)

    def normalizer(self, batch: Batch) -> int:
        """Examples."""
        return batch.size


class TokenCrossEntropy:
    """Softmax cross-entropy of every position of padded sequences, with label smoothing.

    Logits are ``(batch, positions, pieces)``, targets ``(batch, positions)``; 16-bit logits become float32. A position
    whose target is the padding counts nowhere, whatever its logits are.

    Label smoothing (Szegedy et al., 2016, section 7) replaces the target by (1 − ε) e_y + ε / V, as `torch` does. The
    loss's Hessian and the discrepancy do not depend on ε, but the gradient at sampled targets does: its second moment
    is (1 − ε)² F + ε² (p − 1/V) (p − 1/V)ᵀ where the Fisher matrix F would be without smoothing.

    Args:
        padding: Target that is no target.
        label_smoothing: ε.
    """

    def __init__(self, padding: int = 0, label_smoothing: float = 0.1) -> None:
        self.padding = padding
        self.label_smoothing = label_smoothing

    def loss(self, outputs: SequenceLogits, batch: Batch) -> Scalar:
        """Mean over all tokens of the batch."""
        return F.cross_entropy(
            wide(outputs).flatten(0, -2),
            batch.targets.flatten().long(),
            ignore_index=self.padding,
            label_smoothing=self.label_smoothing,
        )

    def discrepancy(self, new: SequenceLogits, old: SequenceLogits, batch: Batch) -> Scalar:
        """Mean over all tokens of KL(old ‖ new); computed on the tokens alone, as the logits are large."""
        place_M = self._tokens(batch)
        new_MV, old_MV = (logits.flatten(0, -2).index_select(0, place_M) for logits in (new, old))
        return CrossEntropy().discrepancy(new_MV, old_MV, batch)

    def hessian_square_root(self, outputs: SequenceLogits, batch: Batch) -> Iterator[SequenceLogits]:
        """√p_c (e_c − p) at one position and for one class at a time: positions of one sequence are independent.

        A class at all positions at once would make the columns of positions that influence each other inside the
        network interfere. Exact, and for small networks: positions × pieces tensors.
        """
        p_BTV = wide(outputs.detach()).softmax(dim=-1)
        mask_BT = batch.targets != self.padding
        for t in range(p_BTV.shape[1]):
            p_BV = torch.where(mask_BT[:, t, None], p_BTV[:, t], 0.0)
            for column_BV in _softmax_columns(p_BV):
                column_BTV = torch.zeros_like(p_BTV)
                column_BTV[:, t] = column_BV
                yield column_BTV

    def sample_targets(
        self, outputs: SequenceLogits, batch: Batch, generator: torch.Generator
    ) -> Integer[Tensor, "B T"]:
        """A token where the batch has one, drawn from the softmax; padding stays padding.

        The padding itself is never drawn, whatever its probability: as a target it would be none.
        """
        place_M = self._tokens(batch)
        logits_MV = wide(outputs.detach().flatten(0, -2).index_select(0, place_M))
        logits_MV[:, self.padding] = -torch.inf
        p_MV = logits_MV.softmax(dim=-1)
        p_MV[:, self.padding] = 0.0  # also where a logit is NaN, and with it every probability
        drawn_M = draws.categorical(p_MV, generator)
        targets = batch.targets.flatten().index_copy(0, place_M, drawn_M.to(batch.targets.dtype))
        return targets.view_as(batch.targets)

    def normalizer(self, batch: Batch) -> int:
        """Tokens."""
        return int((batch.targets != self.padding).sum())

    def _tokens(self, batch: Batch) -> Tensor:
        """Places of the tokens among all positions of the batch."""
        return (batch.targets.flatten() != self.padding).nonzero().squeeze(1)


def _softmax_columns(p_BC: Logits) -> Iterator[Logits]:
    """√p_c (e_c − p) for each class c."""
    for c in range(p_BC.shape[-1]):
        root_B = p_BC[:, c].sqrt()
        column_BC = p_BC * -root_B.unsqueeze(1)
        column_BC[:, c] += root_B
        yield column_BC


class SquaredError:
    """Half squared error: the negative log-likelihood of a Gaussian of unit variance, without its constant.

    Outputs and targets have the same shape, the batch first; the error is summed over all other dimensions. 16-bit
    outputs become float32.

    >>> batch = Batch((), torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
    >>> float(SquaredError().loss(torch.zeros(2, 2), batch))
    1.25
    """

    def loss(self, outputs: Outputs, batch: Batch) -> Scalar:
        """Mean over the examples of ½ ‖f − t‖².

        Raises:
            ValueError: Outputs and targets differ in shape; broadcasting them would compare each with every other.
        """
        return _half_squared_distance(outputs, of_shape(outputs, batch.targets))

    def discrepancy(self, new: Outputs, old: Outputs, batch: Batch) -> Scalar:  # noqa: ARG002 - every example counts
        """Mean of ½ ‖new − old‖², the KL divergence of both Gaussians in either direction."""
        return _half_squared_distance(new, old)

    def hessian_square_root(self, outputs: Outputs, batch: Batch) -> Iterator[Outputs]:  # noqa: ARG002 - every example counts
        """Unit vectors: the Hessian is the identity."""
        ones = torch.ones_like(wide(outputs.detach()))
        return _one_output_at_a_time(ones)

    def sample_targets(self, outputs: Outputs, batch: Batch, generator: torch.Generator) -> Outputs:  # noqa: ARG002 - every example counts
        """Outputs plus standard normal noise; ``generator`` lives on the outputs' device."""
        mean = wide(outputs.detach())
        return mean + torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)

    def normalizer(self, batch: Batch) -> int:
        """Examples."""
        return batch.size


class BernoulliCrossEntropy:
    """Cross-entropy of independent Bernoulli variables, with outputs as logits and targets in [0, 1].

    Outputs and targets have the same shape, the batch first; the sum is over all other dimensions. With targets between
    0 and 1 (grey values) the smallest loss is their entropy and not 0. 16-bit logits become float32.

    >>> batch = Batch((), torch.tensor([[1.0, 0.5]]))
    >>> round(float(BernoulliCrossEntropy().loss(torch.zeros(1, 2), batch)), 4)  # 2 log 2
    1.3863
    """

    def loss(self, outputs: Outputs, batch: Batch) -> Scalar:
        """Mean over the examples of −Σ (t log σ(f) + (1 − t) log σ(−f)).

        Raises:
            ValueError: Outputs and targets differ in shape.
        """
        logits = wide(outputs)
        targets = of_shape(outputs, batch.targets).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)

    def discrepancy(self, new: Outputs, old: Outputs, batch: Batch) -> Scalar:  # noqa: ARG002 - every example counts
        """Mean of KL(old ‖ new) = Σ σ(old) log(σ(old) / σ(new)) + σ(−old) log(σ(−old) / σ(−new)).

        No logarithm of a rounded probability is taken, so that saturated units give finite numbers.
        """
        new, old = wide(new), wide(old)
        one = torch.sigmoid(old) * (F.logsigmoid(old) - F.logsigmoid(new))
        zero = torch.sigmoid(-old) * (F.logsigmoid(-old) - F.logsigmoid(-new))
        return (one + zero).sum() / len(new)

    def hessian_square_root(self, outputs: Outputs, batch: Batch) -> Iterator[Outputs]:  # noqa: ARG002 - every example counts
        """√(p (1 − p)) e_c for each output c."""
        logits = wide(outputs.detach())
        return _one_output_at_a_time((torch.sigmoid(logits) * torch.sigmoid(-logits)).sqrt())

    def sample_targets(self, outputs: Outputs, batch: Batch, generator: torch.Generator) -> Outputs:  # noqa: ARG002 - every example counts
        """0 or 1 for each output, in floating point; ``generator`` lives on the outputs' device."""
        return draws.bernoulli(torch.sigmoid(wide(outputs.detach())), generator)

    def normalizer(self, batch: Batch) -> int:
        """Examples."""
        return batch.size


def of_shape(outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets, if they have the shape of the outputs.

    Raises:
        ValueError: They have another: broadcasting would compare each with every other.
    """
    if targets.shape != outputs.shape:
        raise ValueError(
            f"targets of shape {tuple(targets.shape)} for outputs of shape {tuple(outputs.shape)}: give both one shape"
        )
    return targets


def _half_squared_distance(one: Tensor, other: Tensor) -> Tensor:
    return 0.5 * (wide(one) - wide(other)).square().sum() / len(one)


def _one_output_at_a_time(diagonal: Tensor) -> Iterator[Tensor]:
    """``diagonal`` at output c and 0 elsewhere, for each output c of an example."""
    flat_BC = diagonal.flatten(1)
    for c in range(flat_BC.shape[1]):
        column_BC = torch.zeros_like(flat_BC)
        column_BC[:, c] = flat_BC[:, c]
        yield column_BC.view_as(diagonal)
