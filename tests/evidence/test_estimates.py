"""Means with intervals: what they are, how often they cover, and when there are none."""

import math

import numpy as np
import pytest
from scipy import stats

from apo_bench.evidence.estimates import Sample, ValueScale, is_constant, mean_estimate, quantile

LOG = ValueScale.LOG


@pytest.mark.parametrize("family", [1, 7])
def test_the_interval_of_a_mean_is_students(family: int) -> None:
    values = [84.1, 85.0, 86.2, 85.5]
    expected = stats.t.interval(1.0 - 0.05 / family, 3, loc=np.mean(values), scale=stats.sem(values))
    estimate = mean_estimate(Sample.of(values), family=family)
    assert (estimate.low, estimate.high) == pytest.approx(expected)
    assert estimate.half_width == pytest.approx((expected[1] - expected[0]) / 2)
    assert estimate.n == 4
    assert estimate.verdict is None


def test_on_logarithms_the_mean_is_geometric_and_the_interval_one_of_ratios() -> None:
    values = [1e-10, 4e-10, 1e-9]
    estimate = mean_estimate(Sample.of(values, scale=LOG))
    low, high = stats.t.interval(0.95, 2, loc=np.mean(np.log(values)), scale=stats.sem(np.log(values)))
    assert estimate.value == pytest.approx(stats.gmean(values))
    assert (estimate.low, estimate.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert estimate.low is not None
    assert estimate.low > 0.0


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("scale", list(ValueScale))
def test_the_interval_covers_as_often_as_it_says(n: int, scale: ValueScale) -> None:
    """The function itself on 300 samples, and its formula on 20,000."""
    generator = np.random.default_rng([1, n])
    numbers = generator.normal(3.0, 2.0, size=(20_000, n))
    half = quantile(n - 1, 1) * numbers.std(axis=1, ddof=1) / math.sqrt(n)
    assert (np.abs(numbers.mean(axis=1) - 3.0) <= half).mean() == pytest.approx(0.95, abs=0.006)
    for row, width in zip(numbers[:300], half, strict=False):
        values = row if scale is ValueScale.LINEAR else np.exp(row)
        estimate = mean_estimate(Sample.of(values.tolist(), scale=scale))
        assert estimate.low is not None
        low = estimate.low if scale is ValueScale.LINEAR else math.log(estimate.low)
        assert row.mean() - low == pytest.approx(width)


@pytest.mark.parametrize(
    ("sample", "value", "reason"),
    [
        (Sample.of([]), None, "no runs"),
        (Sample.of([], diverged=5), None, "no run has a value: 5 of 5 diverged"),
        (Sample.of([1.0], diverged=4), None, "4 of 5 diverged: a mean over the others would flatter"),
        (Sample.of([1.0], diverged=1, failed=2), None, "1 of 4 diverged, 2 of 4 raised: a mean over the others"),
        (Sample.of([1.0, 0.0, 2.0], scale=LOG), None, "a value that is not positive has no logarithm"),
        (Sample.of([2.0]), 2.0, "n = 1 shows no spread"),
        (Sample.of([0.1 + 0.2, 0.3, 0.3]), pytest.approx(0.3), "equal values show no spread"),
        (Sample.of([-1.7e308, 1.7e308]), 0.0, "its interval ends beyond the largest number"),
        (Sample.of([1e-300, 1e300], scale=LOG), pytest.approx(1.0), "its interval ends beyond the largest number"),
    ],
)
def test_where_there_is_no_interval_the_estimate_says_why(sample: Sample, value: float | None, reason: str) -> None:
    estimate = mean_estimate(sample)
    assert estimate.value == value
    assert (estimate.low, estimate.high, estimate.half_width) == (None, None, None)
    assert estimate.reason.startswith(reason)
    assert not estimate.excludes_null


def test_a_collapse_is_a_doubt_of_the_interval() -> None:
    assert mean_estimate(Sample.of([1.0, 2.0, 3.0])).doubt == ""
    assert mean_estimate(Sample.of([1.0, 2.0, -30.0], collapsed=1)).doubt.startswith("1 of 3 runs collapsed")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_are_finite_and_counts_make_sense(bad: float) -> None:
    with pytest.raises(ValueError, match="count diverged runs"):
        Sample.of([1.0, bad])
    with pytest.raises(ValueError, match="neither negative"):
        Sample.of([1.0], collapsed=2)
    with pytest.raises(ValueError, match="neither negative"):
        Sample.of([1.0], diverged=-1)


def test_rounding_is_no_spread_at_any_size() -> None:
    assert is_constant([1e300, 1e300 * (1 + 1e-12)])
    assert is_constant([0.0, 0.0])
    assert not is_constant([1e-300, 2e-300])
