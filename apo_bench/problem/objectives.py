"""Objectives: how outputs are compared with targets, and with other outputs."""

from collections.abc import Iterator
from typing import Protocol

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from apo_bench.data.examples import Batch
from apo_bench.problem import draws
from apo_bench.problem.shapes import (
    IGNORED,
    OBJECTIVES,
    alike,
    check_labels,
    check_numbers,
    counted_of,
    ignored_of,
    labels_of,
    same_outputs,
    tokens_of,
)

Outputs = Float[Tensor, "B *rest"]
Logits = Float[Tensor, "B C"]
SequenceLogits = Float[Tensor, "B T V"]
Scalar = Float[Tensor, ""]


class Objective(Protocol):
    """A negative log-likelihood with the discrepancy that belongs to it.

    An example (or position) that counts nowhere is left out of all: loss, discrepancy, Hessian, drawn targets and
    ``normalizer``. An objective that can tell wrong targets before the first step is `apo_bench.problem.shapes.Checked`
    too.
    """

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
    """Softmax cross-entropy on logits ``(batch, classes)`` and labels ``(batch,)``; 16-bit logits become float32.

    An example whose label is -100 counts nowhere, whatever its logits are. Where the batch has not a target for each
    of the outputs, every example counts in what needs no targets.
    """

    def loss(self, outputs: Tensor, batch: Batch) -> Scalar:
        """Mean cross-entropy over the examples with a label.

        Raises:
            ShapeError: Outputs or targets have another shape or type, or (on a CPU) a label has no class.
        """
        return _cross_entropy(wide(outputs), labels_of(OBJECTIVES, outputs, batch.targets), "CrossEntropy", IGNORED)

    def discrepancy(self, new: Tensor, old: Tensor, batch: Batch) -> Scalar:
        """Mean of KL(old ‖ new), whose Hessian at ``new = old`` is the Fisher matrix.

        Raises:
            ShapeError: Outputs or targets have another shape or type.
        """
        same_outputs("CrossEntropy", new, old)
        ignored_B = self._ignored(new, batch)
        if ignored_B is None:
            return _divergence(wide(new), wide(old)) / len(new)
        none_B1 = ignored_B.unsqueeze(1)  # equal logits have no divergence, and constants no gradient
        new_BC, old_BC = (wide(logits).masked_fill(none_B1, 0.0) for logits in (new, old))
        return _divergence(new_BC, old_BC) / (len(new) - ignored_B.sum())

    def hessian_square_root(self, outputs: Tensor, batch: Batch) -> Iterator[Logits]:
        """√p_c (e_c − p) for each class c: the columns of diag(√p) − p √pᵀ, whose square is diag(p) − p pᵀ."""
        ignored_B = self._ignored(outputs, batch)
        p_BC = wide(outputs.detach()).softmax(dim=-1)
        return _softmax_columns(p_BC if ignored_B is None else p_BC.masked_fill(ignored_B.unsqueeze(1), 0.0))

    def sample_targets(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> Integer[Tensor, "B"]:
        """One label an example, drawn from the softmax; ``generator`` lives on the outputs' device."""
        ignored_B = self._ignored(outputs, batch)
        drawn_B = draws.categorical(wide(outputs.detach()).softmax(dim=-1), generator)
        return drawn_B if ignored_B is None else drawn_B.masked_fill(ignored_B, IGNORED)

    def normalizer(self, batch: Batch) -> int:
        """Examples with a label."""
        ignored_B = ignored_of(batch.targets)
        return batch.size if ignored_B is None else batch.size - int(ignored_B.sum())

    def check_targets(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse labels without a class.

        Raises:
            ShapeError: There is one, or every label is -100.
        """
        check_labels("CrossEntropy", outputs.shape[-1], targets, IGNORED)

    def _ignored(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        """Which examples count nowhere; `None` where all count."""
        targets = batch.targets
        if targets.dim() == 1 and targets.shape != outputs.shape[:1]:
            labels_of(OBJECTIVES, outputs, torch.zeros(outputs.shape[:1], dtype=torch.int64))
            return None
        labels_of(OBJECTIVES, outputs, targets)
        return ignored_of(targets)


class TokenCrossEntropy:
    """Softmax cross-entropy of every position of padded sequences, with label smoothing.

    Logits are ``(batch, positions, pieces)``, targets ``(batch, positions)``; 16-bit logits become float32. A position
    whose target is the padding counts nowhere, whatever its logits are. The padding may be a piece, such as 0, or none,
    such as torch's -100.

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

    def loss(self, outputs: Tensor, batch: Batch) -> Scalar:
        """Mean over all tokens of the batch.

        Raises:
            ShapeError: Outputs or targets have another shape or type, or (on a CPU) a target is no piece.
        """
        labels = tokens_of(OBJECTIVES, outputs, batch.targets).flatten().long()
        logits = wide(outputs).flatten(0, -2)
        return _cross_entropy(logits, labels, "TokenCrossEntropy", self.padding, self.label_smoothing)

    def discrepancy(self, new: Tensor, old: Tensor, batch: Batch) -> Scalar:
        """Mean over all tokens of KL(old ‖ new); computed on the tokens alone, as the logits are large.

        Raises:
            ShapeError: Outputs or targets have another shape or type.
        """
        same_outputs("TokenCrossEntropy", new, old)
        place_M = self._tokens(new, batch)
        new_MV, old_MV = (logits.flatten(0, -2).index_select(0, place_M) for logits in (new, old))
        return _divergence(wide(new_MV), wide(old_MV)) / len(place_M)

    def hessian_square_root(self, outputs: Tensor, batch: Batch) -> Iterator[SequenceLogits]:
        """√p_c (e_c − p) at one position and for one class at a time: positions of one sequence are independent.

        A class at all positions at once would make the columns of positions that influence each other inside the
        network interfere. Exact, and for small networks: positions × pieces tensors.
        """
        mask_BT = counted_of(tokens_of(OBJECTIVES, outputs, batch.targets), self.padding)
        p_BTV = wide(outputs.detach()).softmax(dim=-1)
        for t in range(p_BTV.shape[1]):
            p_BV = torch.where(mask_BT[:, t, None], p_BTV[:, t], 0.0)
            for column_BV in _softmax_columns(p_BV):
                column_BTV = torch.zeros_like(p_BTV)
                column_BTV[:, t] = column_BV
                yield column_BTV

    def sample_targets(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> Integer[Tensor, "B T"]:
        """A token where the batch has one, drawn from the softmax; padding stays padding.

        The padding itself is never drawn, whatever its probability: as a target it would be none.
        """
        place_M = self._tokens(outputs, batch)
        logits_MV = wide(outputs.detach().flatten(0, -2).index_select(0, place_M))
        can_be_drawn = 0 <= self.padding < logits_MV.shape[1]  # a negative one would be counted from the end
        if can_be_drawn:
            logits_MV[:, self.padding] = -torch.inf
        p_MV = logits_MV.softmax(dim=-1)
        if can_be_drawn:
            p_MV[:, self.padding] = 0.0  # also where a logit is NaN, and with it every probability
        drawn_M = draws.categorical(p_MV, generator)
        targets = batch.targets.flatten().index_copy(0, place_M, drawn_M.to(batch.targets.dtype))
        return targets.view_as(batch.targets)

    def normalizer(self, batch: Batch) -> int:
        """Tokens."""
        return int(counted_of(batch.targets, self.padding).sum())

    def check_targets(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse targets that are no piece.

        Raises:
            ShapeError: There is one, or every target is the padding.
        """
        check_labels("TokenCrossEntropy", outputs.shape[-1], targets, self.padding)

    def _tokens(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Places of the tokens among all positions of the batch."""
        targets = tokens_of(OBJECTIVES, outputs, batch.targets)
        return counted_of(targets.flatten(), self.padding).nonzero().squeeze(1)


def _cross_entropy(logits: Logits, labels: Tensor, name: str, ignored: int, smoothing: float = 0.0) -> Scalar:
    try:
        return F.cross_entropy(logits, labels, ignore_index=ignored, label_smoothing=smoothing)
    except IndexError:  # a label out of range, which a CPU sees without being asked
        check_labels(name, logits.shape[1], labels, ignored)
        raise


def _divergence(new_MC: Logits, old_MC: Logits) -> Scalar:
    """Sum of KL(old ‖ new)."""
    log_new_MC, log_old_MC = F.log_softmax(new_MC, dim=-1), F.log_softmax(old_MC, dim=-1)
    return F.kl_div(log_new_MC, log_old_MC, log_target=True, reduction="sum")


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
    outputs become float32, and targets take the format of the outputs.

    >>> batch = Batch((), torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
    >>> float(SquaredError().loss(torch.zeros(2, 2), batch))
    1.25
    """

    def loss(self, outputs: Tensor, batch: Batch) -> Scalar:
        """Mean over the examples of ½ ‖f − t‖².

        Raises:
            ShapeError: Outputs and targets differ in shape; broadcasting them would compare each with every other.
        """
        return _half_squared_distance(outputs, alike("SquaredError", OBJECTIVES, outputs, batch.targets))

    def discrepancy(self, new: Tensor, old: Tensor, batch: Batch) -> Scalar:  # noqa: ARG002 - every example counts
        """Mean of ½ ‖new − old‖², the KL divergence of both Gaussians in either direction.

        Raises:
            ShapeError: Both differ in shape.
        """
        same_outputs("SquaredError", new, old)
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

    def check_targets(self, outputs: Tensor, targets: Tensor) -> None:  # noqa: ARG002 - whatever the outputs are
        """Refuse targets that are not finite.

        Raises:
            ShapeError: There is one.
        """
        check_numbers("SquaredError", targets)


class BernoulliCrossEntropy:
    """Cross-entropy of independent Bernoulli variables, with outputs as logits and targets in [0, 1].

    Outputs and targets have the same shape, the batch first; the sum is over all other dimensions. With targets between
    0 and 1 (grey values) the smallest loss is their entropy and not 0. 16-bit logits become float32.

    >>> batch = Batch((), torch.tensor([[1.0, 0.5]]))
    >>> round(float(BernoulliCrossEntropy().loss(torch.zeros(1, 2), batch)), 4)  # 2 log 2
    1.3863
    """

    def loss(self, outputs: Tensor, batch: Batch) -> Scalar:
        """Mean over the examples of −Σ (t log σ(f) + (1 − t) log σ(−f)).

        Raises:
            ShapeError: Outputs and targets differ in shape.
        """
        targets = alike("BernoulliCrossEntropy", OBJECTIVES, outputs, batch.targets)
        logits = wide(outputs)
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)

    def discrepancy(self, new: Tensor, old: Tensor, batch: Batch) -> Scalar:  # noqa: ARG002 - every example counts
        """Mean of KL(old ‖ new) = Σ σ(old) log(σ(old) / σ(new)) + σ(−old) log(σ(−old) / σ(−new)).

        No logarithm of a rounded probability is taken, so that saturated units give finite numbers.

        Raises:
            ShapeError: Both differ in shape.
        """
        same_outputs("BernoulliCrossEntropy", new, old)
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

    def check_targets(self, outputs: Tensor, targets: Tensor) -> None:  # noqa: ARG002 - whatever the outputs are
        """Refuse targets that are no probabilities.

        Raises:
            ShapeError: There is one.
        """
        check_numbers("BernoulliCrossEntropy", targets, 0.0, 1.0)


def _half_squared_distance(one: Tensor, other: Tensor) -> Tensor:
    return 0.5 * (wide(one) - wide(other)).square().sum() / len(one)


def _one_output_at_a_time(diagonal: Tensor) -> Iterator[Tensor]:
    """``diagonal`` at output c and 0 elsewhere, for each output c of an example."""
    flat_BC = diagonal.reshape(len(diagonal), -1)  # outputs may be one number an example
    for c in range(flat_BC.shape[1]):
        column_BC = torch.zeros_like(flat_BC)
        column_BC[:, c] = flat_BC[:, c]
        yield column_BC.view_as(diagonal)
