"""A rule is held to the intervals that it declares, over steps that are taken one after the other."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from support.devices import CPU
from torch import Tensor, nn

from apo_bench import Batch, CrossEntropy, Precision, PrecisionPolicy, Problem, StepResult, TorchRule
from apo_bench.measure.consecutive import CONSECUTIVE, FEWEST, consecutive_after
from apo_bench.measure.flops import ExactCost, exact_cost
from apo_bench.plugins.registry import optimizers

N, INPUTS, CLASSES = 20, 7, 3
FORWARD = 2 * N * INPUTS * CLASSES
PLAIN = 2 * FORWARD


def _batch() -> Batch:
    source = torch.Generator().manual_seed(0)
    return Batch((torch.randn(N, INPUTS, generator=source),), torch.randint(0, CLASSES, (N,), generator=source))


def _problem() -> Problem:
    torch.manual_seed(0)
    policy = PrecisionPolicy(Precision.FP32, CPU)
    return Problem(nn.Linear(INPUTS, CLASSES), CrossEntropy(), policy, _batch)


Work = Callable[[Problem, Batch], object]


def _forward(problem: Problem, batch: Batch) -> Tensor:
    with torch.no_grad():
        return problem.outputs(batch)


class _Undeclared(TorchRule):
    """Does something every so many steps, by a number of its own."""

    def __init__(self, problem: Problem, every: int, work: Work = _forward, taken: int = 0) -> None:
        super().__init__(problem, torch.optim.SGD(problem.parameters, lr=0.1))
        self.every, self.work, self.taken = every, work, taken

    def step(self, batch: Batch) -> StepResult:
        if self.taken % self.every == 0:
            self.work(self.problem, batch)
        self.taken += 1
        return super().step(batch)


class _CountsByItself(_Undeclared):
    """The same, with a declaration that it does not keep to."""

    def __init__(self, problem: Problem, every: int, intervals: Mapping[str, int], taken: int = 0) -> None:
        super().__init__(problem, every, taken=taken)
        self.steps, self.intervals = 0, intervals

    def step(self, batch: Batch) -> StepResult:
        self.steps += 1
        return super().step(batch)


class _Declared(TorchRule):
    """Keeps to `Periodic`."""

    def __init__(self, problem: Problem, **intervals: int) -> None:
        super().__init__(problem, torch.optim.SGD(problem.parameters, lr=0.1))
        self.steps, self.intervals = 0, intervals

    def step(self, batch: Batch) -> StepResult:
        for interval in self.intervals.values():
            if self.steps % interval == 0:
                _forward(self.problem, batch)
        self.steps += 1
        return super().step(batch)


def _cost(make: Callable[[Problem], Any]) -> ExactCost:
    problem = _problem()
    cost = exact_cost(make(problem), problem, _batch)
    assert cost is not None
    return cost


@pytest.mark.parametrize("intervals", [{"extra": 10}, {"extra": 1}, {"extra": 1000}, {"a": 3, "b": 4}])
def test_a_rule_that_keeps_to_its_intervals_has_its_mean(intervals: dict[str, int]) -> None:
    cost = _cost(lambda problem: _Declared(problem, **intervals))
    assert cost.not_counted is None
    assert cost.flops_per_step == pytest.approx(PLAIN + sum(FORWARD / every for every in intervals.values()))


@pytest.mark.parametrize("every", [2, 10, 25, 50])
def test_undeclared_work_is_found(every: int) -> None:
    cost = _cost(lambda problem: _Undeclared(problem, every))
    assert (cost.flops_per_step, cost.operator_calls_per_step) == (None, None)
    assert cost.not_counted is not None
    assert "declares no intervals" in cost.not_counted
    if every > 2:  # else neither is the usual step
        assert f"one every {every} steps, cost {PLAIN + FORWARD:,} FLOPs, the others {PLAIN:,}" in cost.not_counted


def test_undeclared_work_of_every_step_is_none() -> None:
    assert _cost(lambda problem: _Undeclared(problem, 1)).flops_per_step == PLAIN + FORWARD


def test_an_undeclared_inverse_is_found() -> None:
    cost = _cost(lambda problem: _Undeclared(problem, 7, lambda *_: torch.linalg.inv(torch.eye(5))))
    assert cost.flops_per_step is None
    assert cost.not_counted is not None
    assert f"one every 7 steps, cost {PLAIN + 2 * 5**3:,} FLOPs" in cost.not_counted


def test_undeclared_elementwise_work_costs_the_operator_calls_alone() -> None:
    cost = _cost(lambda problem: _Undeclared(problem, 5, lambda problem, _: problem.parameters[0].detach().clone()))
    assert (cost.flops_per_step, cost.operator_calls_per_step) == (PLAIN, None)
    assert cost.not_counted is not None
    assert "one every 5 steps" in cost.not_counted
    assert "operator calls" in cost.not_counted


def test_work_at_random_is_described_by_no_interval() -> None:
    source = torch.Generator().manual_seed(0)

    def sometimes(problem: Problem, batch: Batch) -> None:
        if torch.rand((), generator=source) < 0.3:
            _forward(problem, batch)

    reason = _cost(lambda problem: _Undeclared(problem, 1, sometimes)).not_counted
    assert reason is not None
    assert "no interval describes" in reason


@pytest.mark.parametrize("taken", range(10))
def test_a_rule_that_counts_by_itself_is_found_wherever_it_stands(taken: int) -> None:
    cost = _cost(lambda problem: _CountsByItself(problem, 10, {"extra": 10}, taken))
    assert cost.flops_per_step is None
    assert cost.not_counted is not None
    assert "the rule counts by a number of its own" in cost.not_counted


def test_an_interval_that_is_not_the_declared_one_is_named() -> None:
    reason = _cost(lambda problem: _CountsByItself(problem, 7, {"extra": 10})).not_counted
    assert reason is not None
    assert "'extra' every 10 steps" in reason
    assert "one every 7 steps" in reason


@pytest.mark.parametrize("declared", [20, 1000])
def test_declared_work_that_is_not_done_is_found(declared: int) -> None:
    """Where it is due too rarely to be seen, a step at its interval must do more than the others."""
    cost = _cost(lambda problem: _CountsByItself(problem, 30_000, {"extra": declared}, taken=1))
    if declared > CONSECUTIVE // 2:
        assert cost.flops_per_step is None
        assert cost.not_counted is not None
        assert "'extra' is done every 1000 steps" in cost.not_counted
    else:  # nothing is done, and nothing is counted
        assert cost.flops_per_step == PLAIN


def test_steps_that_do_not_count_are_found() -> None:
    class Stuck(_Declared):
        def step(self, batch: Batch) -> StepResult:
            result = super().step(batch)
            self.steps -= 1
            return result

    reason = _cost(lambda problem: Stuck(problem, extra=10)).not_counted
    assert reason is not None
    assert "`steps` = 999,950 left it at 999,950" in reason


STARTED = {"apo-p-warm": 31}
"""Steps after which a rule that begins as another one has begun."""


@pytest.mark.parametrize("name", optimizers().names())
def test_every_registered_optimizer_keeps_to_its_intervals(name: str) -> None:
    problem = _problem()
    problem = Problem(
        nn.Sequential(nn.Linear(INPUTS, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)),
        problem.objective,
        problem.precision,
        _batch,
    )
    competitor = optimizers()[name].load()
    rule = competitor.build(problem, competitor.hyperparameters())
    for _ in range(STARTED.get(name, 0)):
        rule.step(_batch())
    cost = exact_cost(rule, problem, _batch)
    assert cost is not None
    assert cost.not_counted is None
    assert cost.flops_per_step


def test_a_step_at_its_interval_draws_a_batch_of_the_same_shape() -> None:
    """The length of a padded batch is no work that was not declared."""
    lengths = iter(range(3, 1000))

    class Draws(_Declared):
        def step(self, batch: Batch) -> StepResult:
            if self.steps % 10 == 0:
                _forward(self.problem, self.problem.draw())
            return super().step(batch)

    def draw() -> Batch:
        count = next(lengths)
        return Batch((torch.zeros(count, INPUTS),), torch.zeros(count, dtype=torch.int64))

    problem = _problem()
    problem = Problem(problem.model, problem.objective, problem.precision, draw)
    cost = exact_cost(Draws(problem, extra=10), problem, _batch)
    assert cost is not None
    assert cost.not_counted is None


def test_what_a_rule_has_compiled_is_counted_as_it_is_without_the_compiler() -> None:
    def fails(*_: Any) -> Callable[..., Any]:
        def compiled(*_: Any) -> Any:
            pytest.fail("the compiled function ran")

        return compiled

    product = torch.compile(lambda one, other: one @ other, backend=fails)
    cost = _cost(lambda problem: _Undeclared(problem, 1, lambda *_: product(torch.eye(4), torch.eye(4))))
    assert cost.flops_per_step == PLAIN + 2 * 4**3


def test_a_short_run_is_followed_by_few_steps() -> None:
    assert [consecutive_after(steps) for steps in (1, 300, 2000)] == [FEWEST, 30, CONSECUTIVE]
