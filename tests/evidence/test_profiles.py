"""Performance profiles and runtime distributions: their definition, and bands that cover."""

import math

import numpy as np
import pytest

from apo_bench.evidence.profiles import performance_profiles, runtime_distribution

NEVER = math.inf


def test_a_runtime_distribution_is_the_share_of_targets_reached() -> None:
    costs = {"s": [[1.0, 4.0], [2.0, NEVER], [1.0, 3.0]], "t": [[10.0], [10.0], [NEVER]]}
    curve = runtime_distribution(costs, [0.5, 1.0, 2.0, 4.0, 10.0])
    assert curve.share == pytest.approx([0.0, 2 / 6 / 2, 3 / 6 / 2, 5 / 6 / 2, (5 / 6 + 2 / 3) / 2])
    assert all(low <= share <= high for low, share, high in zip(curve.low, curve.share, curve.high, strict=True))
    assert curve == runtime_distribution(costs, [0.5, 1.0, 2.0, 4.0, 10.0])


def test_a_profile_is_dolan_and_mores() -> None:
    """Three problems: a is twice as fast on the first, b four times on the second, none reaches the third."""
    costs = {
        "a": {"s": [[1.0], [1.0], [9.0]], "t": [[8.0]] * 3, "u": [[NEVER]] * 3},
        "b": {"s": [[2.0], [2.0], [2.0]], "t": [[2.0]] * 3, "u": [[NEVER]] * 3},
    }
    curves = performance_profiles(costs, [1.0, 2.0, 3.0, 4.0, 1e9])
    assert curves["a"].share == pytest.approx([1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert curves["b"].share == pytest.approx([1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert curves["b"].low[1] <= 2 / 3 <= curves["b"].high[1]


def test_ties_are_first_twice_and_a_missing_competitor_has_reached_nothing() -> None:
    costs = {"a": {"s": [[3.0]] * 3, "t": [[1.0]] * 3}, "b": {"s": [[3.0]] * 3}}
    curves = performance_profiles(costs, [1.0])
    assert (curves["a"].share, curves["b"].share) == ((1.0,), (0.5,))


def test_targets_of_one_task_weigh_as_much_as_the_one_of_another() -> None:
    costs = {"a": {"s": [[1.0, NEVER, NEVER, NEVER]] * 3, "t": [[1.0]] * 3}}
    assert performance_profiles(costs, [1.0])["a"].share == (0.625,)
    assert runtime_distribution(costs["a"], [1.0]).share == (0.625,)


def test_below_three_runs_there_is_no_band() -> None:
    costs = {"a": {"s": [[1.0], [2.0]], "t": [[1.0], [2.0], [3.0]]}}
    assert performance_profiles(costs, [1.0])["a"].low == ()
    assert runtime_distribution(costs["a"], [1.0]).high == ()


@pytest.mark.parametrize("n", [5, 10])
def test_the_band_of_a_runtime_distribution_covers_at_each_cost(n: int) -> None:
    """Four tasks, three targets that depend on each other; a percentile bootstrap of few runs covers less than 95 %."""
    generator = np.random.default_rng([1, n])
    at = [1.5, 2.0, 3.0]
    truth = [_reached(cost) for cost in at]
    held = np.zeros(3)
    for _ in range(150):
        first = generator.exponential(size=(4, n, 1))
        costs = {str(task): (rows * np.array([1.0, 2.0, 4.0]) + 0.1).tolist() for task, rows in enumerate(first)}
        curve = runtime_distribution(costs, at, draws=300)
        held += [low <= true <= high for low, true, high in zip(curve.low, truth, curve.high, strict=True)]
    assert np.all(held / 150 >= (0.82 if n == 5 else 0.88))


def _reached(cost: float) -> float:
    return float(np.mean([1.0 - math.exp(-(cost - 0.1) / factor) for factor in (1.0, 2.0, 4.0)]))


def test_costs_have_one_shape_and_are_positive() -> None:
    with pytest.raises(ValueError, match="equally many targets"):
        runtime_distribution({"s": [[1.0], [1.0, 2.0]]}, [1.0])
    with pytest.raises(ValueError, match="equally many targets"):
        runtime_distribution({"s": []}, [1.0])
    with pytest.raises(ValueError, match="must be positive"):
        runtime_distribution({"s": [[math.nan]]}, [1.0])
    with pytest.raises(ValueError, match="same targets on s"):
        performance_profiles({"a": {"s": [[1.0]]}, "b": {"s": [[1.0, 2.0]]}}, [1.0])
    with pytest.raises(ValueError, match="needs a task"):
        performance_profiles({}, [1.0])
    with pytest.raises(ValueError, match="needs a task"):
        runtime_distribution({}, [1.0])
