"""Leaderboards: what they claim, what they leave empty, and that no name can break a page."""

from typing import Any

import msgspec
import pytest
from support.records import FACTS, record

from apo_bench.evidence.estimates import Verdict
from apo_bench.evidence.leaderboard import leaderboard, planned_leaderboard
from apo_bench.evidence.summary import summary
from apo_bench.evidence.table import run_table
from apo_bench.records.events import CurvePoint
from apo_bench.records.facts import Axis, Direction, PrecisionBackend
from apo_bench.records.outcome import Crashed, Diverged, Failed, Reached, Reason, Undefined
from apo_bench.records.run import RunRecord
from apo_bench.records.schedules import Constant, Cosine, Schedule, Step
from apo_bench.records.spec import Budget, Precision, Scale
from apo_bench.render.leaderboard import leaderboard_markdown, leaderboard_text


def test_rows_are_best_first_and_a_difference_needs_means_further_apart_than_seeds() -> None:
    """Pairing by seed would claim the second: in our own records a seed explains nothing (docs/statistics.md)."""
    records = [record("sgdm", seed, 80.0 + 0.1 * seed) for seed in range(3)]
    records += [record("adam", seed, 83.0 + 0.1 * seed) for seed in range(3)]
    spread = [record("sgdm", seed, 80.0 + 3 * seed) for seed in range(3)]
    spread += [record("adam", seed, 81.0 + 3 * seed + 0.01 * seed) for seed in range(3)]
    (undecided,) = (row.versus_reference for row in leaderboard("s", Scale.LOCAL, spread).sections[0].rows[:1])
    assert undecided is not None
    assert undecided.verdict is Verdict.UNDECIDED
    (section,) = leaderboard("s", Scale.LOCAL, records).sections
    assert [row.competitor for row in section.rows] == ["adam", "sgdm"]
    adam, sgdm = section.rows
    assert sgdm.versus_reference is None
    assert adam.versus_reference is not None
    assert adam.versus_reference.value == pytest.approx(3.0)
    assert adam.versus_reference.verdict is Verdict.BETTER


def test_less_is_better_where_the_metric_says_so() -> None:
    facts = msgspec.structs.replace(FACTS, direction=Direction.MINIMIZE, metric="loss")
    records = [
        record(name, seed, loss, facts=facts) for name, loss in (("sgdm", 0.5), ("adam", 0.4)) for seed in (0, 1)
    ]
    (section,) = leaderboard("s", Scale.LOCAL, records).sections
    assert [row.competitor for row in section.rows] == ["adam", "sgdm"]


def test_a_cell_with_a_diverged_run_has_no_mean_and_ranks_last() -> None:
    records = [record("adam", 0, 99.0), record("adam", 1, None, outcome=Diverged(step=3, reason=Reason.TRAINING_LOSS))]
    records += [record("sgdm", 0, 10.0), record("sgdm", 1, 10.0)]
    board = leaderboard("s", Scale.LOCAL, records)
    last = board.sections[0].rows[-1]
    assert (last.competitor, last.score, last.versus_reference) == ("adam", None, None)
    assert "diverged 1 of 2" in leaderboard_markdown(board)


def test_a_cell_whose_optimizer_raised_has_no_mean_and_ranks_last() -> None:
    """Its other seeds are the easy ones."""
    records = [record("adam", 0, 99.0), record("adam", 1, None, outcome=Failed(step=3, message="ValueError: singular"))]
    records += [record("sgdm", 0, 10.0), record("sgdm", 1, 10.0)]
    board = leaderboard("s", Scale.LOCAL, records)
    last = board.sections[0].rows[-1]
    assert (last.competitor, last.score, last.versus_reference, last.best_validation) == ("adam", None, None, None)
    page = leaderboard_markdown(board)
    assert "failed 1 of 2" in page
    assert "the optimizer failed at step 3: ValueError: singular" in page
    assert "failed 1 of 2" in leaderboard_text(board)


def test_a_reference_that_raised_is_compared_with_nobody() -> None:
    records = [record("sgdm", 0, 10.0), record("sgdm", 1, None, outcome=Failed(step=3, message="boom"))]
    records += [record("adam", 0, 99.0), record("adam", 1, 98.0)]
    assert all(row.versus_reference is None for row in leaderboard("s", Scale.LOCAL, records).sections[0].rows)


def test_a_cell_with_an_undefined_metric_has_no_mean_and_names_it() -> None:
    undefined = Undefined(step=50, metric="correlation", value="nan", loss=0.5)
    records = [record("adam", 0, 99.0), record("adam", 1, None, outcome=undefined)]
    records += [record("sgdm", 0, 10.0), record("sgdm", 1, 10.0)]
    board = leaderboard("s", Scale.LOCAL, records)
    last = board.sections[0].rows[-1]
    assert (last.competitor, last.score, last.versus_reference) == ("adam", None, None)
    assert (last.results, last.diverged, last.undefined, last.failed) == (1, 0, 1, 1)
    page = leaderboard_markdown(board)
    assert "undefined 1 of 2" in page
    assert "Diverged runs" not in page.split("## How")[0]
    said = page.partition("## Runs without a result\n\n")[2].partition("\n\n")[0]
    assert said.startswith("- t adam fp32 seed 1: metric 'correlation' is nan on the test split")


def test_a_crash_is_no_result_and_no_loss() -> None:
    records = [record("sgdm", 0, 80.0), record("sgdm", 1, None, outcome=Crashed(message="boom"))]
    board = leaderboard("s", Scale.LOCAL, records)
    (row,) = board.sections[0].rows
    assert (row.results, row.failed) == (1, 1)
    assert row.score is not None
    assert row.score.mean == 80.0
    assert "1, 1 failed" in leaderboard_markdown(board)
    assert "boom" in leaderboard_markdown(board)


def test_one_seed_shows_no_interval_and_no_difference() -> None:
    page = leaderboard_markdown(leaderboard("s", Scale.LOCAL, [record("sgdm", 0, 80.0), record("adam", 0, 81.0)]))
    table = page.split("## How to read")[0]
    assert "±" not in table
    assert "81.00" in table


def test_emulated_costs_stay_empty() -> None:
    emulated = record("sgdm", 0, 80.0, precision=Precision.FP16, backend=PrecisionBackend.EMULATED)
    (row,) = leaderboard("s", Scale.LOCAL, [emulated]).sections[0].rows
    assert row.emulated
    assert (row.step_ms, row.train_seconds, row.peak_memory_bytes, row.state_bytes) == (None, None, None, None)


def test_settings_of_one_optimizer_are_told_apart() -> None:
    records = [record("sgdm", 0, 80.0), record("sgdm", 0, 81.0, lr=0.2), record("adam", 0, 82.0)]
    names = {row.competitor for row in leaderboard("s", Scale.LOCAL, records).sections[0].rows}
    assert names == {"sgdm (lr=0.1)", "sgdm (lr=0.2)", "adam"}


def test_each_budget_of_a_task_has_a_table_of_its_own() -> None:
    longer = record("adam", 0, 83.0)
    longer = longer.under(spec=msgspec.structs.replace(longer.spec, budget=Budget(epochs=15)))
    made = leaderboard("s", Scale.LOCAL, [record("sgdm", 0, 80.0), record("adam", 0, 82.0), longer])
    assert [(section.budget, len(section.rows)) for section in made.sections] == [(", 5 epochs", 2), (", 15 epochs", 1)]
    assert "## t on cpu, 15 epochs\n" in leaderboard_markdown(made)
    (alone,) = leaderboard("s", Scale.LOCAL, [record("sgdm", 0, 80.0)]).sections
    assert alone.budget == ""


def test_an_ablations_rows_name_what_they_vary() -> None:
    """The value that most settings share goes without saying, for each hyperparameter by itself."""
    varied: list[dict[str, Any]] = [{}, {"interval": 1}, {"interval": 100}, {"lr": 1.0}, {"lr": 10.0}]
    records = [record("apo-p", 0, 80.0 + place, **({"interval": 10} | setting)) for place, setting in enumerate(varied)]
    names = [row.competitor for row in leaderboard("s", Scale.LOCAL, records).sections[0].rows]
    assert sorted(names) == ["apo-p", "apo-p (interval=1)", "apo-p (interval=100)", "apo-p (lr=1.0)", "apo-p (lr=10.0)"]


def test_a_plan_shows_what_is_missing_and_nothing_else() -> None:
    made, other = record("sgdm", 0, 80.0), record("adam", 0, 81.0)
    missing = msgspec.structs.replace(made.spec, seed=1)
    board = planned_leaderboard("s", Scale.LOCAL, [made, other], [made.spec, missing])
    (row,) = board.sections[0].rows
    assert (row.results, row.planned) == (1, 2)
    assert "1 of 2 runs have a result." in leaderboard_text(board)


def _with_losses(made: RunRecord, *losses: float) -> RunRecord:
    points = tuple(
        CurvePoint(
            step=10 * place,
            epoch=place,
            seconds=place,
            train_loss=loss,
            validation_loss=loss,
            validation=80.0,
            learning_rate_factor=1.0,
        )
        for place, loss in enumerate(losses, start=1)
    )
    return msgspec.structs.replace(made, curve=points)


def test_training_loss_is_the_last_of_the_curve_over_seeds() -> None:
    made = [_with_losses(record("sgdm", seed, 80.0), 2.0, loss) for seed, loss in enumerate((0.5, 0.25, 0.75))]
    made.append(_with_losses(record("adam", 0, 81.0), 2.0, 1.23456e-7))
    lost = record("kfac", 0, None, outcome=Diverged(step=12, reason=Reason.TRAINING_LOSS))
    board = leaderboard("s", Scale.LOCAL, [*made, _with_losses(lost, 2.0), record("sgd", 0, 1.0)])
    rows = {row.competitor: row for row in board.sections[0].rows}
    assert rows["sgdm"].train_loss == summary([0.5, 0.25, 0.75], Axis.LOG)
    assert rows["kfac"].train_loss is None
    assert rows["sgd"].train_loss is None
    page = leaderboard_markdown(board)
    cells = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in page.splitlines() if line[:1] == "|"}
    assert cells["optimizer"] == "training loss"
    assert (cells["sgdm"], cells["adam"], cells["kfac"]) == ("0.4543 ×/÷ 3.98", "1.235e-07", "–")
    table = run_table([*made, lost])
    assert list(table["train_loss"].dropna()) == [1.23456e-7, 0.5, 0.25, 0.75]
    assert table["train_loss"].isna().sum() == 1


def test_two_schedules_of_a_kind_are_told_apart_by_what_differs() -> None:
    def scheduled(seed: int, schedule: Schedule) -> RunRecord:
        made = record("sgdm", seed, 80.0)
        optimizer = msgspec.structs.replace(made.spec.optimizer, schedule=schedule)
        return made.under(spec=msgspec.structs.replace(made.spec, optimizer=optimizer))

    schedules: list[Schedule] = [Constant(), Step(decay=0.1), Step(decay=0.2), Cosine(warmup=0.1)]
    board = leaderboard("s", Scale.LOCAL, [scheduled(0, schedule) for schedule in schedules])
    assert sorted(row.competitor for row in board.sections[0].rows) == [
        "sgdm (constant)",
        "sgdm (cosine)",
        "sgdm (step decay=0.1)",
        "sgdm (step decay=0.2)",
    ]


def test_a_competitor_has_one_name_in_all_precisions() -> None:
    """fp16 has another rate by default, and only fp32 has a second schedule."""
    records = [record("adam", 0, 80.0, lr=0.1), record("adam", 0, 79.0, precision=Precision.FP16, lr=0.3)]
    rows = leaderboard("s", Scale.LOCAL, records).sections[0].rows
    assert [row.competitor for row in rows] == ["adam", "adam"]
    rows = leaderboard("s", Scale.LOCAL, [*records, record("adam", 0, 78.0, lr=0.5)]).sections[0].rows
    assert [(row.competitor, row.precision) for row in rows] == [
        ("adam (lr=0.1)", Precision.FP32),
        ("adam (lr=0.5)", Precision.FP32),
        ("adam (lr=0.3)", Precision.FP16),
    ]


def test_a_median_of_steps_to_the_target_survives_one_seed_that_did_not_reach_it() -> None:
    """It is a censored time: leaving the seed out would flatter, and giving no number would hide the others."""
    runs = [record("adam", seed, 80.0, outcome=Reached(step=10 * (seed + 1), target=85.0)) for seed in range(2)]
    missed = record("adam", 2, 70.0)
    (row,) = leaderboard("s", Scale.LOCAL, [*runs, missed]).sections[0].rows
    assert (row.reached, row.results, row.steps_to_target) == (2, 3, 20)
    assert "20 steps, 2 of 3 reached it" in leaderboard_markdown(leaderboard("s", Scale.LOCAL, [*runs, missed]))
    (row,) = leaderboard("s", Scale.LOCAL, [runs[0], missed, record("adam", 3, 70.0)]).sections[0].rows
    assert row.steps_to_target is None
    lost = record("adam", 2, None, outcome=Diverged(step=1, reason=Reason.TEST))
    (row,) = leaderboard("s", Scale.LOCAL, [*runs, lost]).sections[0].rows
    assert row.steps_to_target == 20
