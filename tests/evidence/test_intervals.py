"""Student's intervals: their width, and that they cover as often as they say."""

import pytest
from scipy import stats

from apo_bench.evidence.intervals import mean_interval


def test_interval_is_students() -> None:
    values = [84.1, 85.0, 86.2, 85.5]
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    got = mean_interval(values)
    assert got.half_width is not None
    assert (got.mean - got.half_width, got.mean + got.half_width) == pytest.approx((low, high))


def test_simultaneous_intervals_are_wider_and_one_value_has_none() -> None:
    wide, narrow = mean_interval([1.0, 2.0, 3.0], comparisons=5), mean_interval([1.0, 2.0, 3.0])
    assert wide.half_width is not None
    assert narrow.half_width is not None
    assert wide.half_width > narrow.half_width
    assert mean_interval([1.0]).half_width is None
    assert not mean_interval([1.0]).excludes_zero


def test_the_interval_covers_as_often_as_it_says() -> None:
    import numpy as np

    source = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        got = mean_interval(list(source.normal(3.0, 2.0, size=3)))
        assert got.half_width is not None
        hits += abs(got.mean - 3.0) <= got.half_width
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)
