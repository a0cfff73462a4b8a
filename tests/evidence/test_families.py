"""Comparisons: the interval is the declared one, families keep their error, and nothing is claimed without ground."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from apo_bench.evidence.estimates import Sample, ValueScale, Verdict
from apo_bench.evidence.families import contrast, degrees_of_freedom, family_bounds, welch_degrees
from apo_bench.records.facts import Direction

MORE, LESS = Direction.MAXIMIZE, Direction.MINIMIZE
LOG = ValueScale.LOG
GOOD, BAD = [90.0, 90.2, 90.1], [80.0, 80.3, 80.2]


def test_the_interval_is_welchs_with_fewer_degrees_of_freedom() -> None:
    left, right = [1.0, 2.0, 4.0, 3.0], [1.5, 9.0, 2.2, 7.0, 4.0]
    welch = stats.ttest_ind(left, right, equal_var=False)
    shares = np.var(left, ddof=1) / 4, np.var(right, ddof=1) / 5
    degrees = 1.0 / max(shares[0] / sum(shares) / 3, shares[1] / sum(shares) / 4) - 0.5
    half = stats.t.isf(0.025 / 7, degrees) * (np.mean(left) - np.mean(right)) / welch.statistic
    estimate = contrast(Sample.of(left), Sample.of(right), MORE, family=7)
    assert estimate.value == pytest.approx(np.mean(left) - np.mean(right))
    assert estimate.half_width == pytest.approx(half)
    assert (estimate.n, estimate.family) == (4, 7)
    assert float(welch_degrees(shares[0], 4, shares[1], 5)) == pytest.approx(welch.df)


def test_degrees_of_freedom_lie_between_those_of_the_smaller_sample_and_welchs() -> None:
    left, right = np.random.default_rng(0).exponential(size=(2, 1000))
    degrees, welch = degrees_of_freedom(left, 4, right, 8), welch_degrees(left, 4, right, 8)
    np.testing.assert_allclose(welch, (left + right) ** 2 / (left**2 / 3 + right**2 / 7))
    assert degrees.min() == 3.0
    assert np.all(degrees <= welch + 1e-9)
    assert float(degrees_of_freedom(1e-300, 3, 1e-300, 3)) == 3.5
    assert float(degrees_of_freedom(0.0, 3, 0.0, 3)) == 2.0


def test_a_paired_interval_is_students_over_common_seeds() -> None:
    left, right = Sample({0: 1.0, 1: 2.0, 2: 5.0, 7: 99.0}), Sample({2: 4.5, 1: 1.0, 0: 0.7})
    estimate = contrast(left, right, MORE, paired=True)
    low, high = stats.ttest_rel([1.0, 2.0, 5.0], [0.7, 1.0, 4.5]).confidence_interval()
    assert (estimate.low, estimate.high) == pytest.approx((low, high))
    assert estimate.n == 3
    assert contrast(Sample({0: 1.0}), Sample({1: 1.0}), MORE, paired=True).reason == "no seed in common"


@pytest.mark.parametrize(
    ("left", "right", "direction", "verdict"),
    [
        (GOOD, BAD, MORE, Verdict.BETTER),
        (BAD, GOOD, MORE, Verdict.WORSE),
        (GOOD, BAD, LESS, Verdict.WORSE),
        (BAD, GOOD, LESS, Verdict.BETTER),
        (GOOD, [90.3, 89.9, 90.0], MORE, Verdict.UNDECIDED),
    ],
)
@pytest.mark.parametrize("scale", list(ValueScale))
def test_the_verdict_is_on_the_left_side(
    left: list[float], right: list[float], direction: Direction, verdict: Verdict, scale: ValueScale
) -> None:
    estimate = contrast(Sample.of(left, scale=scale), Sample.of(right, scale=scale), direction)
    assert estimate.verdict is verdict
    assert estimate.excludes_null == (verdict is not Verdict.UNDECIDED)
    middle = (
        math.exp(np.mean(np.log(left)) - np.mean(np.log(right))) if scale is LOG else np.mean(left) - np.mean(right)
    )
    assert estimate.value == pytest.approx(middle)


@pytest.mark.parametrize(
    ("left", "right", "settings", "reason"),
    [
        (Sample.of(GOOD[:1]), Sample.of(BAD), {}, "n = 1; a difference is judged from 3 seeds on"),
        (Sample.of(GOOD[:2]), Sample.of(BAD), {}, "n = 2; a difference is judged from 3 seeds on"),
        (Sample.of(GOOD), Sample.of([], diverged=5, name="kfac"), {}, "kfac: no run has a value: 5 of 5 diverged"),
        (Sample.of(GOOD), Sample.of([80.0], diverged=4), {}, "right: 4 of 5 diverged"),
        (Sample.of([80.0, 80.1], failed=1), Sample.of(GOOD), {}, "left: 1 of 3 raised"),
        (Sample.of([]), Sample.of(GOOD), {}, "left: no runs"),
        (Sample.of(GOOD), Sample.of(BAD), {"planned": 5}, "3 of 5 planned seeds"),
        (Sample.of([1.0] * 3), Sample.of([2.0] * 3), {}, "equal values in all seeds show no spread"),
        (Sample.of([1.0] * 3), Sample.of([1.0] * 3), {}, "equal values in all seeds show no spread"),
        (Sample.of([1.5e308] * 3), Sample.of([-1.5e308, -1e308, -1e308]), {}, "the difference is larger than any"),
        (Sample.of([1e-300, 1e300, 1.0], scale=LOG), Sample.of(GOOD, scale=LOG), {}, "its interval ends beyond"),
    ],
)
def test_what_cannot_be_judged_says_why(left: Sample, right: Sample, settings: dict[str, int], reason: str) -> None:
    estimate = contrast(left, right, MORE, planned=settings.get("planned"))
    assert estimate.verdict is Verdict.UNJUDGED
    assert estimate.reason.startswith(reason)
    assert contrast(right, left, MORE, planned=settings.get("planned")).verdict is Verdict.UNJUDGED


def test_at_the_planned_number_of_seeds_there_is_a_verdict_and_more_seeds_are_a_doubt() -> None:
    assert contrast(Sample.of(GOOD), Sample.of(BAD), MORE, planned=3).verdict is Verdict.BETTER
    more = contrast(Sample.of(GOOD), Sample.of([*BAD, 80.1]), MORE, planned=3)
    assert "4 seeds, 3 planned" in more.doubt
    collapsed = contrast(Sample.of(GOOD), Sample.of(BAD, collapsed=1, name="sgd"), MORE)
    assert collapsed.doubt.startswith("sgd: 1 of 3 runs collapsed")


@pytest.mark.parametrize(
    ("left", "right", "verdict"),
    [([5.0], [6.0] * 3, Verdict.BETTER), ([6.0], [5.0], Verdict.WORSE), ([5.0] * 2, [5.0], Verdict.EQUIVALENT)],
)
def test_of_an_exact_quantity_one_value_is_enough(left: list[float], right: list[float], verdict: Verdict) -> None:
    estimate = contrast(Sample.of(left), Sample.of(right), LESS, exact=True)
    assert estimate.verdict is verdict
    assert estimate.low == estimate.high == estimate.value
    assert contrast(Sample.of(left), Sample.of(right), LESS).verdict is Verdict.UNJUDGED
    noisy = contrast(Sample.of([5.0, 6.0]), Sample.of([5.0]), LESS, exact=True)
    assert noisy.verdict is Verdict.UNJUDGED


def test_a_margin_makes_equivalence_of_two_one_sided_tests() -> None:
    left, right = Sample.of([10.0, 10.1, 9.9]), Sample.of([10.05, 10.0, 10.1])
    one, other = np.array([10.0, 10.1, 9.9]), np.array([10.05, 10.0, 10.1])
    error = math.sqrt(one.var(ddof=1) / 3 + other.var(ddof=1) / 3)
    shares = one.var(ddof=1), other.var(ddof=1)
    degrees = max(2.0 * sum(shares) / max(shares) - 0.5, 2.0)
    edge = abs(one.mean() - other.mean()) + stats.t.isf(0.05 / 4, degrees) * error
    assert contrast(left, right, MORE, family=4, margin=1.001 * edge).verdict is Verdict.EQUIVALENT
    assert contrast(left, right, MORE, family=4, margin=0.999 * edge).verdict is Verdict.UNDECIDED
    small = contrast(Sample.of(GOOD), Sample.of([value - 0.5 for value in GOOD]), MORE, margin=5.0)
    assert small.verdict is Verdict.EQUIVALENT
    ratios = dataclasses.replace(left, scale=LOG), dataclasses.replace(right, scale=LOG)
    assert contrast(*ratios, MORE, margin=1.1).verdict is Verdict.EQUIVALENT
    for scale, margin in ((ValueScale.LINEAR, 0.0), (LOG, 1.0), (ValueScale.LINEAR, math.nan)):
        with pytest.raises(ValueError, match="a margin must be"):
            contrast(Sample.of(GOOD, scale=scale), Sample.of(BAD, scale=scale), MORE, margin=margin)


def test_two_scales_and_an_empty_family_are_errors() -> None:
    with pytest.raises(ValueError, match="one scale"):
        contrast(Sample.of(GOOD), Sample.of(BAD, scale=LOG), MORE)
    with pytest.raises(ValueError, match="must have a member"):
        contrast(Sample.of(GOOD), Sample.of(BAD), MORE, family=0)


def _normal(generator: np.random.Generator, n: int, shift: float = 0.0) -> Sample:
    return Sample.of((shift + generator.normal(size=n)).tolist())


def test_seeds_needed_and_the_smallest_difference_come_true_with_the_power_of_80_percent() -> None:
    """With a spread that is seen nearly exactly, both are the truth."""
    generator = np.random.default_rng(3)
    shape = np.linspace(-1.0, 1.0, 4)
    shape = shape / shape.std(ddof=1)
    estimate = contrast(Sample.of((shape + 0.9).tolist()), Sample.of(shape.tolist()), MORE)
    assert estimate.verdict is Verdict.UNDECIDED
    assert estimate.seeds_needed is not None
    assert estimate.seeds_missing == estimate.seeds_needed - 4
    n, runs = estimate.seeds_needed, 4000
    values = generator.normal(size=(runs, 2, n)) + np.array([0.9, 0.0])[:, None]
    assert _power(values) == pytest.approx(0.8, abs=0.03)
    assert estimate.detectable is not None
    values = generator.normal(size=(runs, 2, 4)) + np.array([estimate.detectable, 0.0])[:, None]
    assert 0.65 < _power(values) < 0.85  # equal spreads were seen, which have the most degrees of freedom
    nothing = contrast(Sample.of(shape.tolist()), Sample.of(shape.tolist()), MORE)
    assert (nothing.verdict, nothing.seeds_needed) == (Verdict.UNDECIDED, None)


def _power(values: np.ndarray) -> float:
    _, low, _ = family_bounds(
        values.mean(axis=2)[:, ::-1],
        values.var(axis=2, ddof=1)[:, ::-1],
        np.full(2, float(values.shape[2])),
        0,
        family=1,
    )
    return float((low[:, 0] > 0.0).mean())


def test_many_families_at_once_are_what_each_comparison_is() -> None:
    generator = np.random.default_rng(4)
    values = generator.normal(size=(20, 4, 3)) * np.array([1.0, 3.0, 0.2, 1.0])[:, None]
    bounds = family_bounds(values.mean(axis=2), values.var(axis=2, ddof=1), np.full(4, 3.0), 1, family=9)
    for row, own in enumerate(values):
        for place, left in enumerate((0, 2, 3)):
            one = contrast(Sample.of(own[left].tolist()), Sample.of(own[1].tolist()), MORE, family=9)
            assert (one.value, one.low, one.high) == pytest.approx([float(bound[row, place]) for bound in bounds])


SPREADS = {"equal": np.ones(8), "one 5": np.r_[1, 5, np.ones(6)], "all 7": np.r_[1, np.full(7, 7.0)]}


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("collapsing", [0.0, 0.1])
@pytest.mark.parametrize("name", SPREADS)
def test_a_family_errs_in_at_most_5_percent(name: str, collapsing: float, n: int) -> None:
    """Of 4,000 families of seven; a share of 5 % is known to 0.35 points, and three of these are allowed."""
    generator = np.random.default_rng([5, n])
    values = generator.normal(size=(4000, 8, n)) * SPREADS[name][:, None]
    values -= 10.0 * (generator.random(values.shape) < collapsing)
    value, low, high = family_bounds(values.mean(axis=2), values.var(axis=2, ddof=1), np.full(8, float(n)), 0, family=7)
    assert ((low > 0.0) | (high < 0.0)).any(axis=1).mean() <= 0.05 + 3 * 0.0035
    assert ((low <= 0.0) & (high >= 0.0)).mean() >= 1.0 - 0.05 / 7 - 0.002
    assert np.all((low < value) & (value < high))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_equivalence_is_claimed_falsely_in_at_most_5_percent(n: int) -> None:
    """Where the true difference is the margin, the hardest case."""
    generator = np.random.default_rng([6, n])
    claims = [
        contrast(_normal(generator, n, shift=3.0), _normal(generator, n), MORE, margin=3.0).verdict for _ in range(600)
    ]
    assert claims.count(Verdict.EQUIVALENT) / 600 <= 0.05 + 3 * 0.009
    if n > 3:
        assert claims.count(Verdict.EQUIVALENT) > 0


def test_a_missing_member_changes_no_width() -> None:
    samples = [Sample.of(GOOD), Sample.of(BAD), Sample.of([1.0, 5.0, 9.0])]
    whole = [contrast(one, samples[0], MORE, family=7) for one in samples[1:]]
    assert [contrast(one, samples[0], MORE, family=7) for one in samples[1:2]] == whole[:1]
    wider, narrower = (contrast(samples[1], samples[0], MORE, family=size).half_width for size in (8, 7))
    assert wider is not None
    assert narrower is not None
    assert wider > narrower
