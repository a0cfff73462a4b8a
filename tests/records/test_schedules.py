"""Schedules: factors on the learning rate."""

import itertools

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


def test_a_warmup_is_a_fraction() -> None:
    with pytest.raises(ValueError, match="fraction"):
        Constant(warmup=5)
