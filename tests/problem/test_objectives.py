"""Objectives: stable in 16 bit and at saturated logits, discrepancies as torch's distributions have them."""

import doctest
from typing import Any

import pytest
import torch
from support.objectives import NOTHING, OBJECTIVES
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn import functional as F  # noqa: N812 - its usual name

import apo_bench
from apo_bench.data.examples import Batch
from apo_bench.problem import objectives
from apo_bench.problem.objectives import BernoulliCrossEntropy, CrossEntropy, Objective, SquaredError, TokenCrossEntropy


def test_docstring_examples() -> None:
    assert doctest.testmod(objectives).failed == 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_plugin_finds_it_at_the_front_door(name: str) -> None:
    assert getattr(apo_bench, name) is type(OBJECTIVES[name][0])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_the_mean_negative_log_likelihood(name: str) -> None:
    """Up to the Gaussian's constant, which cancels in a difference."""
    objective, distribution = OBJECTIVES[name]
    outputs, others = torch.randn(2, 5, 3, dtype=torch.float64)
    targets = distribution(others).sample()
    got = objective.loss(outputs, Batch((), targets)) - objective.loss(others, Batch((), targets))
    expected = (distribution(others).log_prob(targets) - distribution(outputs).log_prob(targets)).sum() / 5
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_discrepancy_is_the_kl_divergence_from_old_to_new(name: str) -> None:
    objective, distribution = OBJECTIVES[name]
    new, old = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    got = objective.discrepancy(new, old, NOTHING)
    expected = kl_divergence(distribution(old), distribution(new)).sum() / 5
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for argument in (new, old):
        (one,) = torch.autograd.grad(got, argument, retain_graph=True)
        (other,) = torch.autograd.grad(expected, argument, retain_graph=True)
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_sampled_targets_follow_the_model(name: str) -> None:
    """The second moment of the loss's gradient over sampled targets is its Hessian: both are the Fisher matrix."""
    objective, _ = OBJECTIVES[name]
    one = torch.tensor([0.5, -1.0, 1.5], dtype=torch.float64)
    count = 200_000
    outputs = one.expand(count, 3).clone().requires_grad_()
    targets = objective.sample_targets(outputs, NOTHING, torch.Generator().manual_seed(0))
    assert not targets.requires_grad
    (gradients,) = torch.autograd.grad(objective.loss(outputs, Batch((), targets)) * count, outputs)
    columns = torch.stack([column[0] for column in objective.hessian_square_root(outputs[:1], NOTHING)])
    torch.testing.assert_close(gradients.mT @ gradients / count, columns.mT @ columns, rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_16_bit_outputs_are_compared_in_float32(name: str, dtype: torch.dtype) -> None:
    """A sum over 4096 outputs of an error of 5 each would overflow in fp16."""
    objective, distribution = OBJECTIVES[name]
    outputs = (torch.randn(8, 4096) * 5.0).to(dtype)
    targets = distribution(outputs.float()).sample()
    batch = Batch((), targets)
    assert objective.loss(outputs, batch).dtype is torch.float32
    assert objective.loss(outputs, batch) == objective.loss(outputs.float(), batch)
    assert objective.discrepancy(outputs, -outputs, NOTHING) == objective.discrepancy(
        outputs.float(), -outputs.float(), NOTHING
    )
    assert next(iter(objective.hessian_square_root(outputs, NOTHING))).dtype is torch.float32
    assert objective.sample_targets(outputs, NOTHING, torch.Generator().manual_seed(0)).dtype is not dtype


@pytest.mark.parametrize("objective", [CrossEntropy(), BernoulliCrossEntropy()])
def test_saturated_logits_give_finite_numbers(objective: Objective) -> None:
    """Where probabilities are rounded to 0 and 1, whose logarithm would be infinite."""
    new = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    old = torch.tensor([[-200.0, 200.0, 0.0]], requires_grad=True)
    value = objective.discrepancy(new, old, NOTHING)
    assert value.item() == pytest.approx(400.0)
    assert all(bool(part.isfinite().all()) for part in torch.autograd.grad(value, [new, old]))
    same = objective.discrepancy(new, new.detach(), NOTHING)
    (gradient,) = torch.autograd.grad(same, new)
    assert same.item() == 0.0
    assert float(gradient.abs().max()) < 1e-7
    assert all(bool(column.isfinite().all()) for column in objective.hessian_square_root(new, NOTHING))


@pytest.mark.parametrize("objective", [SquaredError(), BernoulliCrossEntropy()])
def test_outputs_of_more_dimensions_are_summed_over_all(objective: Any) -> None:
    outputs, other = torch.randn(2, 4, 2, 3, dtype=torch.float64)
    targets = torch.rand(4, 2, 3, dtype=torch.float64)
    flat = Batch((), targets.flatten(1))
    torch.testing.assert_close(objective.loss(outputs, Batch((), targets)), objective.loss(outputs.flatten(1), flat))
    torch.testing.assert_close(
        objective.discrepancy(outputs, other, NOTHING),
        objective.discrepancy(outputs.flatten(1), other.flatten(1), NOTHING),
    )
    columns = list(objective.hessian_square_root(outputs, NOTHING))
    assert len(columns) == 6
    assert all(column.shape == outputs.shape for column in columns)


@pytest.mark.parametrize("objective", [SquaredError(), BernoulliCrossEntropy()])
def test_targets_that_would_broadcast_are_refused(objective: Any) -> None:
    with pytest.raises(ValueError, match=r"targets of shape \(4,\) for outputs of shape \(4, 1\): give both one"):
        objective.loss(torch.zeros(4, 1), Batch((), torch.zeros(4)))


PADDING = 0


def _sequences() -> tuple[Tensor, Batch, Tensor]:
    """Logits of three sequences of 4, 2 and 1 tokens, their padded targets, and which positions are tokens."""
    outputs = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    tokens = torch.arange(4) < torch.tensor([4, 2, 1])[:, None]
    targets = torch.randint(1, 5, (3, 4), dtype=torch.int32).masked_fill(~tokens, PADDING)
    return outputs, Batch((), targets), tokens


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_sequences_is_that_of_their_tokens(smoothing: float) -> None:
    outputs, batch, tokens = _sequences()
    packed = Batch((), batch.targets[tokens].long())
    got = TokenCrossEntropy(PADDING, smoothing).loss(outputs, batch)
    expected = F.cross_entropy(outputs[tokens], packed.targets, label_smoothing=smoothing)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    (one,), (other,) = torch.autograd.grad(got, outputs), torch.autograd.grad(expected, outputs)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    if not smoothing:
        torch.testing.assert_close(got, CrossEntropy().loss(outputs[tokens], packed), rtol=1e-12, atol=1e-12)


def test_label_smoothing_mixes_the_target_with_all_pieces() -> None:
    outputs, batch, tokens = _sequences()
    log_MV = outputs[tokens].log_softmax(1)
    mixed_MV = 0.9 * F.one_hot(batch.targets[tokens].long(), 5) + 0.1 / 5
    torch.testing.assert_close(TokenCrossEntropy(PADDING).loss(outputs, batch), -(mixed_MV * log_MV).sum() / 7)


def test_the_discrepancy_of_sequences_is_that_of_their_tokens() -> None:
    new, batch, tokens = _sequences()
    old = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    got = TokenCrossEntropy(PADDING).discrepancy(new, old, batch)
    expected = CrossEntropy().discrepancy(new[tokens], old[tokens], NOTHING)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for argument in (new, old):
        (one,) = torch.autograd.grad(got, argument, retain_graph=True)
        (other,) = torch.autograd.grad(expected, argument, retain_graph=True)
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_what_stands_at_padding_has_no_influence() -> None:
    """In no value of the objective, and with a gradient of exactly zero."""
    objective = TokenCrossEntropy(PADDING)
    outputs, batch, tokens = _sequences()
    old = torch.randn(3, 4, 5, dtype=torch.float64)
    other = torch.where(tokens[:, :, None], outputs, 1e4 * torch.randn_like(outputs)).detach().requires_grad_()
    for compare in (lambda f: objective.loss(f, batch), lambda f: objective.discrepancy(f, old, batch)):
        assert compare(outputs) == compare(other)  # type: ignore[no-untyped-call] # a lambda
        (gradient,) = torch.autograd.grad(compare(other), other)  # type: ignore[no-untyped-call] # a lambda
        assert not bool(gradient[~tokens].any())
        assert bool(gradient[tokens].all())
    columns = zip(*(objective.hessian_square_root(f, batch) for f in (outputs, other)), strict=True)
    assert all(torch.equal(one, another) for one, another in columns)


def test_the_hessian_of_a_sequence_has_a_block_for_each_token() -> None:
    objective = TokenCrossEntropy(PADDING)
    outputs, batch, tokens = _sequences()
    columns_CBF = torch.stack([column.flatten(1) for column in objective.hessian_square_root(outputs, batch)])
    got_BFF = torch.einsum("cbf,cbg->bfg", columns_CBF, columns_CBF)
    flat_CMV = torch.stack(list(CrossEntropy().hessian_square_root(outputs[tokens], NOTHING)))
    blocks = iter(torch.einsum("cmv,cmw->mvw", flat_CMV, flat_CMV))
    nothing = torch.zeros(5, 5, dtype=torch.float64)
    expected_BFF = torch.stack(
        [torch.block_diag(*(next(blocks) if token else nothing for token in row)) for row in tokens.tolist()]
    )
    torch.testing.assert_close(got_BFF, expected_BFF, rtol=1e-12, atol=1e-12)


def test_sampled_targets_follow_the_model_at_tokens_and_keep_padding() -> None:
    """The padding is never drawn, though its logit is the largest."""
    outputs = torch.tensor([9.0, 0.5, -1.0, 1.5]).expand(50_000, 2, 4)
    targets = torch.tensor([1, PADDING], dtype=torch.int32).expand(50_000, 2)
    drawn = TokenCrossEntropy(PADDING).sample_targets(outputs, Batch((), targets), torch.Generator().manual_seed(0))
    assert drawn.dtype is torch.int32
    assert drawn.shape == targets.shape
    assert not bool(drawn[:, 1].any())
    shares = drawn[:, 0].long().bincount(minlength=4) / 50_000
    assert float(shares[PADDING]) == 0.0
    torch.testing.assert_close(shares[1:], outputs[0, 0, 1:].softmax(0), rtol=0, atol=0.02)


def test_losses_of_sequences_are_means_over_tokens() -> None:
    _, batch, tokens = _sequences()
    assert TokenCrossEntropy(PADDING).normalizer(batch) == int(tokens.sum()) == 7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_logits_of_sequences_are_compared_in_float32(dtype: torch.dtype) -> None:
    objective = TokenCrossEntropy(PADDING)
    outputs, batch, _ = _sequences()
    narrow = outputs.detach().to(dtype)
    assert objective.loss(narrow, batch).dtype is torch.float32
    assert objective.loss(narrow, batch) == objective.loss(narrow.float(), batch)
    assert objective.discrepancy(narrow, -narrow, batch) == objective.discrepancy(
        narrow.float(), -narrow.float(), batch
    )
    assert next(iter(objective.hessian_square_root(narrow, batch))).dtype is torch.float32
