"""A metric that is no number on finite losses is named, and is no divergence."""

import dataclasses
import math

import pytest
import torch
from support.divergence import run_changed, spoil_parameter
from support.runs import TASK, numbers_of, trained
from torch import Tensor

from apo_bench import Batch, Task
from apo_bench.data.examples import Examples
from apo_bench.problem.problem import Problem
from apo_bench.records.facts import Direction
from apo_bench.records.outcome import Diverged, Exhausted, Reason, Undefined, message_of


class _Metric:
    """Perplexity, say.

    Args:
        values: What it comes to at each of its evaluations: three of validation, then the test.
    """

    name = "perplexity"
    direction = Direction.MINIMIZE

    def __init__(self, *values: float) -> None:
        self._values = list(values)

    def total(self, outputs: Tensor, batch: Batch) -> Tensor:
        return torch.tensor(self._values.pop(0) * batch.size)


class _Corpus(_Metric):
    signature = "v1"

    def score(self, problem: Problem, examples: Examples) -> float:
        return self._values.pop(0)


def _with(metric: _Metric) -> Task:
    return dataclasses.replace(TASK, metric=metric)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [_Metric, _Corpus])
def test_a_metric_that_is_always_undefined_is_the_outcome_with_its_name(
    kind: type[_Metric], value: float, capfd: pytest.CaptureFixture[str]
) -> None:
    training = trained(task=_with(kind(*[value] * 4)), epochs=3)
    outcome = training.outcome
    assert isinstance(outcome, Undefined)
    assert (outcome.step, outcome.metric, outcome.value) == (30, "perplexity", str(value))
    said = message_of(outcome)
    assert said is not None
    assert said.startswith(f"metric 'perplexity' is {value} on the test split, though the loss there is finite")
    assert training.scores.test is None
    assert training.curve == ()
    lines = capfd.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        f"step {step}: metric 'perplexity' is {value} on the validation split" for step in (10, 20, 30)
    ]


def test_a_metric_that_is_undefined_at_first_costs_a_point_of_the_curve_and_nothing_else() -> None:
    training = trained(task=_with(_Metric(math.nan, 4.0, 3.0, 5.0)), epochs=3)
    every = trained(task=_with(_Metric(9.0, 4.0, 3.0, 5.0)), epochs=3)
    assert training.outcome == Exhausted()
    assert training.scores.test == 5.0
    assert [point.validation for point in training.curve] == [4.0, 3.0]
    assert numbers_of(training)[1] == numbers_of(every)[2]
    since_start = (every.curve[0].train_loss + every.curve[1].train_loss) / 2
    assert training.curve[0].train_loss == pytest.approx(since_start)  # since the point before: there is none


def test_a_metric_that_is_undefined_at_last_leaves_no_last_value() -> None:
    training = trained(task=_with(_Metric(9.0, 4.0, math.nan, 5.0)), epochs=3)
    assert training.outcome == Exhausted()
    assert (training.scores.validation, training.scores.best_validation) == (None, 4.0)


def test_a_loss_that_is_not_finite_stays_a_divergence() -> None:
    """Whatever the metric is."""
    task = _with(_Metric(math.nan, math.nan, math.nan, math.nan))
    outcome = run_changed(task=task, after=spoil_parameter(20, "5.bias"), epochs=3).outcome
    assert isinstance(outcome, Diverged)
    assert (outcome.step, outcome.reason) == (20, Reason.VALIDATION)
