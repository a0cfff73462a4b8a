"""The table of quantities: one definition each, and the axis on which it is compared."""

import math

import msgspec
import pytest
from support.records import FACTS, MADE_ON, flat, record

from apo_bench.evidence.estimates import ValueScale, Verdict
from apo_bench.evidence.leaderboard import leaderboard
from apo_bench.evidence.quantities import QUANTITIES, Pool, axis_of, values_of
from apo_bench.evidence.step_costs import Probes
from apo_bench.evidence.summary import contrast, pooled, summary
from apo_bench.evidence.table import COLUMNS, run_table
from apo_bench.plugins.metrics import Accuracy, BinaryAccuracy, MeanLoss, MeanSquaredError, TokenAccuracy
from apo_bench.problem.objectives import SquaredError
from apo_bench.records.facts import Axis, Direction, TaskFacts
from apo_bench.records.outcome import Diverged, Reached, Reason
from apo_bench.records.run import RunRecord
from apo_bench.records.spec import Scale
from apo_bench.render.leaderboard import leaderboard_markdown, leaderboard_text
from apo_bench.tasks.bleu import Bleu

ERROR = msgspec.structs.replace(FACTS, metric="half squared error", direction=Direction.MINIMIZE)
TINY = [1e-10, 1e-9, 1e-8]


def errors(optimizer: str, values: list[float], facts: TaskFacts = ERROR) -> list[RunRecord]:
    return [record(optimizer, seed, value, facts=facts) for seed, value in enumerate(values)]


def test_every_quantity_is_a_column_and_every_column_of_one_holds_its_value() -> None:
    assert set(QUANTITIES) <= set(COLUMNS)
    made = msgspec.structs.replace(record("x", 0, 80.0), environment=MADE_ON, outcome=Reached(step=20, target=1.0))
    step = Probes([flat()]).find(made)
    assert step is not None
    values = values_of(made, step)
    row = run_table([made], [flat()]).iloc[0]
    assert values["composed_seconds_to_target"] == 20 * 8.0 / 1000
    assert {name: row[name] for name in values} == values
    assert row[list(set(QUANTITIES) - set(values))].isna().all()


def test_a_metric_s_unit_direction_and_axis_are_the_task_s() -> None:
    score = QUANTITIES["value"].on(ERROR)
    assert (score.unit, score.direction, score.axis) == ("half squared error", Direction.MINIMIZE, Axis.LOG)
    assert QUANTITIES["value"].on(FACTS).axis is Axis.LINEAR
    assert QUANTITIES["value"].on(None).axis is Axis.LINEAR
    assert QUANTITIES["step_ms"].on(FACTS) is QUANTITIES["step_ms"]


def test_a_metric_says_how_it_is_compared_and_a_name_says_so_for_records_that_do_not() -> None:
    assert {Accuracy.axis, TokenAccuracy.axis, BinaryAccuracy.axis, Bleu.axis} == {Axis.LINEAR}
    assert {MeanSquaredError.axis, MeanLoss(SquaredError(), "x").axis} == {Axis.LOG}
    assert axis_of(msgspec.structs.replace(FACTS, metric_axis=Axis.LOG)) is Axis.LOG
    assert axis_of(msgspec.structs.replace(ERROR, metric_axis=Axis.LINEAR)) is Axis.LINEAR
    assert axis_of(msgspec.structs.replace(FACTS, metric="cross-entropy (nats)")) is Axis.LOG
    assert axis_of(msgspec.structs.replace(FACTS, metric="error (%)")) is Axis.LINEAR


def test_squared_errors_are_shown_as_geometric_means_with_a_factor() -> None:
    board = leaderboard("s", Scale.LOCAL, errors("sgdm", TINY) + errors("adam", [2 * value for value in TINY]))
    sgdm, adam = board.sections[0].rows
    assert sgdm.score is not None
    assert sgdm.score.mean == pytest.approx(1e-9)
    assert sgdm.score.half_width is None
    assert sgdm.score.factor == pytest.approx(math.exp(4.302652729 * math.log(10) / math.sqrt(3)))
    assert adam.versus_reference is not None
    assert adam.versus_reference.value == pytest.approx(2.0)
    for page in (leaderboard_markdown(board), leaderboard_text(board)):
        assert "1.000e-09" in page
        assert "±" not in page.partition("How to read")[0].partition("± (×/÷")[0]
    assert "1.000e-09 ×/÷ 305" in leaderboard_markdown(board)
    assert "× 2 ×/÷ " in leaderboard_markdown(board)


def test_a_table_with_a_score_that_has_no_logarithm_is_compared_by_differences() -> None:
    rows = leaderboard("s", Scale.LOCAL, errors("sgdm", TINY) + errors("adam", [0.0, 1e-9, 1e-8])).sections[0].rows
    assert all(row.score is not None and row.score.axis is Axis.LINEAR for row in rows)
    assert all(row.versus_reference is None or row.versus_reference.scale is ValueScale.LINEAR for row in rows)


def test_one_seed_has_no_interval_on_either_axis() -> None:
    for facts in (ERROR, FACTS):
        sgdm, adam = (
            leaderboard("s", Scale.LOCAL, errors("sgdm", [1.0], facts) + errors("adam", [2.0], facts)).sections[0].rows
        )
        for row in (sgdm, adam):
            assert row.score is not None
            assert (row.score.n, row.score.half_width, row.score.factor) == (1, None, None)
            assert row.versus_reference is None or row.versus_reference.verdict is Verdict.UNJUDGED


def test_a_cell_in_which_all_diverged_has_nothing_to_show_on_either_axis() -> None:
    lost = [record("adam", seed, None, facts=ERROR, outcome=Diverged(step=1, reason=Reason.TEST)) for seed in range(3)]
    board = leaderboard("s", Scale.LOCAL, [*errors("sgdm", TINY), *lost])
    assert board.sections[0].rows[-1].score is None
    assert "diverged 3 of 3" in leaderboard_markdown(board)


def test_extremes_have_a_factor_or_none_but_no_error() -> None:
    made = summary([5e-324, 1.7e308], Axis.LOG)
    assert made is not None
    assert made.factor == math.inf
    assert contrast([1.7e308], [-1.7e308], Axis.LINEAR) is None
    assert contrast([], [], Axis.LOG) is None
    assert summary([], Axis.LOG) is None


@pytest.mark.parametrize(("pool", "expected"), [(Pool.MEAN, 3.0), (Pool.MEDIAN, 2.0), (Pool.LARGEST, 6.0)])
def test_a_quantity_says_how_runs_become_one_number(pool: Pool, expected: float) -> None:
    quantity = next(one for one in QUANTITIES.values() if one.pool is pool)
    assert pooled(quantity, [1.0, None, 2.0, 6.0]) == expected
    assert pooled(quantity, [None]) is None
