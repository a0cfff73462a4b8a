"""Leaderboards: what they claim, what they leave empty, and that no name can break a page."""

from typing import Any

import msgspec
import pytest
from scipy import stats

from apo_bench.evidence.intervals import mean_interval
from apo_bench.evidence.leaderboard import leaderboard, planned_leaderboard
from apo_bench.evidence.table import run_table
from apo_bench.records.events import CurvePoint
from apo_bench.records.outcome import Crashed, Diverged, Exhausted, NonFinite, Outcome, Reason
from apo_bench.records.run import (
    SCHEMA,
    Cost,
    Direction,
    Fingerprint,
    Intent,
    PrecisionBackend,
    PrecisionFacts,
    Role,
    RunRecord,
    Scores,
    TaskFacts,
    now,
)
from apo_bench.records.schedules import Constant, Cosine, Schedule, Step
from apo_bench.records.spec import Budget, Device, OptimizerSpec, Precision, RunSpec, Scalar, Scale
from apo_bench.records.suite import TUNING_SEED
from apo_bench.render.leaderboard import leaderboard_markdown, leaderboard_text

FACTS = TaskFacts(
    dataset="d",
    model="m",
    parameters=10,
    train_examples=100,
    validation_examples=10,
    test_examples=10,
    batch_size=10,
    steps_per_epoch=10,
    metric="accuracy (%)",
    direction=Direction.MAXIMIZE,
)


def record(
    optimizer: str,
    seed: int,
    test: float | None,
    *,
    outcome: Outcome | None = None,
    backend: PrecisionBackend = PrecisionBackend.NATIVE,
    precision: Precision = Precision.FP32,
    facts: TaskFacts = FACTS,
    task: str = "t",
    **hyperparameters: Scalar,
) -> RunRecord:
    return RunRecord(
        schema=SCHEMA,
        intent=Intent(
            spec=RunSpec(
                task=task,
                optimizer=OptimizerSpec(name=optimizer, hyperparameters={"lr": 0.1} | hyperparameters),
                precision=precision,
                seed=seed,
                budget=Budget(epochs=5),
                device=Device.CPU,
            ),
            suite="s",
            scale=Scale.LOCAL,
            fingerprint=Fingerprint(harness="h", task="t", optimizer="o", torch="2", data="d"),
            role=Role.TUNING if seed == TUNING_SEED else Role.REPORTED,
        ),
        started_at=now(),
        finished_at=now(),
        outcome=outcome or Exhausted(),
        task=facts,
        precision=PrecisionFacts(backend=backend, kept_fp32=()),
        scores=Scores(test=test, validation=test, best_validation=test),
        cost=Cost(
            steps=50,
            skipped_steps=0,
            train_seconds=2.0 + seed,
            eval_seconds=1.0,
            step_ms=4.0 + seed,
            peak_memory_bytes=2**30,
            state_bytes=2048,
        ),
    )


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


def test_rows_are_best_first_and_differences_are_paired_by_seed() -> None:
    records = [record("sgdm", seed, 80.0 + 3 * seed) for seed in range(3)]
    records += [record("adam", seed, 81.0 + 3 * seed + 0.01 * seed) for seed in range(3)]
    (section,) = leaderboard("s", Scale.LOCAL, records).sections
    assert [row.competitor for row in section.rows] == ["adam", "sgdm"]
    adam, sgdm = section.rows
    assert sgdm.versus_reference is None
    assert adam.versus_reference is not None
    assert adam.versus_reference.mean == pytest.approx(1.01)
    assert adam.versus_reference.excludes_zero  # although the scores' own intervals overlap widely
    assert adam.score is not None
    assert adam.score.half_width is not None
    assert adam.score.half_width > 5.0


def test_less_is_better_where_the_metric_says_so() -> None:
    facts = msgspec.structs.replace(FACTS, direction=Direction.MINIMIZE, metric="loss")
    records = [record("sgdm", 0, 0.5, facts=facts), record("adam", 0, 0.4, facts=facts)]
    (section,) = leaderboard("s", Scale.LOCAL, records).sections
    assert [row.competitor for row in section.rows] == ["adam", "sgdm"]


def test_a_cell_with_a_diverged_run_has_no_mean_and_ranks_last() -> None:
    records = [record("adam", 0, 99.0), record("adam", 1, None, outcome=Diverged(step=3, reason=Reason.TRAINING_LOSS))]
    records += [record("sgdm", 0, 10.0), record("sgdm", 1, 10.0)]
    board = leaderboard("s", Scale.LOCAL, records)
    last = board.sections[0].rows[-1]
    assert (last.competitor, last.score, last.versus_reference) == ("adam", None, None)
    assert "diverged 1 of 2" in leaderboard_markdown(board)


def test_diverged_runs_are_listed_with_where_it_began() -> None:
    first = NonFinite(step=17, tensor="activation conv1", dtype="float16")
    reason = "training loss is not finite"
    records = [
        record("adam", 0, None, outcome=Diverged(step=18, reason=reason, first=first)),
        record("adam", 1, None, outcome=Diverged(step=9, reason=reason)),
        record("sgdm", 0, 80.0),
    ]
    board = leaderboard("s", Scale.LOCAL, records)
    assert board.failures == ()
    page = leaderboard_markdown(board)
    section = page.partition("## Diverged runs\n\n")[2].partition("\n\n")[0]
    assert section.splitlines() == [
        f"- t adam fp32 seed 0: at step 18, {reason}: first \\`activation conv1\\` (float16) at step 17",
        f"- t adam fp32 seed 1: at step 9, {reason}",
    ]
    messages = run_table(records).set_index(["optimizer", "seed"])["message"]
    assert messages["adam", 0] == "training loss is not finite: first `activation conv1` (float16) at step 17"
    assert messages["adam", 1] == reason
    assert messages.isna()["sgdm", 0]
    assert "Diverged runs" not in leaderboard_markdown(leaderboard("s", Scale.LOCAL, records[2:])).split("## How")[0]


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
    assert rows["sgdm"].train_loss == mean_interval([0.5, 0.25, 0.75])
    assert rows["kfac"].train_loss is None
    assert rows["sgd"].train_loss is None
    page = leaderboard_markdown(board)
    cells = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in page.splitlines() if line[:1] == "|"}
    assert cells["optimizer"] == "training loss"
    assert (cells["sgdm"], cells["adam"], cells["kfac"]) == ("0.5000 ± 0.62", "1.235e-07", "–")
    table = run_table([*made, lost])
    assert list(table["train_loss"].dropna()) == [1.23456e-7, 0.5, 0.25, 0.75]
    assert table["train_loss"].isna().sum() == 1


@pytest.mark.parametrize(
    ("metric", "score", "shown"),
    [
        ("accuracy (%)", 81.5, "81.50"),
        ("BLEU", 34.6, "34.60"),
        ("half squared error", 1.23456e-7, "1.235e-07"),
        ("mean squared error", 0.5, "0.5000"),
        ("squared error", 1234.4, "1234"),
    ],
)
def test_scores_are_shown_with_the_digits_of_their_metric(metric: str, score: float, shown: str) -> None:
    facts = msgspec.structs.replace(FACTS, metric=metric)
    board = leaderboard("s", Scale.LOCAL, [record("sgdm", 0, score, facts=facts)])
    (row,) = (line for line in leaderboard_markdown(board).splitlines() if line.startswith("| sgdm"))
    cells = [cell.strip() for cell in row.split("|")]
    assert (cells[3], cells[-3]) == (shown, shown)  # the score and the best validation value
    assert f" {shown} " in leaderboard_text(board)


def test_small_differences_are_not_rounded_away() -> None:
    facts = msgspec.structs.replace(FACTS, direction=Direction.MINIMIZE, metric="half squared error")
    made = [record("sgdm", seed, 3e-7 + seed * 1e-8, facts=facts) for seed in range(3)]
    made += [record("adam", seed, 1e-7 + seed * 1.01e-8, facts=facts) for seed in range(3)]
    page = leaderboard_markdown(leaderboard("s", Scale.LOCAL, made))
    assert "**-1.999e-07 ± 2.5e-10**" in page
    assert "1.101e-07 ± 2.5e-08" in page


HOSTILE = "x|y` <b>*_[z](http://a)\n## pwned"


def test_no_name_in_a_record_can_break_a_page() -> None:
    facts = msgspec.structs.replace(FACTS, model=HOSTILE, dataset=HOSTILE)
    records = [
        record(HOSTILE, 0, 80.0, facts=facts, task=HOSTILE, note=HOSTILE),
        record(HOSTILE, 0, 81.0, facts=facts, task=HOSTILE, note="other"),
        record("sgdm", 0, None, facts=facts, task=HOSTILE, outcome=Crashed(message=HOSTILE)),
        record(
            "adam",
            0,
            None,
            facts=facts,
            task=HOSTILE,
            outcome=Diverged(step=3, reason=HOSTILE, first=NonFinite(step=2, tensor=HOSTILE, dtype=HOSTILE)),
        ),
    ]
    page = leaderboard_markdown(leaderboard("s", Scale.LOCAL, records))
    assert "\n## pwned" not in page
    assert "<b>" not in page
    table = [line for line in page.splitlines() if line.startswith("|")]
    bars = {line.replace("\\|", "").count("|") for line in table}
    assert len(bars) == 1


def test_overhead_and_operations_are_shown_where_they_were_measured() -> None:
    plain, adaptive = record("sgdm", 0, 80.0), record("apo-p", 0, 81.0)
    assert adaptive.cost is not None
    cost = msgspec.structs.replace(
        adaptive.cost, phases={"forward": 1.0, "meta": 0.3, "inverse": 0.1, "curvature": 0.1}, flops_per_step=1.5e9
    )
    board = leaderboard("s", Scale.LOCAL, [plain, msgspec.structs.replace(adaptive, cost=cost)])
    row = next(row for row in board.sections[0].rows if row.competitor == "apo-p")
    assert row.overhead == pytest.approx(0.25)
    page = leaderboard_markdown(board)
    assert "25.0 %" in page
    assert "1.5 G" in page
    assert "| overhead" not in leaderboard_markdown(leaderboard("s", Scale.LOCAL, [plain]))
    (line,) = run_table([msgspec.structs.replace(adaptive, cost=cost)]).to_dict("records")
    assert line["meta_overhead"] == pytest.approx(0.15)
    assert (line["meta_seconds"], line["backward_seconds"]) == (0.3, 0.0)


def test_two_schedules_of_a_kind_are_told_apart_by_what_differs() -> None:
    def scheduled(seed: int, schedule: Schedule) -> RunRecord:
        made = record("sgdm", seed, 80.0)
        optimizer = msgspec.structs.replace(made.spec.optimizer, schedule=schedule)
        return made.under(spec=msgspec.structs.replace(made.spec, optimizer=optimizer))

    schedules = [Constant(), Step(decay=0.1), Step(decay=0.2), Cosine(warmup=0.1)]
    board = leaderboard("s", Scale.LOCAL, [scheduled(0, schedule) for schedule in schedules])
    assert sorted(row.competitor for row in board.sections[0].rows) == [
        "sgdm (constant)",
        "sgdm (cosine)",
        "sgdm (step decay=0.1)",
        "sgdm (step decay=0.2)",
    ]
