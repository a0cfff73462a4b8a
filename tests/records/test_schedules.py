"""Schedules: factors on the learning rate."""

import itertools
from fractions import Fraction

import pytest

from apo_bench.records.schedules import Constant, Cosine, Step, learning_rate_factor


def test_schedules() -> None:
    assert [learning_rate_factor(Constant(), step, 10) for step in (0, 9)] == [1.0, 1.0]
    cosine = [learning_rate_factor(Cosine(), step, 100) for step in range(100)]
    assert cosine[0] == 1.0
    assert cosine[50] == pytest.approx(0.5)
    assert all(later < earlier for earlier, later in itertools.pairwise(cosine))
    warm = [learning_rate_factor(Step(warmup=0.1, milestones=(0.5,), decay=0.2), step, 100) for step in range(100)]
    assert warm[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert warm[10:55] == [1.0] * 45
    assert warm[55:] == [0.2] * 45


def test_a_warmup_in_steps_has_no_float_noise() -> None:
    """0.575 of 100 steps are 57.5 and not 57.49999999999999: halves go to the even number."""
    wrong = [
        (thousandths, total)
        for total in (100, 140, 390)
        for thousandths in range(1, 1000)
        if (warmup := round(Fraction(thousandths * total, 1000))) and warmup < total
        if learning_rate_factor(Constant(warmup=thousandths / 1000), 0, total) != 1 / warmup
    ]
    assert wrong == []


def test_a_milestone_that_was_computed_is_where_it_was_meant() -> None:
    """0.1 * 3 is 0.30000000000000004."""
    schedule = Step(milestones=(0.1 * 3, 0.1 + 0.6), decay=0.5)
    factors = [learning_rate_factor(schedule, step, 10) for step in range(10)]
    assert factors == [1.0] * 3 + [0.5] * 4 + [0.25] * 3


def test_a_warmup_is_a_fraction() -> None:
    with pytest.raises(ValueError, match="fraction"):
        Constant(warmup=5)
