"""The Pareto front of quality against cost, as far as the runs can tell."""

import numpy as np
import pytest

from apo_bench.evidence.estimates import Sample, ValueScale
from apo_bench.evidence.front import AxisRule, Place, Point, pareto_front
from apo_bench.records.facts import Direction

MORE = AxisRule(Direction.MAXIMIZE)
CHEAP = AxisRule(Direction.MINIMIZE)
EXACT = AxisRule(Direction.MINIMIZE, exact=True)


def _around(value: float, spread: float = 0.01) -> Sample:
    return Sample.of([value * (1 - spread), value, value * (1 + spread)])


def _places(points: list[Point]) -> dict[str, tuple[Place, tuple[str, ...]]]:
    return {point.name: (point.place, point.dominated_by) for point in points}


def test_who_is_beaten_in_both_is_dominated_and_a_trade_off_is_not() -> None:
    quality = {"good": _around(90.0), "cheap": _around(70.0), "bad": _around(50.0)}
    cost = {"good": _around(10.0), "cheap": _around(2.0), "bad": _around(20.0)}
    assert _places(pareto_front(quality, cost, MORE, CHEAP)) == {
        "good": (Place.FRONT, ()),
        "cheap": (Place.FRONT, ()),
        "bad": (Place.DOMINATED, ("good", "cheap")),
    }


def test_a_difference_that_may_be_chance_dominates_nobody() -> None:
    quality = {"a": _around(90.0), "b": _around(89.5)}
    cost = {"a": _around(1.0), "b": _around(5.0)}
    assert {point.place for point in pareto_front(quality, cost, MORE, CHEAP)} == {Place.FRONT}
    close_enough = AxisRule(Direction.MAXIMIZE, margin=20.0)
    assert _places(pareto_front(quality, cost, close_enough, CHEAP))["b"] == (Place.DOMINATED, ("a",))


def test_at_equal_exact_cost_the_better_one_dominates() -> None:
    quality = {"a": _around(90.0), "b": _around(50.0)}
    cost = {name: Sample.of([1e9] * 3) for name in quality}
    assert _places(pareto_front(quality, cost, MORE, EXACT))["b"] == (Place.DOMINATED, ("a",))
    assert {point.place for point in pareto_front(quality, cost, MORE, CHEAP)} == {Place.FRONT}


def test_who_cannot_be_compared_is_not_judged_and_dominates_nobody() -> None:
    quality = {
        "a": _around(50.0),
        "diverged": Sample.of([99.0], diverged=4),
        "gone": Sample.of([], diverged=5),
        "two": Sample.of([99.0, 99.1]),
        "free": _around(99.0),
    }
    cost = {name: _around(1.0) for name in (*quality, "silent") if name != "free"}
    points = {point.name: point for point in pareto_front(quality, cost, MORE, CHEAP)}
    assert points["a"].place is Place.FRONT
    assert {name: point.reason for name, point in points.items() if point.place is Place.UNJUDGED} == {
        "diverged": "4 of 5 diverged: a mean over the others would flatter",
        "gone": "no run has a value: 5 of 5 diverged",
        "two": "n = 2; a difference is judged from 3 seeds on",
        "free": "no cost",
        "silent": "no quality",
    }


def test_one_competitor_and_none() -> None:
    assert [point.place for point in pareto_front({"a": _around(1.0)}, {"a": _around(1.0)}, MORE, CHEAP)] == [
        Place.FRONT
    ]
    assert pareto_front({}, {}, MORE, CHEAP) == []
    with pytest.raises(ValueError, match="cannot have 3 pairs"):
        pareto_front({name: _around(1.0) for name in "abc"}, {}, MORE, CHEAP, family=2)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_front_of_the_truth_is_left_in_at_least_95_percent(n: int) -> None:
    """Four that are equal in quality, of increasing cost: only noise makes one of the first two better."""
    generator = np.random.default_rng(n)
    held = 0
    for _ in range(50):
        quality = {name: Sample.of((90 + 3 * generator.normal(size=n)).tolist()) for name in "abcd"}
        cost = {
            name: Sample.of((price * np.exp(0.01 * generator.normal(size=n))).tolist(), scale=ValueScale.LOG)
            for name, price in zip("abcd", (1.0, 1.0, 2.0, 3.0), strict=True)
        }
        places = _places(pareto_front(quality, cost, MORE, CHEAP))
        held += all(places[name][0] is Place.FRONT for name in "abcd")
    assert held >= 50 * (0.95 - 3 * 0.031)
