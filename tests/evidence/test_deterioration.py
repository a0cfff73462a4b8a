"""Checks of many cells: few false alarms, and what became worse is found."""

import math

import numpy as np
import pytest
from scipy import special, stats

from apo_bench.evidence.deterioration import _inverse_trigamma, moderated_errors, worse_than_before
from apo_bench.evidence.estimates import Sample, ValueScale, Verdict
from apo_bench.records.facts import Direction

MORE, LESS = Direction.MAXIMIZE, Direction.MINIMIZE
CELLS = 8


def _values(generator: np.random.Generator, n: int, runs: int, spread: np.ndarray) -> np.ndarray:
    return np.asarray(generator.normal(size=(runs, CELLS, 2, n)) * spread[:, None, None])


def _alarms(values: np.ndarray) -> np.ndarray:
    """Whether each cell is called worse: runs × cells; the second of the two sides is now."""
    n = values.shape[3]
    errors, degrees = moderated_errors(values.var(axis=3, ddof=1), np.full((CELLS, 2), float(n)))
    means = values.mean(axis=3)
    return np.asarray(means[:, :, 0] - means[:, :, 1] > -special.stdtrit(degrees, 0.05 / CELLS) * errors)


def _samples(values: np.ndarray, scale: ValueScale = ValueScale.LINEAR) -> list[Sample]:
    return [Sample.of(row.tolist(), scale=scale) for row in values]


SPREADS = {
    "equal": np.ones(CELLS),
    "one 5": np.r_[5, np.ones(7)],
    "half 3": np.r_[np.full(4, 3), np.ones(4)],
    "one a fifth": np.r_[0.2, np.ones(7)],
    "any": np.exp(np.linspace(-2.0, 2.0, CELLS)),
}


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("name", SPREADS)
@pytest.mark.parametrize("collapsing", [0.0, 0.1])
def test_a_check_gives_a_false_alarm_in_at_most_5_percent(name: str, n: int, collapsing: float) -> None:
    generator = np.random.default_rng([1, n])
    values = _values(generator, n, 3000, SPREADS[name])
    values -= 10.0 * (generator.random(values.shape) < collapsing)
    assert _alarms(values).any(axis=1).mean() <= 0.05 + 3 * 0.004
    if not collapsing:
        values[:, :, 1] *= 5.0  # the spread has grown, the mean has not
        assert _alarms(values).any(axis=1).mean() <= 0.05 + 3 * 0.004


def test_a_drop_of_three_deviations_in_one_of_eight_cells_is_found_with_three_seeds() -> None:
    generator = np.random.default_rng(2)
    values = _values(generator, 3, 3000, SPREADS["equal"])
    values[:, 0, 1] -= 3.0
    assert _alarms(values)[:, 0].mean() >= 0.65
    assert _alarms(values)[:, 1:].any(axis=1).mean() <= 0.05


def test_the_function_judges_as_the_formula_does() -> None:
    generator = np.random.default_rng(3)
    for values in _values(generator, 3, 10, SPREADS["equal"]):
        values[0, 1] -= 3.0
        estimates = worse_than_before(_samples(values[:, 0]), _samples(values[:, 1]), [MORE] * CELLS)
        worse = [estimate.verdict is Verdict.WORSE for estimate in estimates]
        assert worse == _alarms(values[None])[0].tolist()
        assert [estimate.high is not None and estimate.high < 0.0 for estimate in estimates] == worse
        assert {estimate.low for estimate in estimates} == {-math.inf}
        mirrored = worse_than_before(_samples(-values[:, 0]), _samples(-values[:, 1]), [LESS] * CELLS)
        assert [estimate.verdict for estimate in mirrored] == [estimate.verdict for estimate in estimates]
        assert mirrored[0].low == pytest.approx(-(estimates[0].high or 0.0))
        assert mirrored[0].high == math.inf
        ratios = worse_than_before(
            _samples(np.exp(values[:, 0]), ValueScale.LOG),
            _samples(np.exp(values[:, 1]), ValueScale.LOG),
            [MORE] * CELLS,
        )
        assert [estimate.verdict for estimate in ratios] == [estimate.verdict for estimate in estimates]
        assert ratios[0].high == pytest.approx(math.exp(estimates[0].high or 0.0))
        assert ratios[0].low == 0.0


def test_two_cells_have_nothing_to_lend_and_alike_cells_lend_all() -> None:
    generator = np.random.default_rng(4)
    two = generator.normal(size=(1, 2, 2, 5)).var(axis=3, ddof=1)
    errors, degrees = moderated_errors(two, np.full((2, 2), 5.0))
    for place, (was, now) in enumerate(two[0]):
        assert errors[0, place] == pytest.approx(math.sqrt((was + now) / 5))
        assert degrees[0, place] == pytest.approx((was + now) ** 2 / (was**2 + now**2) * 4)
    alike = np.full((1, CELLS, 2), 4.0)
    errors, degrees = moderated_errors(alike, np.full((CELLS, 2), 3.0))
    assert errors == pytest.approx(np.full((1, CELLS), math.sqrt(8 / 3)))
    assert degrees == pytest.approx(np.full((1, CELLS), 4.0 * CELLS))


def test_a_cell_never_borrows_a_smaller_spread_than_its_own() -> None:
    variances = np.ones((1, CELLS, 2))
    variances[0, 0] = 100.0
    errors, _ = moderated_errors(variances, np.full((CELLS, 2), 3.0))
    assert errors[0, 0] >= math.sqrt(200.0 / 3)
    assert np.all(errors[0, 1:] >= math.sqrt(2.0 / 3))


def test_the_strength_of_the_prior_is_found_where_variances_are_drawn_around_one() -> None:
    """From 4,000 cells with d₀ = 6, whose log-variances spread by ψ′(2) + ψ′(3)."""
    generator = np.random.default_rng(5)
    common = 6.0 / stats.chi2(6).rvs(4000, random_state=generator)
    variances = common[:, None] * generator.chisquare(2, size=(4000, 2)) / 2
    _, degrees = moderated_errors(variances[None], np.full((4000, 2), 3.0))
    assert degrees.min() - 2.0 == pytest.approx(6.0, rel=0.15)  # Welch gives 2 to 4
    np.testing.assert_allclose(
        special.polygamma(1, _inverse_trigamma(np.array([1e-6, 0.1, 1.0, 50.0]))), [1e-6, 0.1, 1, 50]
    )


def test_what_cannot_be_judged_says_why_and_takes_no_part() -> None:
    generator = np.random.default_rng(6)
    values = generator.normal(size=(4, 2, 3))
    before, after = _samples(values[:, 0]), _samples(values[:, 1])
    alone = worse_than_before(before, after, [MORE] * 4, family=9)
    odd = [
        (Sample.of([1.0, 2.0]), before[0], "n = 2"),
        (before[0], Sample.of([1.0], diverged=4), "left: 4 of 5 diverged"),
        (Sample.of([]), before[0], "right: no runs"),
        (Sample.of([1.0] * 3), Sample.of([0.5] * 3), "equal values"),
        (Sample.of([1e200, 2e200, 1e200]), Sample.of([1e200, 2e200, 3e200]), "values are too large"),
    ]
    more = worse_than_before(
        before + [was for was, _, _ in odd], after + [now for _, now, _ in odd], [MORE] * 9, family=9
    )
    assert more[:4] == alone
    for estimate, (_, _, reason) in zip(more[4:], odd, strict=True):
        assert estimate.verdict is Verdict.UNJUDGED
        assert estimate.reason.startswith(reason)
        assert estimate.low is None
    assert worse_than_before([], [], []) == []


def test_a_tolerance_is_what_may_be_lost() -> None:
    before, after = Sample.of([10.0, 10.1, 9.9]), Sample.of([8.0, 8.1, 7.9])
    verdicts = [worse_than_before([before], [after], [MORE], tolerance=much)[0].verdict for much in (0.0, 1.0, 2.0)]
    assert verdicts == [Verdict.WORSE, Verdict.WORSE, Verdict.UNDECIDED]
    assert worse_than_before([after], [before], [MORE])[0].verdict is Verdict.UNDECIDED


def test_lists_of_different_length_and_too_small_a_family_are_errors() -> None:
    one = [Sample.of([1.0, 2.0, 3.0])]
    with pytest.raises(ValueError, match="both sides"):
        worse_than_before(one, [], [MORE])
    with pytest.raises(ValueError, match="cannot have 2 members"):
        worse_than_before(one * 2, one * 2, [MORE] * 2, family=1)
