"""A run records what its steps cost, counted."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.devices import CPU
from support.runs import TASK, run_spec
from torch import Tensor

from apo_bench import Batch, Problem, StepResult
from apo_bench.plugins.registry import optimizers
from apo_bench.problem.rule import UpdateRule
from apo_bench.records.outcome import Diverged, Exhausted
from apo_bench.training.result import Training
from apo_bench.training.trainer import train


def _trained(name: str = "sgdm", wrap: Callable[[UpdateRule], Any] = lambda rule: rule, **fields: Any) -> Training:
    competitor = optimizers()[name].load()

    def build(problem: Problem, h: Any) -> UpdateRule:
        rule: UpdateRule = wrap(competitor.build(problem, h))
        return rule

    return train(run_spec(name, epochs=1, **fields), TASK, dataclasses.replace(competitor, build=build), CPU)


def test_a_run_records_its_exact_costs() -> None:
    cost = _trained().cost
    convolution, first, second = 2 * 32 * 6 * 64 * 9, 2 * 32 * 384 * 16, 2 * 32 * 16 * 4
    assert cost.flops_per_step == 2 * convolution + 3 * (first + second)
    assert cost.operator_calls_per_step is not None
    assert cost.operator_calls_per_step > 20
    parameters = 6 * 10 + 2 * 6 + 385 * 16 + 17 * 4
    assert cost.bytes_by_purpose == {
        "parameters": 4 * parameters,
        "gradients": 4 * parameters,
        "buffers": 2 * 4 * 6 + 8,
        "optimizer": 4 * parameters,
    }
    assert cost.state_bytes == 4 * parameters


def test_state_is_counted_as_training_left_it() -> None:
    """Counting takes steps that would give APO-P's meta-optimizer its state."""

    class Late:
        """Says after its tenth step, the last of the run, that it keeps something."""

        def __init__(self, rule: UpdateRule) -> None:
            self.rule = rule
            self.taken = 0

        def step(self, batch: Batch) -> StepResult:
            self.taken += 1
            return self.rule.step(batch)

        def state_tensors(self) -> dict[str, list[Tensor]]:
            return {"own": [torch.zeros(self.taken)]}

        def __getattr__(self, name: str) -> Any:
            return getattr(self.rule, name)

    assert _trained(wrap=Late).cost.state_bytes == 4 * 10


class _FailsInTheEnd:
    """Fails in any step beyond the run's ten."""

    def __init__(self, rule: UpdateRule) -> None:
        self.rule = rule
        self.taken = 0

    def step(self, batch: Batch) -> StepResult:
        self.taken += 1
        if self.taken > 10:
            raise ZeroDivisionError
        return self.rule.step(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rule, name)


def test_a_rule_that_fails_while_it_is_counted_loses_its_count_alone() -> None:
    plain, failing = _trained(), _trained(wrap=_FailsInTheEnd)
    assert isinstance(failing.outcome, Exhausted)
    assert failing.scores == plain.scores
    assert (failing.cost.flops_per_step, failing.cost.operator_calls_per_step) == (None, None)
    assert failing.cost.not_counted == "ZeroDivisionError"
    assert plain.cost.not_counted is None
    assert failing.cost.bytes_by_purpose == plain.cost.bytes_by_purpose


class _Transforms:
    """Looks at the spectrum of a loss every seventh step, and declares nothing."""

    def __init__(self, rule: UpdateRule, work: Callable[[], object]) -> None:
        self.rule, self.work = rule, work
        self.taken = 0

    def step(self, batch: Batch) -> StepResult:
        if self.taken % 7 == 0:
            self.work()
        self.taken += 1
        return self.rule.step(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rule, name)


def test_a_record_says_why_a_step_was_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    spectrum = _trained(wrap=lambda rule: _Transforms(rule, lambda: torch.fft.fft(torch.ones(8)))).cost
    assert spectrum.flops_per_step is None
    assert "aten._fft_r2c" in str(spectrum.not_counted)
    assert f"the cost of a step was not counted: {spectrum.not_counted}" in capsys.readouterr().err
    product = _trained(wrap=lambda rule: _Transforms(rule, lambda: torch.eye(8) @ torch.eye(8))).cost
    assert product.flops_per_step is None
    assert "one every 7 steps" in str(product.not_counted)


def test_a_diverged_run_is_not_counted() -> None:
    training = _trained(lr=1e30)
    assert isinstance(training.outcome, Diverged)
    assert training.cost.flops_per_step is None
    assert training.cost.bytes_by_purpose["parameters"] > 0
