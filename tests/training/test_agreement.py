"""A task whose parts do not fit together is refused before its first step; what is judged does not depend on order."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from support.devices import CPU
from support.runs import TASK, run_spec, tiny_examples, tiny_splits, trained
from torch import Tensor, nn

from apo_bench import (
    Accuracy,
    Batch,
    BernoulliCrossEntropy,
    BinaryAccuracy,
    CrossEntropy,
    Dataset,
    Examples,
    MeanLoss,
    Precision,
    PrecisionPolicy,
    Problem,
    Splits,
    Task,
    TokenAccuracy,
    TokenCrossEntropy,
    UsageError,
)
from apo_bench.plugins.registry import optimizers
from apo_bench.problem.shapes import IGNORED
from apo_bench.records.facts import Direction
from apo_bench.training.agreement import mean_of
from apo_bench.training.evaluation import evaluate
from apo_bench.training.trainer import prepare


def _with_targets(targets: Any, *, task: Task = TASK, **fields: Any) -> Task:
    """The tiny task with other targets in every split."""
    splits = tiny_splits()
    made = Splits(*(Examples(s.inputs, targets(s.targets)) for s in (splits.train, splits.validation, splits.test)))
    return dataclasses.replace(task, dataset=Dataset("tiny", lambda: made, lambda: "1"), **fields)


def _problem(task: Task) -> Problem:
    policy = PrecisionPolicy(Precision.FP32, CPU)
    model = task.model()
    policy.prepare(model)
    return Problem(model, task.objective, policy, lambda: Batch((), torch.empty(0)))


def _one_logit() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))


class _Own:
    """A plugin's metric.

    Args:
        total: What it returns.
    """

    name = "own accuracy (%)"
    direction = Direction.MAXIMIZE

    def __init__(self, total: Any) -> None:
        self._total = total

    def total(self, outputs: Tensor, batch: Batch) -> Tensor:
        made: Tensor = self._total(outputs, batch)
        return made


BROKEN = {
    "binary targets with Accuracy": (
        _with_targets(
            lambda t: (t[:, None] > 1).float(), model=_one_logit, objective=BernoulliCrossEntropy(), metric=Accuracy()
        ),
        "^Accuracy takes logits .* use BinaryAccuracy with outputs and targets",
    ),
    "a label too large": (_with_targets(lambda t: t + 1), "^training split: CrossEntropy: label 4 for outputs of 4"),
    "a NaN among the targets": (
        _with_targets(lambda t: (t[:, None] / 0).float(), model=_one_logit, objective=BernoulliCrossEntropy()),
        "^training split: BernoulliCrossEntropy: a target is (nan|inf), which is not finite",
    ),
    "a metric an example": (
        dataclasses.replace(TASK, metric=_Own(lambda f, b: 100.0 * (f.argmax(1) == b.targets))),
        r"^metric 'own accuracy \(%\)' returned a total of shape \(32,\); return the sum",
    ),
    "a metric that broadcasts": (
        dataclasses.replace(TASK, metric=_Own(lambda f, b: 100.0 * (f.argmax(1)[:, None] == b.targets).sum())),
        r"^metric 'own accuracy \(%\)' came to [\d.]+, above 100: it counts something else than the 32 ",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_task_that_does_not_fit_together_is_refused_before_the_first_step(case: str) -> None:
    task, said = BROKEN[case]
    with pytest.raises(UsageError, match=said) as caught:
        prepare(run_spec(), task, optimizers()["sgdm"].load(), CPU)
    assert "\n" not in str(caught.value)


def test_a_label_without_a_class_in_a_split_that_is_seen_last_is_found_first() -> None:
    splits = tiny_splits()
    wrong = dataclasses.replace(splits, test=Examples(splits.test.inputs, splits.test.targets + 1))
    task = dataclasses.replace(TASK, dataset=Dataset("tiny", lambda: wrong, lambda: "1"))
    with pytest.raises(UsageError, match=r"^test split: CrossEntropy: label 4"):
        prepare(run_spec(), task, optimizers()["sgdm"].load(), CPU)


def test_a_binary_task_trains_and_is_judged_in_percent() -> None:
    task = _with_targets(
        lambda t: (t[:, None] > 1).float(), model=_one_logit, objective=BernoulliCrossEntropy(), metric=BinaryAccuracy()
    )
    training = trained(task=task, epochs=1)
    assert training.scores.test is not None
    assert 0.0 <= training.scores.test <= 100.0


@pytest.mark.parametrize("optimizer", ["sgdm", "apo-p", "kfac", "ekfac"])
def test_a_task_with_ignored_labels_trains(optimizer: str) -> None:
    task = _with_targets(lambda t: torch.where(torch.arange(len(t)) % 3 == 0, IGNORED, t))
    training = trained(optimizer, task=task, epochs=1)
    assert training.scores.test is not None
    assert math.isfinite(training.curve[-1].train_loss)


def test_ignored_examples_are_not_judged() -> None:
    """Also where the last 1000 of a split have no label."""
    model = TASK.model()
    problem = _problem(dataclasses.replace(TASK, model=lambda: model))
    examples = tiny_examples(5, 1500)
    kept = (torch.arange(1500) % 3 != 0) & (torch.arange(1500) < 800)
    part = Examples(examples.inputs, examples.targets.masked_fill(~kept, IGNORED))
    labelled = Examples((examples.inputs[0][kept],), examples.targets[kept])
    for metric in (Accuracy(), MeanLoss(CrossEntropy(), "loss")):
        task = dataclasses.replace(TASK, metric=metric)
        assert evaluate(problem, task, part) == pytest.approx(evaluate(problem, task, labelled), rel=1e-6)
    nothing = Examples(examples.inputs, torch.full((1500,), IGNORED))
    with pytest.raises(UsageError, match="no example that counts"):
        evaluate(problem, TASK, nothing)


@pytest.mark.parametrize("metric", [MeanLoss(TokenCrossEntropy(), "loss"), TokenAccuracy()])
def test_a_mean_over_tokens_does_not_depend_on_the_order_of_the_examples(metric: Any) -> None:
    """Batches of long sequences weigh as much as they have tokens."""
    torch.manual_seed(3)
    lengths = torch.randint(1, 12, (50,))
    pieces = torch.randint(1, 7, (50, 12)).masked_fill(torch.arange(12) >= lengths[:, None], 0)
    model = nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 7))
    task = dataclasses.replace(
        TASK, model=lambda: model, objective=TokenCrossEntropy(), metric=metric, batch_size=16, augmentation=None
    )
    problem = _problem(task)
    judged = []
    for order in (torch.arange(50), lengths.argsort(), torch.randperm(50)):
        both = lengths[order, None].expand(-1, 2)
        judged.append(
            evaluate(
                problem, task, Examples((pieces[order],), pieces[order].roll(1, 1).where(pieces[order] > 0, 0), both)
            )
        )
    assert judged[1] == pytest.approx(judged[0], rel=1e-6)
    assert judged[2] == pytest.approx(judged[0], rel=1e-6)
    if isinstance(metric, MeanLoss):
        assert judged[0][1] == pytest.approx(judged[0][0], rel=1e-6)


def test_a_share_above_a_hundred_percent_is_none() -> None:
    metric = _Own(None)
    assert mean_of(metric, 3200.0, 32) == 100.0
    assert mean_of(metric, 3200.0 * (1 + 1e-9), 32) == pytest.approx(100.0)
    assert math.isnan(mean_of(metric, 0.0, 0))
    with pytest.raises(UsageError, match="came to 4500, above 100"):
        mean_of(metric, 4500.0 * 32, 32)
