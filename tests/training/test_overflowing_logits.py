"""A network whose parameters are finite and whose logits are not has diverged; it is no crash of whoever samples."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.devices import CPU
from support.divergence import Changed, diverged_outcome, run_changed
from support.runs import TASK, run_spec, tiny_splits
from torch import Tensor, nn

from apo_bench.data.examples import Batch, Dataset, Examples, Splits
from apo_bench.plugins.registry import optimizers
from apo_bench.plugins.task import Task
from apo_bench.problem.objectives import BernoulliCrossEntropy, TokenCrossEntropy
from apo_bench.records.outcome import Exhausted, Reason
from apo_bench.records.probe import ProbeSpec
from apo_bench.records.spec import Device, Precision
from apo_bench.training.probe import measure

EVERY_STEP: dict[str, dict[str, Any]] = {
    "kfac": {"factor_interval": 1},
    "ekfac": {"factor_interval": 1},
    "sgdm": {},
}
"""So that the step in question samples."""


def too_large(rule: Changed) -> None:
    """Weights whose product with the last layer's inputs overflows, from the fifth step on."""
    if rule.taken == 5:
        parameters = [parameter for parameter in rule.problem.model.parameters() if parameter.ndim > 1]
        parameters[-1].data.fill_(3e38)


class _NoMetric:
    """A metric that looks at nothing."""

    name = "none"
    direction = TASK.metric.direction

    def total(self, outputs: Tensor, _: Batch) -> Tensor:
        return torch.zeros((), device=outputs.device)


def bits_task() -> Task:
    def bits(examples: Examples) -> Tensor:
        return (examples.inputs[0].flatten(1)[:, :8] > 0).float()

    splits = _retargeted(bits)
    return dataclasses.replace(
        TASK,
        dataset=Dataset("bits", lambda: splits, lambda: "1"),
        model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 8)),
        objective=BernoulliCrossEntropy(),
        metric=_NoMetric(),
        augmentation=None,
    )


def tokens_task() -> Task:
    def tokens(examples: Examples) -> Tensor:
        return torch.stack([1 + examples.targets % 3, 1 + examples.targets // 2], dim=1)

    splits = _retargeted(tokens)
    return dataclasses.replace(
        bits_task(),
        dataset=Dataset("tokens", lambda: splits, lambda: "1"),
        model=lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 8), nn.Unflatten(1, (2, 4))
        ),
        objective=TokenCrossEntropy(),
    )


def _retargeted(targets: Callable[[Examples], Tensor]) -> Splits:
    splits = tiny_splits()
    parts = (splits.train, splits.validation, splits.test)
    return Splits(*(Examples(examples.inputs, targets(examples)) for examples in parts))


@pytest.mark.parametrize("optimizer", ["kfac", "ekfac", "sgdm"])
@pytest.mark.parametrize("task", [TASK, bits_task(), tokens_task()], ids=["labels", "bits", "tokens"])
def test_logits_that_overflow_are_a_divergence_of_everybody(optimizer: str, task: Task) -> None:
    outcome = diverged_outcome(run_changed(optimizer, before=too_large, task=task, epochs=1, **EVERY_STEP[optimizer]))
    assert (outcome.step, outcome.reason) == (5, Reason.TRAINING_LOSS)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.PURE_FP16])
def test_a_step_whose_logits_overflow_in_fp16_is_skipped_by_everybody(precision: Precision) -> None:
    """One bad batch; the next ones are fine, and the run goes on."""
    for optimizer in ("kfac", "sgdm"):
        training = run_changed(optimizer, before=_bad_batch, precision=precision, epochs=1, **EVERY_STEP[optimizer])
        assert training.outcome == Exhausted()
        assert training.cost.skipped_steps == 1


def _bad_batch(rule: Changed) -> None:
    """Let the last bias be infinite for one step."""
    (bias,) = [parameter for name, parameter in rule.problem.model.named_parameters() if name == "7.bias"]
    bias.data[0] = torch.inf if rule.taken == 5 else 0.0


class _Overflowing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 3e38 * 3e38


def test_the_probe_gives_the_same_reason_for_everybody() -> None:
    names = ("sgdm", "kfac")
    task = dataclasses.replace(TASK, model=lambda: nn.Sequential(TASK.model(), _Overflowing()))
    spec = ProbeSpec(
        task="tiny",
        precision=Precision.FP32,
        device=Device.CPU,
        compile=False,
        threads=torch.get_num_threads(),
        processes=1,
        rounds=1,
        competitors=tuple(run_spec(name).optimizer for name in names),
    )
    sample = measure(spec, task, {name: optimizers()[name].load() for name in names}, CPU, seed=0)
    assert {left.optimizer.name: left.message for left in sample.omitted} == dict.fromkeys(
        names, "its loss stopped being finite while it was probed"
    )
