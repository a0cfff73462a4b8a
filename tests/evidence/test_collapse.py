"""Collapsed runs: declared by anchors, detected as outliers, and what a cell with some says."""

import math

import numpy as np
import pytest
from scipy import stats

from apo_bench.evidence.collapse import (
    Anchors,
    declared_collapses,
    detected_collapses,
    interquartile_mean,
    robust_summary,
    share_interval,
)
from apo_bench.evidence.estimates import Sample, ValueScale, mean_estimate
from apo_bench.records.facts import Direction

MORE, LESS = Direction.MAXIMIZE, Direction.MINIMIZE


def test_anchors_declare_what_collapsed_in_either_direction_and_on_logarithms() -> None:
    assert declared_collapses({0: 88.0, 1: 10.0, 2: 86.0, 3: 47.9, 4: 48.1}, Anchors(10.0, 86.0)) == {1, 3}
    errors = {0: 1e-9, 1: 0.9, 2: 1e-4, 3: 1e-6, 4: 0.0}
    assert declared_collapses(errors, Anchors(1.0, 1e-10, ValueScale.LOG)) == {1, 2}
    assert declared_collapses(errors, Anchors(1.0, 1e-10)) == {1}
    assert Anchors(1.0, 1e-10, ValueScale.LOG).normalized(0.0) == math.inf


@pytest.mark.parametrize("anchors", [(1.0, 1.0), (math.nan, 1.0), (1.0, math.inf)])
def test_anchors_are_two_numbers(anchors: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two finite numbers"):
        Anchors(*anchors)
    with pytest.raises(ValueError, match="must be positive"):
        Anchors(1.0, 0.0, ValueScale.LOG)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_a_normal_sample_is_hardly_ever_called_collapsed(n: int) -> None:
    generator = np.random.default_rng([1, n])
    found = [bool(detected_collapses(Sample.of(row.tolist()), MORE)) for row in generator.normal(size=(1000, n))]
    assert np.mean(found) <= 0.03


@pytest.mark.parametrize("n", [7, 10])
def test_collapses_of_ten_deviations_are_found_all_and_only_them(n: int) -> None:
    generator = np.random.default_rng([2, n])
    hits = []
    for row in generator.normal(size=(600, n)):
        gone = generator.random(n) < 0.1
        if gone.any():
            hits.append(detected_collapses(Sample.of((row - 10.0 * gone).tolist()), MORE) == set(np.flatnonzero(gone)))
    assert len(hits) > 200
    assert np.mean(hits) > 0.85


def test_several_collapses_do_not_mask_each_other_and_only_the_bad_side_counts() -> None:
    values = [0.0, 0.1, -0.1, 0.2, 0.05, -30.0, -30.2, 0.1, 0.3, -0.2]
    assert detected_collapses(Sample.of(values), MORE) == {5, 6}
    assert detected_collapses(Sample.of(values), LESS) == set()
    assert detected_collapses(Sample.of([-value for value in values]), LESS) == {5, 6}
    assert detected_collapses(Sample.of([1.0] * 9), MORE) == set()
    assert detected_collapses(Sample.of([1.0]), MORE) == set()
    assert detected_collapses(Sample.of([1.0, 1.001, -5.0]), MORE) == {2}
    assert detected_collapses(Sample.of([1.0, 1.1, -5.0]), MORE) == set()  # three cannot tell


def test_the_first_step_is_grubbss_test() -> None:
    """With the critical values of Grubbs, Technometrics 11 (1969), table I, one-sided at 1 %: 1.155, 1.749, 2.410."""
    for n, critical in ((3, 1.155), (5, 1.749), (10, 2.410)):
        t = stats.t.isf(0.01 / n, n - 2)
        assert (n - 1) * t / math.sqrt((n - 2 + t**2) * n) == pytest.approx(critical, abs=0.001)


def test_a_summary_survives_what_a_mean_does_not() -> None:
    whole = robust_summary(Sample.of([1.0, 2.0, 3.0, 4.0]), MORE)
    assert (whole.mean, whole.median, whole.interquartile_mean, whole.share) == (2.5, 2.5, 2.5, 0.0)
    one = robust_summary(Sample.of([88.0, 89.0, 90.0, 87.0], diverged=1), MORE)
    assert (one.mean, one.median, one.collapsed, one.runs) == (None, 88.0, 1, 5)
    assert one.interquartile_mean == pytest.approx((0.75 * 87 + 88 + 0.75 * 89) / 2.5)
    errors = robust_summary(Sample.of([0.1, 0.2, 0.3, 9.0], collapsed=1, diverged=1), LESS)
    assert (errors.median, errors.collapsed) == (0.3, 2)
    most = robust_summary(Sample.of([88.0], diverged=4), MORE)
    assert (most.mean, most.median, most.interquartile_mean) == (None, None, None)
    none = robust_summary(Sample.of([], diverged=5), MORE)
    assert (none.median, none.share, none.share_high) == (None, 1.0, 1.0)
    with pytest.raises(ValueError, match="no runs"):
        robust_summary(Sample.of([]), MORE)


@pytest.mark.parametrize(("count", "runs"), [(0, 3), (1, 5), (3, 10), (10, 10)])
def test_the_interval_of_a_share_is_exact(count: int, runs: int) -> None:
    expected = stats.binomtest(count, runs).proportion_ci(method="exact")
    assert share_interval(count, runs) == pytest.approx((expected.low, expected.high))


def test_the_interquartile_mean_is_a_trimmed_mean_where_that_exists_and_else_weighs_in_part() -> None:
    values = np.random.default_rng(0).normal(size=(5, 12))
    np.testing.assert_allclose(interquartile_mean(values), stats.trim_mean(values, 0.25, axis=1))
    assert float(interquartile_mean([0.0, 1.0, 5.0])) == pytest.approx((0.25 * 0.0 + 1.0 + 0.25 * 5.0) / 1.5)
    assert float(interquartile_mean([7.0])) == 7.0
    assert float(interquartile_mean([-math.inf, 1.0, 2.0, 3.0])) == 1.5
    assert float(interquartile_mean([-math.inf, -math.inf, 2.0, 3.0])) == -math.inf
    repeated = interquartile_mean([1.0, 1.0, 2.0, 5.0, 5.0, 9.0])
    assert float(interquartile_mean([1.0, 2.0, 5.0, 9.0], [2, 1, 2, 1])) == pytest.approx(float(repeated))


def test_a_t_interval_covers_too_little_where_runs_collapse_and_is_marked() -> None:
    generator = np.random.default_rng(7)
    covered, marked = [], []
    for row in generator.normal(size=(1500, 5)):
        values = row - 10.0 * (generator.random(5) < 0.1)
        collapsed = len(declared_collapses(dict(enumerate(values)), Anchors(-10.0, 0.0)))
        estimate = mean_estimate(Sample.of(values.tolist(), collapsed=collapsed))
        assert estimate.low is not None
        assert estimate.high is not None
        covered.append(estimate.low <= -1.0 <= estimate.high)
        marked.append(bool(estimate.doubt))
    assert 0.70 < np.mean(covered) < 0.82
    assert np.mean(marked) == pytest.approx(1.0 - 0.9**5, abs=0.04)
