"""The second look at a diverged run: what it names, what it costs, and that it changes nothing else."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.divergence import (
    INF,
    LOSS,
    Changed,
    diverged_outcome,
    first_finding,
    plain_task,
    run_changed,
    spoil_parameter,
)
from support.runs import TASK
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from apo_bench.data.examples import Batch
from apo_bench.plugins.task import Task
from apo_bench.records.facts import PrecisionBackend
from apo_bench.records.outcome import Diverged, Exhausted, NonFinite, Reason
from apo_bench.records.spec import Precision
from apo_bench.training.loop import GIVE_UP


@pytest.mark.parametrize(("name", "step"), [("7.weight", 7), ("0.bias", 13), ("5.weight", 20), ("5.weight", 27)])
def test_a_parameter_that_a_step_spoils_is_named(name: str, step: int) -> None:
    """Also at the end of a block of steps, where the next block's first loss tells; evaluation may tell before it."""
    training = run_changed(after=spoil_parameter(step, name), epochs=4)
    assert first_finding(training) == NonFinite(step=step, tensor=f"parameter {name}", dtype="float32")


def test_state_goes_before_the_parameters_that_it_spoils() -> None:
    def before(rule: Changed) -> None:
        if rule.taken == 12:
            list(rule.state_tensors()["optimizer"])[2].view(-1)[0] = INF

    assert first_finding(run_changed(before=before)) == NonFinite(step=12, tensor="state optimizer 2", dtype="float32")


class _SpoilingObjective:
    """The task's loss, with an infinite gradient in the steps that ``spoils`` says; they are told by `note_step`."""

    def __init__(self, objective: Any, spoils: Callable[[int], bool]) -> None:
        self.objective = objective
        self.spoils = spoils
        self.step = 0

    def note_step(self, rule: "Changed") -> None:
        self.step = rule.taken

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        loss: Tensor = self.objective.loss(outputs, batch)
        if self.spoils(self.step) and loss.requires_grad:
            loss = _InfiniteGradient.apply(loss)
        return loss

    def __getattr__(self, name: str) -> Any:
        return getattr(self.objective, name)


class _InfiniteGradient(torch.autograd.Function):
    """The identity, with an infinite gradient."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * INF


def test_a_gradient_is_named_by_its_parameter() -> None:
    """The loss is finite still; the gradients are looked at in the parameters' order."""
    objective = _SpoilingObjective(TASK.objective, lambda step: step == 15)
    outcome = diverged_outcome(
        run_changed(before=objective.note_step, task=dataclasses.replace(TASK, objective=objective))
    )
    first = NonFinite(step=15, tensor="gradient 0.weight", dtype="float32")
    assert outcome == Diverged(step=16, reason=LOSS, first=first)


class _SpoilingLoss(_SpoilingObjective):
    """The task's loss, infinite itself in these steps."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        loss: Tensor = self.objective.loss(outputs, batch)
        return loss * INF if self.spoils(self.step) else loss


def test_a_loss_goes_before_its_gradients() -> None:
    objective = _SpoilingLoss(TASK.objective, lambda step: step == 15)
    outcome = diverged_outcome(
        run_changed(before=objective.note_step, task=dataclasses.replace(TASK, objective=objective))
    )
    assert outcome == Diverged(step=15, reason=LOSS, first=NonFinite(step=15, tensor="loss", dtype="float32"))


def test_a_step_that_loss_scaling_skipped_is_no_finding() -> None:
    """Its gradients are as bad as those above, but it left nothing behind."""
    objective = _SpoilingObjective(TASK.objective, lambda step: step == 5)
    training = run_changed(
        before=objective.note_step,
        after=spoil_parameter(14, "0.weight"),
        task=dataclasses.replace(TASK, objective=objective),
        precision=Precision.FP16,
    )
    assert training.cost.skipped_steps >= 1
    assert first_finding(training) == NonFinite(step=14, tensor="parameter 0.weight", dtype="float32")


def test_a_skipped_step_that_leaves_something_behind_is_a_finding() -> None:
    """An overflow in the forward pass spoils the running statistics, though the step is skipped."""
    kept: list[Tensor] = []

    def before(rule: Changed) -> None:
        if rule.taken == 12:
            kept[:] = [rule.parameter("0.weight").clone()]
            rule.parameter("0.weight").fill_(1e30)

    def after(rule: Changed) -> None:
        if rule.taken == 12:
            rule.parameter("0.weight").copy_(kept[0])

    outcome = diverged_outcome(run_changed(before=before, after=after, precision=Precision.FP16))
    first = NonFinite(step=12, tensor="activation 0", dtype="float16")
    assert outcome == Diverged(step=20, reason=Reason.VALIDATION, first=first)


def test_a_run_that_gave_up_is_looked_at_in_its_last_step() -> None:
    objective = _SpoilingObjective(TASK.objective, lambda step: step >= 6)
    task = dataclasses.replace(TASK, objective=objective)
    outcome = diverged_outcome(run_changed(before=objective.note_step, task=task, precision=Precision.FP16, epochs=20))
    assert outcome.step == 6
    assert "overflowed at every loss scale" in outcome.reason
    assert outcome.first == NonFinite(step=5 + GIVE_UP, tensor="gradient 0.weight", dtype="float32")


def test_a_learning_rate_that_overflows_names_what_overflowed_first() -> None:
    """Of a gradient of some size and lr 1e38 the step is infinite before any activation is."""
    outcome = diverged_outcome(run_changed("sgd", lr=1e38, epochs=4))
    assert outcome.first is not None
    assert outcome.first.dtype == "float32"
    model = dict(TASK.model().named_modules())
    kind, _, name = outcome.first.tensor.partition(" ")
    assert kind in {"activation", "parameter", "gradient"}
    assert name.removesuffix(".weight").removesuffix(".bias") in model
    assert 1 <= outcome.first.step <= outcome.step
    assert outcome.message == f"{LOSS}: first `{outcome.first.tensor}` (float32) at step {outcome.first.step}"


class _Times(nn.Module):
    """Multiplies by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_in_pure_fp16_the_activation_that_overflows_is_named_with_its_format() -> None:
    """Loss scaling cannot fix a forward pass: the run gives up."""
    overflowing = plain_task(nn.Linear(64, 16), _Times(3e4), _Times(3e4), nn.Linear(16, 4))
    outcome = diverged_outcome(run_changed("sgd", task=overflowing, precision=Precision.PURE_FP16, epochs=20))
    assert outcome.step == 1
    assert outcome.first == NonFinite(step=GIVE_UP, tensor="activation 3", dtype="float16")
    assert isinstance(
        run_changed("sgd", task=overflowing, precision=Precision.FP64, epochs=1, lr=1e-30).outcome, Exhausted
    )


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.PURE_FP16])
def test_emulated_fp16_names_the_activation_that_grew(precision: Precision) -> None:
    """A step makes a weight large but finite: the next forward pass, in 16 bit, overflows in that layer."""

    def after(rule: Changed) -> None:
        if rule.taken == 23:
            rule.parameter("1.weight").fill_(3e4)

    task = plain_task(nn.Linear(64, 16), nn.Linear(16, 4))
    training = run_changed("sgd", task=task, precision=precision, after=after, epochs=20)
    assert training.precision.backend is PrecisionBackend.EMULATED
    outcome = diverged_outcome(training)
    assert outcome.step == 24
    assert outcome.first == NonFinite(step=23 + GIVE_UP, tensor="activation 1", dtype="float16")


def test_the_lookahead_of_apo_is_looked_at_too() -> None:
    """The first step is a meta-step; the run itself diverges in the second.

    Of two large layers in a row the second overflows; of parameters that are infinite these are named.
    """
    large = diverged_outcome(run_changed("apo-p", lr=1e24, epochs=2))
    assert large.step == 2
    assert large.first == NonFinite(step=1, tensor="activation 5", dtype="float32")
    larger = diverged_outcome(run_changed("apo-p", lr=3e38, momentum=0.0, epochs=2, task=_steep()))
    assert larger.first is not None
    assert larger.first.step == 1
    assert larger.first.tensor.startswith("parameter ")


def _steep() -> Task:
    """With a gradient above 1, so that a step with the largest learning rate is infinite."""
    return plain_task(nn.Linear(64, 16), nn.Linear(16, 4), _Times(100.0))


class _Doubting:
    """Asks for a gradient of a stream that is not finite at one step, and does not use it."""

    def __init__(self, stream: str, at: int = 12) -> None:
        self.stream = stream
        self.at = at

    def __call__(self, rule: Changed) -> None:
        if rule.taken != self.at:
            return
        problem = rule.problem
        with problem.lookahead():
            batch = Batch((torch.ones(2, 1, 8, 8),), torch.tensor([0, 1]))
            outputs = problem.outputs(batch)
            loss: Tensor = _InfiniteGradient.apply(problem.loss(outputs, batch))
            if self.stream == "curvature":
                problem.intermediate_gradients(loss, [get_gradient_edge(outputs)])
            else:
                problem.gradients(loss, self.stream)


@pytest.mark.parametrize(
    ("stream", "name"), [("meta", "gradient 0.weight (meta)"), ("curvature", "gradient inside 0 (curvature)")]
)
def test_a_gradient_that_rules_skip_counts_only_where_nothing_else_is_found(stream: str, name: str) -> None:
    training = run_changed(before=_Doubting(stream), after=spoil_parameter(14, "5.bias"))
    assert first_finding(training) == NonFinite(step=14, tensor="parameter 5.bias", dtype="float32")
    made: list[Changed] = []

    def once(rule: Changed) -> None:
        if len(made) == 1:
            spoil_parameter(14, "5.bias")(rule)

    training = run_changed(before=_Doubting(stream), after=once, made=made)
    assert first_finding(training) == NonFinite(step=12, tensor=name, dtype="float32")


def test_a_gradient_of_any_other_stream_counts() -> None:
    training = run_changed(before=_Doubting("own"), after=spoil_parameter(14, "5.bias"))
    assert first_finding(training) == NonFinite(step=12, tensor="gradient 0.weight (own)", dtype="float32")
