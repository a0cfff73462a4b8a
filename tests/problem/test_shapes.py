"""Objectives and metrics refuse what they do not take, and labels that are ignored count nowhere."""

import math
from typing import Any

import pytest
import torch
from support.devices import CPU
from torch import Tensor, nn

import apo_bench
from apo_bench import (
    Accuracy,
    BernoulliCrossEntropy,
    BinaryAccuracy,
    CrossEntropy,
    MeanLoss,
    MeanSquaredError,
    SquaredError,
    TokenAccuracy,
    TokenCrossEntropy,
    UsageError,
)
from apo_bench.data.examples import Batch
from apo_bench.problem.shapes import IGNORED, METRICS, OBJECTIVES, Checked, ShapeError

N, C, T = 6, 5, 4
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
TOKENS = torch.randint(1, C, (N, T), generator=torch.Generator().manual_seed(0))

REFUSED = {
    "one logit with (N, 1) targets": (torch.zeros(N, 1), torch.ones(N, 1), "Bernoulli|Binary"),
    "one logit with labels": (torch.zeros(N, 1), LABELS.clamp_max(1), "Bernoulli|Binary"),
    "no dimension of classes": (torch.zeros(N), LABELS.clamp_max(1), "Bernoulli|Binary"),
    "classes second": (torch.zeros(N, C, T), TOKENS, r"Token.*outputs\.transpose\(1, 2\)"),
    "sequences": (torch.zeros(N, T, C), TOKENS, "Token"),
    "images": (torch.zeros(N, C, T, T), torch.zeros(N, T, T, dtype=torch.int64), "Token"),
    "one-hot targets": (torch.zeros(N, C), nn.functional.one_hot(LABELS, C), r"targets\.argmax\(1\)"),
    "soft targets": (torch.zeros(N, C), torch.full((N, C), 1 / C), r"targets\.argmax\(1\)"),
    "floating-point labels": (torch.zeros(N, C), LABELS.float(), "SquaredError|MeanSquaredError"),
    "labels in a column": (torch.zeros(N, C), LABELS[:, None], r"targets\.squeeze\(1\)"),
    "integer logits": (torch.zeros(N, C, dtype=torch.int64), LABELS, "floating-point logits"),
    "another number of examples": (torch.zeros(N, C), LABELS[:-1], "one label to each example"),
    "no example": (torch.zeros(0, C), LABELS[:0], "has no mean"),
    "a scalar": (torch.zeros(()), LABELS, "one row of logits"),
}


def _uses(objective: Any, metric: Any, outputs: Tensor, targets: Tensor) -> list[Any]:
    batch = Batch((), targets)
    return [
        lambda: objective.loss(outputs, batch),
        lambda: metric.total(outputs, batch),
    ]


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_label_an_example_is_refused_with_the_right_class(case: str) -> None:
    outputs, targets, fix = REFUSED[case]
    for name, use in zip(
        ("CrossEntropy", "Accuracy"), _uses(CrossEntropy(), Accuracy(), outputs, targets), strict=True
    ):
        with pytest.raises(UsageError, match=rf"^{name} takes logits \(batch, classes\) .*: .*({fix})") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_neither_discrepancy_nor_fisher_takes_classes_that_stand_second() -> None:
    """The discrepancy of all positions at once would be a sum over them."""
    outputs, batch = torch.randn(2, N, C, T), Batch((), TOKENS)
    for use in (
        lambda: CrossEntropy().discrepancy(outputs[0], outputs[1], batch),
        lambda: CrossEntropy().sample_targets(outputs[0], batch, torch.Generator()),
        lambda: next(iter(CrossEntropy().hessian_square_root(outputs[0], batch))),
        lambda: TokenCrossEntropy().discrepancy(outputs[0], outputs[1], batch),
        lambda: TokenCrossEntropy().sample_targets(outputs[0], batch, torch.Generator()),
        lambda: next(iter(TokenCrossEntropy().hessian_square_root(outputs[0], batch))),
    ):
        with pytest.raises(UsageError, match=r"Token.*outputs\.transpose\(1, 2\)|put the classes last"):
            use()  # type: ignore[no-untyped-call] # a lambda


@pytest.mark.parametrize(
    ("outputs", "targets", "fix"),
    [
        (torch.zeros(N, C), LABELS, "use (CrossEntropy|Accuracy)"),
        (torch.zeros(N, C, T), TOKENS, r"put the classes last .*outputs\.transpose\(1, 2\)"),
        (torch.zeros(N, T, C), nn.functional.one_hot(TOKENS, C), r"targets\.argmax\(-1\)"),
        (torch.zeros(N, T, C), TOKENS.float(), "SquaredError"),
        (torch.zeros(N, T, C), TOKENS[:, 1:], "one label to each position"),
        (torch.zeros(N, T, C, dtype=torch.int32), TOKENS, "floating-point logits"),
        (torch.zeros(N, 0, C), TOKENS[:, :0], "has no mean"),
    ],
)
def test_what_is_no_label_a_position_is_refused_with_the_right_class(
    outputs: Tensor, targets: Tensor, fix: str
) -> None:
    for use in _uses(TokenCrossEntropy(), TokenAccuracy(), outputs, targets):
        with pytest.raises(UsageError, match=rf"^Token\w+ takes logits \(batch, positions, classes\) .*: .*{fix}"):
            use()


@pytest.mark.parametrize(
    ("objective", "metric"),
    [(SquaredError(), MeanSquaredError()), (BernoulliCrossEntropy(), BinaryAccuracy())],
)
def test_numbers_are_compared_one_by_one(objective: Any, metric: Any) -> None:
    for outputs, targets, fix in (
        (torch.zeros(N, 1), torch.zeros(N), "give both one shape$"),
        (torch.zeros(N), torch.zeros(N, 1), "give both one shape$"),
        (torch.zeros(N, C), LABELS, "give both one shape, .* use (CrossEntropy|Accuracy)$"),
        (torch.zeros(N, T, C), TOKENS, "give both one shape, .* use Token(CrossEntropy|Accuracy)$"),
        (torch.zeros(N, C, dtype=torch.int64), torch.zeros(N, C), "floating-point numbers"),
        (torch.zeros(N, C, dtype=torch.complex64), torch.zeros(N, C), "real and imaginary parts"),
        (torch.zeros(N, C), torch.zeros(N, C, dtype=torch.complex64), "real and imaginary parts"),
        (torch.zeros(0, C), torch.zeros(0, C), "has no mean"),
        (torch.zeros(()), torch.zeros(()), "for each example"),
    ):
        for use in _uses(objective, metric, outputs, targets):
            with pytest.raises(ShapeError, match=fix):
                use()
    batch = Batch((), torch.zeros(N))
    with pytest.raises(ShapeError, match=r"of one shape.*\(6, 1\) and float32 \(6,\)"):
        objective.discrepancy(torch.zeros(N, 1), torch.zeros(N), batch)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool])
def test_labels_may_be_integers_of_any_kind_and_booleans(dtype: torch.dtype) -> None:
    outputs, labels = torch.randn(N, C), LABELS.clamp_max(1)
    batch, other = Batch((), labels), Batch((), labels.to(dtype))
    assert CrossEntropy().loss(outputs, other) == CrossEntropy().loss(outputs, batch)
    assert CrossEntropy().discrepancy(outputs, -outputs, other) == CrossEntropy().discrepancy(outputs, -outputs, batch)
    assert Accuracy().total(outputs, other) == Accuracy().total(outputs, batch)


def test_a_byte_is_no_negative_label() -> None:
    """Torch finds that the byte 156 is -100."""
    labels = torch.tensor([156, 1], dtype=torch.uint8)
    assert CrossEntropy().normalizer(Batch((), labels)) == Accuracy().count(Batch((), labels)) == 2
    assert TokenCrossEntropy(padding=IGNORED).normalizer(Batch((), labels[None])) == 2
    assert TokenAccuracy(padding=IGNORED).count(Batch((), labels[None])) == 2


@pytest.mark.parametrize("outputs", [torch.randn(N), torch.randn(N, C), torch.randn(N, 2, 3)])
def test_boolean_and_integer_targets_are_numbers_in_the_format_of_the_outputs(outputs: Tensor) -> None:
    """One number an example too; targets in float64 do not widen the loss."""
    targets = outputs > 0
    for objective in (SquaredError(), BernoulliCrossEntropy()):
        right = objective.loss(outputs, Batch((), targets.float()))
        for dtype in (torch.bool, torch.int64, torch.float64):
            got = objective.loss(outputs, Batch((), targets.to(dtype)))
            assert got == right
            assert got.dtype is torch.float32
        columns = list(objective.hessian_square_root(outputs, Batch((), targets)))
        assert len(columns) == outputs[0].numel()
        assert all(column.shape == outputs.shape for column in columns)
    assert BinaryAccuracy().total(outputs, Batch((), targets)) == pytest.approx(100 * N)
    flipped = targets.logical_xor(torch.arange(N).view(-1, *[1] * (outputs.dim() - 1)) < 2)
    assert BinaryAccuracy().total(outputs, Batch((), flipped)) == pytest.approx(100 * (N - 2))
    error = (outputs - targets.float()).square().reshape(N, -1).mean(1).sum()
    torch.testing.assert_close(MeanSquaredError().total(outputs, Batch((), targets)), error)


def _partly_ignored() -> tuple[Tensor, Tensor, Batch, Batch, Tensor]:
    """Two outputs, a batch of which three examples have a label, the batch of these three, and which they are."""
    outputs = torch.randn(2, N, C, dtype=torch.float64)
    kept = torch.tensor([True, False, True, False, False, True])
    return outputs[0], outputs[1], Batch((), LABELS.masked_fill(~kept, IGNORED)), Batch((), LABELS[kept]), kept


def test_an_ignored_label_counts_nowhere() -> None:
    """In loss, metric, normalizer, discrepancy and Fisher alike: as if its example were not there."""
    new, old, batch, labelled, kept = _partly_ignored()
    new.requires_grad_()
    objective, metric = CrossEntropy(), Accuracy()
    assert objective.normalizer(batch) == metric.count(batch) == 3
    torch.testing.assert_close(objective.loss(new, batch), objective.loss(new[kept], labelled))
    got = objective.discrepancy(new, old, batch)
    torch.testing.assert_close(got, objective.discrepancy(new[kept], old[kept], labelled), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(got, new)
    assert not bool(gradient[~kept].any())
    assert metric.total(new, batch) == metric.total(new[kept], labelled)
    columns = torch.stack(list(objective.hessian_square_root(new, batch)))
    assert not bool(columns[:, ~kept].any())
    torch.testing.assert_close(columns[:, kept], torch.stack(list(objective.hessian_square_root(new[kept], labelled))))
    drawn = objective.sample_targets(new, batch, torch.Generator().manual_seed(0))
    assert bool((drawn[~kept] == IGNORED).all())
    assert bool((drawn[kept] >= 0).all())


def test_without_ignored_labels_the_discrepancy_is_the_same_to_the_bit() -> None:
    new, old, *_ = _partly_ignored()
    expected = torch.nn.functional.kl_div(
        new.log_softmax(1), old.log_softmax(1), log_target=True, reduction="batchmean"
    )
    assert CrossEntropy().discrepancy(new, old, Batch((), LABELS)) == expected


def test_padding_may_be_a_number_that_is_no_piece() -> None:
    """From the end it would be one: the last piece would never be drawn."""
    logits = torch.zeros(2000, 2, C)
    targets = torch.tensor([1, -1]).expand(2000, 2)
    for padding in (-1, IGNORED):
        objective = TokenCrossEntropy(padding)
        batch = Batch((), targets.where(targets > 0, padding))
        drawn = objective.sample_targets(logits, batch, torch.Generator().manual_seed(0))
        assert sorted(set(drawn[:, 0].tolist())) == [0, 1, 2, 3, 4]
        assert bool((drawn[:, 1] == padding).all())
        assert objective.normalizer(batch) == TokenAccuracy(padding).count(batch) == 2000
        assert float(objective.loss(logits, batch)) == pytest.approx(math.log(C))


def test_token_accuracy_is_the_share_of_tokens() -> None:
    targets = torch.tensor([[1, 2, 3], [4, 0, 0]])
    logits = nn.functional.one_hot(torch.tensor([[1, 1, 1], [1, 0, 0]]), C).float()
    batch = Batch((), targets)
    metric = TokenAccuracy()
    assert float(metric.total(logits, batch)) / metric.count(batch) == pytest.approx(25.0)


@pytest.mark.parametrize("label", [C, 99, -1])
def test_a_label_without_a_class_is_named(label: int) -> None:
    """On a CPU by the loss as well; on CUDA it would end the process."""
    labels = torch.tensor([0, 1, label, IGNORED])
    said = rf"CrossEntropy: label {label} for outputs of 5 classes, whose labels are 0 to 4 \(-100 is ignored\)"
    objective = CrossEntropy()
    assert isinstance(objective, Checked)
    for use in (
        lambda: objective.check_targets(torch.zeros(4, C), labels),
        lambda: objective.loss(torch.zeros(4, C), Batch((), labels)),
    ):
        with pytest.raises(UsageError, match=said):
            use()


def test_ignored_labels_under_another_padding_name_the_setting() -> None:
    targets = torch.tensor([[1, IGNORED]])
    with pytest.raises(UsageError, match=r"label -100 .* use TokenCrossEntropy\(padding=-100\)"):
        TokenCrossEntropy().loss(torch.zeros(1, 2, C), Batch((), targets))
    TokenCrossEntropy(padding=IGNORED).check_targets(torch.zeros(1, 2, C), targets)


@pytest.mark.parametrize(
    ("judge", "targets", "said"),
    [
        (CrossEntropy(), torch.full((3,), IGNORED), "every label is -100"),
        (TokenCrossEntropy(), torch.zeros(2, 2, dtype=torch.int64), "every label is 0"),
        (SquaredError(), torch.tensor([0.0, math.nan]), "not finite"),
        (SquaredError(), torch.tensor([0.0, math.inf]), "not finite"),
        (BernoulliCrossEntropy(), torch.tensor([0.0, 255.0]), r"target 255 is outside of \[0, 1\]"),
        (BernoulliCrossEntropy(), torch.tensor([1, IGNORED]), r"target -100 is outside of \[0, 1\]"),
        (BinaryAccuracy(), torch.tensor([-1, 1]), r"target -1 is outside of \[0, 1\]"),
    ],
)
def test_targets_that_are_none_are_named(judge: Any, targets: Tensor, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        judge.check_targets(torch.zeros(2, C), targets)


def test_the_loss_of_nothing_is_nothing_in_a_mean_loss() -> None:
    nothing = Batch((), torch.full((2,), IGNORED))
    metric = MeanLoss(CrossEntropy(), "loss")
    assert metric.count(nothing) == 0
    assert float(metric.total(torch.zeros(2, C, device=CPU), nothing)) == 0.0


def test_every_class_that_a_refusal_names_is_at_the_front_door() -> None:
    for name in (*OBJECTIVES, *METRICS):
        assert getattr(apo_bench, name)
