"""Grids: the best setting by validation on a seed that reports nothing, chosen and used by one command."""

from typing import Any

import msgspec
import pytest
from support.records import FACTS, record

from apo_bench.evidence.leaderboard import leaderboard, planned_leaderboard
from apo_bench.evidence.tuning import GridSearch, Tuned, last_validation, searches_of, tune
from apo_bench.records.events import CurvePoint
from apo_bench.records.facts import Direction
from apo_bench.records.outcome import Crashed, Diverged, Outcome, Reason
from apo_bench.records.run import RunRecord
from apo_bench.records.spec import Scalar, Scale
from apo_bench.records.suite import TUNING_SEED
from apo_bench.render.figures import drawings
from apo_bench.render.leaderboard import leaderboard_markdown
from apo_bench.suites import suite
from apo_bench.suites.lr_adaptation import GRID


def _search(rates: tuple[float, ...] = (0.1, 0.2, 0.3)) -> GridSearch:
    return GridSearch.of(record("o", TUNING_SEED, None, lr=rate).spec for rate in rates)


def _tried(
    rate: float, *validations: float, seed: int = TUNING_SEED, outcome: Outcome | None = None, **fields: Any
) -> RunRecord:
    """A tuning run of two epochs with ten steps each that is evaluated twice an epoch; its test score is the rate's."""
    made = record("o", seed, 100 * rate, lr=rate, outcome=outcome, **fields)
    assert made.spec.budget.steps(FACTS.steps_per_epoch) == 10 * made.spec.budget.epochs
    count = 2 * int(made.spec.budget.epochs)
    places = range(count - len(validations) + 1, count + 1)
    curve = tuple(
        CurvePoint(
            step=5 * place,
            epoch=place / 2,
            seconds=1.0,
            train_loss=1.0,
            validation_loss=1.0,
            validation=value,
            learning_rate_factor=1.0,
        )
        for place, value in zip(places, validations, strict=True)
    )
    return msgspec.structs.replace(made, curve=curve)


def _tune(*records: RunRecord, rates: tuple[float, ...] = (0.1, 0.2, 0.3), final: bool = False) -> Tuned:
    return tune(_search(rates), {one.run_id: one for one in records}, final=final)


def _rate(tuned: Tuned) -> Scalar:
    assert tuned.chosen is not None
    return tuned.chosen.optimizer.hyperparameters["lr"]


def test_the_choice_is_by_validation_and_not_by_test() -> None:
    tuned = _tune(_tried(0.1, 80.0, 80.0), _tried(0.2, 90.0, 90.0), _tried(0.3, 85.0, 85.0))  # test: 10, 20, 30
    assert _rate(tuned) == 0.2
    assert tuned.validation == 90.0
    assert tuned.ends == ()


def test_the_choice_is_by_the_last_epochs_mean_and_not_by_the_best_of_the_curve() -> None:
    spiky = _tried(0.1, 99.0, 70.0, 80.0, 90.0)
    assert last_validation(spiky) == 85.0
    assert _rate(_tune(spiky, _tried(0.2, 86.0, 86.0), _tried(0.3, 10.0, 99.0))) == 0.2


def test_of_equal_ones_the_smaller_value_wins() -> None:
    assert _rate(_tune(*(_tried(rate, 50.0) for rate in (0.3, 0.2, 0.1)))) == 0.1


def test_less_is_better_where_the_metric_says_so() -> None:
    facts = msgspec.structs.replace(FACTS, direction=Direction.MINIMIZE)
    tuned = _tune(*(_tried(rate, value, facts=facts) for rate, value in ((0.1, 3.0), (0.2, 1.0), (0.3, 2.0))))
    assert _rate(tuned) == 0.2


def test_a_diverged_run_never_wins() -> None:
    diverged = _tried(0.3, 99.0, 99.0, outcome=Diverged(step=7, reason=Reason.TRAINING_LOSS))
    tuned = _tune(_tried(0.1, 50.0), _tried(0.2, 60.0), diverged)
    assert _rate(tuned) == 0.2
    assert tuned.diverged == 1
    assert tuned.line.endswith(": 60 (1 diverged)")


def test_where_all_diverged_there_is_no_choice() -> None:
    tuned = _tune(*(_tried(rate, outcome=Diverged(step=1, reason=Reason.TRAINING_LOSS)) for rate in (0.1, 0.2, 0.3)))
    assert tuned.is_final
    assert tuned.chosen is None
    assert "none has a validation accuracy (%) on seed 100 (3 diverged)" in tuned.line


def test_a_choice_waits_for_every_point_unless_they_are_given_up() -> None:
    found = (_tried(0.1, 50.0), _tried(0.2, 60.0))
    assert _tune(*found).chosen is None
    assert "to be chosen on seed 100 (2 of 3 tuning runs done)" in _tune(*found).line
    assert _rate(_tune(*found, final=True)) == 0.2
    failed = _tried(0.3, outcome=Crashed(message="no"))
    assert _rate(_tune(*found, failed)) == 0.2


@pytest.mark.parametrize(("best", "ends"), [(0.1, ("lr",)), (0.2, ()), (0.3, ("lr",))])
def test_an_end_of_the_grid_is_named(best: float, ends: tuple[str, ...]) -> None:
    tuned = _tune(*(_tried(rate, 60.0 if rate == best else 50.0) for rate in (0.1, 0.2, 0.3)))
    assert tuned.ends == ends
    assert ("lr at an end of the grid" in tuned.line) == bool(ends)


def test_of_several_tuning_seeds_the_mean_decides_and_a_setting_that_diverges_in_one_is_out() -> None:
    values = {0.1: (70.0, 40.0), 0.2: (56.0, 56.0), 0.3: (50.0, 51.0)}
    tries = [
        _tried(rate, value, seed=seed)
        for rate, own in values.items()
        for seed, value in zip((100, 101), own, strict=True)
    ]
    search = GridSearch.of(one.spec for one in tries)
    assert search.seeds == (100, 101)
    assert [len(runs) for runs in search.settings] == [2, 2, 2]
    tuned = tune(search, {one.run_id: one for one in tries})
    assert _rate(tuned) == 0.2
    assert "on seeds 100, 101: 56" in tuned.line
    lost = _tried(0.2, seed=101, outcome=Diverged(step=1, reason=Reason.TRAINING_LOSS))
    assert _rate(tune(search, {one.run_id: one for one in tries} | {lost.run_id: lost})) == 0.1


def test_words_have_no_ends() -> None:
    points = [record("o", TUNING_SEED, None, structure=word).spec for word in ("tril", "full")]
    search = GridSearch.of(points)
    assert search.grid == {"structure": ("full", "tril")}
    assert search.ends(points[0]) == ()


def test_tuning_runs_are_in_no_cell_and_no_figure_and_the_page_says_what_they_chose() -> None:
    tries = [_tried(0.1, 50.0), _tried(0.2, 60.0), _tried(0.3, 55.0)]
    reported = [record("o", seed, 70.0, lr=0.2) for seed in (0, 1)]
    name, scale = reported[0].suite, reported[0].scale
    board = leaderboard(name, scale, [*tries, *reported])
    ((row,),) = (section.rows for section in board.sections)
    assert (row.competitor, row.results) == ("o", 2)
    assert row.score is not None
    assert row.score.mean == 70.0
    (tuned,) = board.tuned
    assert _rate(tuned) == 0.2
    page = leaderboard_markdown(board)
    assert "lr = 0.2 of 0.1, 0.2, 0.3; best validation accuracy (%) on seed 100: 60" in page
    assert not list(drawings(name, scale, tries))
    planned = planned_leaderboard(name, scale, [*tries, *reported], [one.spec for one in reported], board.tuned)
    assert planned.tuned == board.tuned
    assert [section.rows[0].results for section in planned.sections] == [2]


def test_searches_are_found_among_the_runs() -> None:
    tries = [_tried(rate, 50.0) for rate in (0.3, 0.1, 0.2)]
    other = [record("p", TUNING_SEED, 1.0, lr=rate) for rate in (1.0, 2.0)]
    alone = record("q", TUNING_SEED, 1.0, lr=1.0)
    assert [search.key for search in searches_of([*other, *tries, alone])] == [
        _search().key,
        GridSearch.of(one.spec for one in other).key,
    ]


def test_at_paper_every_fixed_rate_is_tuned_and_at_local_none() -> None:
    for entry in suite("lr-adaptation", Scale.PAPER).tasks:
        for declared in entry.optimizers:
            assert declared.grid == ({"lr": GRID[declared.optimizer]} if declared.optimizer in GRID else {})
    assert not any(declared.grid for declared in suite("lr-adaptation", Scale.LOCAL).all_competitors())
    tuned = {d.optimizer for d in suite("lr-adaptation", Scale.SMOKE).all_competitors() if d.grid}
    assert tuned == {"sgdm"}
