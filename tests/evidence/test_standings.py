"""Standings over tasks: scores, rank intervals that hold, ties, failures, and what is missing."""

import math

import numpy as np
import pytest

from apo_bench.evidence.estimates import Verdict
from apo_bench.evidence.standings import Standings, difference_errors, standings

Table = dict[str, dict[str, list[float]]]


def _scores(generator: np.random.Generator, means: list[float], *, tasks: int, n: int, spread: float = 0.05) -> Table:
    return {
        name: {str(task): generator.normal(mean, spread, size=n).tolist() for task in range(tasks)}
        for name, mean in zip("abcdefgh", means, strict=False)
    }


def _ranks(found: Standings) -> dict[str, tuple[int, int]]:
    return {row.name: (row.best_rank, row.worst_rank) for row in found.rows}


def test_clear_differences_are_ranks_and_near_ones_are_ties() -> None:
    found = standings(_scores(np.random.default_rng(0), [1.0, 0.5, 0.99, 0.0], tasks=4, n=5))
    assert _ranks(found) == {"a": (1, 2), "c": (1, 2), "b": (3, 3), "d": (4, 4)}
    assert found.groups in {(("a", "c"), ("b",), ("d",)), (("c", "a"), ("b",), ("d",))}
    assert found.leader is None
    tied = {row.name: row.tied_with for row in found.rows}
    assert (tied["a"], tied["c"], tied["b"]) == (("c",), ("a",), ())
    assert [one.verdict for one in found.neighbours] == [Verdict.UNDECIDED, Verdict.BETTER, Verdict.BETTER]
    first = found.neighbours[0]
    assert first.seeds_needed is None or first.seeds_needed > 5
    assert [row.score for row in found.rows] == sorted((row.score for row in found.rows), reverse=True)
    assert set(found.without) == {"0", "1", "2", "3"}
    assert all(order[2:] == ("b", "d") for order in found.without.values())


def test_the_one_that_is_first_beyond_doubt_leads() -> None:
    found = standings(_scores(np.random.default_rng(1), [1.0, 0.5, 0.5], tasks=3, n=5))
    assert found.leader == "a"
    assert _ranks(found) == {"a": (1, 1), "b": (2, 3), "c": (2, 3)}
    assert standings({"a": {"t": [1.0, 0.9, 0.8]}}).leader is None


def test_the_score_is_the_interquartile_mean_with_equal_weights_of_tasks() -> None:
    scores = {
        "a": {"s": [0.0] * 3, "t": [1.0] * 9, "u": [2.0] * 3, "v": [3.0] * 3},
        "b": {t: [0.0, 0.1, 0.2] for t in "stuv"},
    }
    (row,) = (row for row in standings(scores).rows if row.name == "a")
    assert row.score == pytest.approx(1.5)


def test_equal_input_gives_equal_output_in_any_order() -> None:
    scores = _scores(np.random.default_rng(2), [1.0, 0.97, 0.5], tasks=3, n=3)
    assert standings(scores) == standings(scores)
    assert _ranks(standings(scores)) == _ranks(standings(dict(reversed(scores.items()))))


def test_who_diverges_or_raises_is_last_on_that_task() -> None:
    generator = np.random.default_rng(3)
    scores = _scores(generator, [1.0, 0.9, 0.4], tasks=1, n=5)
    scores["a"]["0"] = scores["a"]["0"][:1]
    found = standings(scores, {"a": {"0": 4}})
    assert _ranks(found) == {"b": (1, 1), "c": (2, 2), "a": (3, 3)}
    assert found.rows[-1].last_on == ("0",)
    assert found.rows[-1].score == 0.0
    both = standings({**scores, "b": {}}, {"a": {"0": 4}, "b": {"0": 5}})
    assert _ranks(both) == {"c": (1, 1), "a": (2, 3), "b": (2, 3)}
    reasons = {one.reason for one in both.neighbours}
    assert "equal values in all seeds show no spread to judge by" in reasons
    worse_than_trivial = standings({"a": {"0": [1.0] * 2}, "b": {"0": [-3.0, -2.9, -3.1]}}, {"a": {"0": 1}})
    assert [row.name for row in worse_than_trivial.rows] == ["b", "a"]
    assert worse_than_trivial.rows[1].score == -3.1


def test_a_missing_competitor_or_one_with_two_seeds_is_not_ranked() -> None:
    scores = _scores(np.random.default_rng(4), [1.0, 0.5, 0.4, 0.2], tasks=2, n=3)
    del scores["b"]["1"]
    scores["c"]["0"] = scores["c"]["0"][:2]
    scores["d"]["1"] = scores["d"]["1"][:1]
    found = standings(scores)
    assert [row.name for row in found.rows] == ["a"]
    assert found.unranked == {
        "b": "no run on 1",
        "c": "n = 2 on 0; ranks need 3 seeds",
        "d": "n = 1 on 1; ranks need 3 seeds",
    }
    assert standings({}).rows == ()


def test_equal_values_are_tied_whatever_their_difference() -> None:
    found = standings({"a": {"t": [1.0] * 3}, "b": {"t": [0.5] * 3}})
    assert _ranks(found) == {"a": (1, 2), "b": (1, 2)}


def test_scores_are_finite() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        standings({"a": {"t": [1.0, math.nan, 1.0]}})


def test_seeds_needed_come_true() -> None:
    generator = np.random.default_rng(5)
    asked = standings(_scores(generator, [0.53, 0.47], tasks=3, n=5, spread=0.1)).neighbours[0]
    while asked.verdict is not Verdict.UNDECIDED or not asked.seeds_needed or abs((asked.value or 0.0) - 0.06) > 0.005:
        asked = standings(_scores(generator, [0.53, 0.47], tasks=3, n=5, spread=0.1), draws=500).neighbours[0]
    n = asked.seeds_needed
    found = [
        standings(_scores(generator, [0.53, 0.47], tasks=3, n=n, spread=0.1), draws=300).neighbours[0].verdict
        for _ in range(60)
    ]
    assert 0.55 <= found.count(Verdict.BETTER) / 60 <= 1.0


def test_tasks_that_disagree_make_a_statement_about_new_tasks_uncertain() -> None:
    generator = np.random.default_rng(6)
    scores: Table = {"a": {}, "b": {}}
    for task, ahead in enumerate([0.3, -0.1, 0.4, 0.2, -0.05]):
        scores["a"][str(task)] = generator.normal(0.5 + ahead, 0.01, size=5).tolist()
        scores["b"][str(task)] = generator.normal(0.5, 0.01, size=5).tolist()
    assert standings(scores).leader == "a"
    new = standings(scores, new_tasks=True)
    assert new.leader is None
    assert new.neighbours[0].seeds_needed is None


def test_the_bootstrap_error_of_a_mean_is_unbiased_at_three_seeds() -> None:
    """On one task with seven seeds of which the interquartile mean takes the middle, and with three against theory."""
    generator = np.random.default_rng(7)
    squares, scores = [], []
    for row in generator.normal(size=(300, 2, 3)):
        errors, _ = difference_errors([[row[0]], [row[1]]], generator, draws=300, new_tasks=False)
        squares.append(errors[0, 1] ** 2)
        scores.append(row[0].mean() - row[1].mean())
    assert np.mean(squares) == pytest.approx(2 / 3, rel=0.15)  # two draws of three: their mean
    assert np.var(scores) == pytest.approx(2 / 3, rel=0.25)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("tasks", [1, 4])
def test_the_intervals_of_equal_competitors_hold_all_ranks(n: int, tasks: int) -> None:
    """60 standings of four with spreads from 1 to 5: all rows must reach from 1 to 4 in 95 %, less three errors."""
    generator = np.random.default_rng([8, n, tasks])
    held = 0
    for _ in range(60):
        scores = {
            name: {str(t): generator.normal(0.8, 0.01 * spread, n).tolist() for t in range(tasks)}
            for name, spread in zip("abcd", (1, 2, 3, 5), strict=True)
        }
        held += all(rank == (1, 4) for rank in _ranks(standings(scores, draws=200)).values())
    assert held >= 60 * (0.95 - 3 * 0.028)
