"""Cost to a target, where some runs never reach it."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from apo_bench.evidence.censored import Arrival, cost_quantile, kaplan_meier


def _runs(times: np.ndarray, budgets: np.ndarray | float) -> list[Arrival]:
    ends = np.broadcast_to(budgets, times.shape)
    return [Arrival(min(time, end), bool(time <= end)) for time, end in zip(times.tolist(), ends.tolist(), strict=True)]


def test_a_median_survives_runs_that_never_arrive() -> None:
    runs = [Arrival(30.0), Arrival(10.0), Arrival(50.0, reached=False), Arrival(20.0), Arrival.never()]
    found = cost_quantile(runs)
    assert (found.value, found.low, found.high, found.n, found.reached) == (30.0, 10.0, math.inf, 5, 3)
    assert found.coverage == 0.9375
    assert cost_quantile(runs, 0.25).value == 20.0
    assert cost_quantile([*runs, Arrival.never()]).value == 30.0  # half of them
    assert cost_quantile([*runs, Arrival.never(), Arrival.never()]).value == math.inf
    assert cost_quantile([Arrival.never()] * 5).value == math.inf
    assert cost_quantile([Arrival.never()] * 5).low == math.inf
    assert cost_quantile([Arrival(7.0)]).coverage == 0.0


@pytest.mark.parametrize(("n", "coverage"), [(3, 0.75), (5, 0.9375), (6, 0.96875), (10, 0.978515625)])
def test_few_runs_say_how_much_their_interval_covers(n: int, coverage: float) -> None:
    assert cost_quantile([Arrival(float(cost)) for cost in range(1, n + 1)]).coverage == pytest.approx(coverage)


def test_the_interval_of_a_median_is_the_one_of_the_quantile_test() -> None:
    values = np.random.default_rng(0).exponential(size=25)
    found = cost_quantile([Arrival(value) for value in values.tolist()])
    expected: Any = stats.quantile_test(values, q=0.0, p=0.5).confidence_interval(0.95)
    assert (found.low, found.high) == (expected.low, expected.high)
    assert found.value == np.sort(values)[12]


def test_the_share_that_is_left_is_kaplan_meiers() -> None:
    generator = np.random.default_rng(1)
    runs = _runs(generator.exponential(size=30).round(1) + 0.1, generator.uniform(0.5, 3.0, size=30))
    times, surviving = kaplan_meier(runs)
    data = stats.CensoredData.right_censored([run.cost for run in runs], [not run.reached for run in runs])
    np.testing.assert_allclose(stats.ecdf(data).sf.evaluate(times), surviving, atol=1e-12)


@pytest.mark.parametrize("n", [3, 5, 10, 30])
@pytest.mark.parametrize("budget", ["one", "any"])
def test_the_interval_covers_the_median(n: int, budget: str) -> None:
    generator = np.random.default_rng([2, n])
    held, promised = 0, 0.0
    for times in generator.exponential(size=(500, n)):
        found = cost_quantile(_runs(times, 1.5 if budget == "one" else generator.uniform(0.7, 3.0, size=n)))
        held += found.low <= math.log(2.0) <= found.high
        promised += found.coverage
    assert held / 500 >= min(promised / 500, 0.95) - 3 * 0.0195
    assert found.n == n


def test_with_budgets_that_differ_and_the_target_never_reached_nothing_bounds_it() -> None:
    found = cost_quantile([Arrival(1.0), Arrival(0.5, reached=False), Arrival(2.0, reached=False), Arrival.never()])
    assert (found.value, found.high) == (math.inf, math.inf)
    assert found.low <= 1.0


@pytest.mark.parametrize("cost", [-1.0, math.nan])
def test_costs_are_numbers_and_a_quantile_needs_runs(cost: float) -> None:
    with pytest.raises(ValueError, match="not negative"):
        Arrival(cost)
    with pytest.raises(ValueError, match="not negative"):
        Arrival(math.inf)
    with pytest.raises(ValueError, match="needs runs"):
        cost_quantile([])
    with pytest.raises(ValueError, match="needs runs"):
        cost_quantile([Arrival(1.0)], 1.0)
