"""Pages of leaderboards: digits, doubts, and that no name can break one."""

import re

import msgspec
import pytest
from support.records import FACTS, record

from apo_bench.evidence.leaderboard import leaderboard
from apo_bench.evidence.table import run_table
from apo_bench.records.facts import Direction
from apo_bench.records.outcome import Crashed, Diverged, NonFinite, Reason
from apo_bench.records.spec import Scale
from apo_bench.render.leaderboard import leaderboard_markdown, leaderboard_text


def test_diverged_runs_are_listed_with_where_it_began() -> None:
    first = NonFinite(step=17, tensor="activation conv1", dtype="float16")
    reason = Reason.TRAINING_LOSS
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


def test_steps_that_were_not_counted_are_listed_with_the_reason() -> None:
    counted, other = record("adam", 0, 80.0), record("sgdm", 0, 80.0)
    assert other.cost is not None
    cost = msgspec.structs.replace(other.cost, flops_per_step=None, not_counted="no FLOP formula for aten._fft_r2c")
    records = [counted, msgspec.structs.replace(other, cost=cost)]
    page = leaderboard_markdown(leaderboard("s", Scale.LOCAL, records))
    section = page.partition("## Steps that were not counted\n\n")[2].partition("\n\n")[0]
    assert section == "- t sgdm fp32 seed 0: no FLOP formula for aten.\\_fft\\_r2c"
    assert "Steps that were" not in leaderboard_markdown(leaderboard("s", Scale.LOCAL, [counted]))
    assert run_table(records).set_index("optimizer")["not_counted"]["sgdm"] == "no FLOP formula for aten._fft_r2c"


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
    rows = [line for line in leaderboard_markdown(board).splitlines() if line.startswith("| sgdm")]
    main, details = ([cell.strip() for cell in row.split("|")] for row in rows)
    assert (main[3], details[-3]) == (shown, shown)  # the score and the best validation value
    assert f" {shown} " in leaderboard_text(board)


def test_small_differences_are_not_rounded_away() -> None:
    facts = msgspec.structs.replace(FACTS, direction=Direction.MINIMIZE, metric="mean absolute error")
    made = [record("sgdm", seed, 3e-7 + seed * 1e-8, facts=facts) for seed in range(3)]
    made += [record("adam", seed, 1e-7 + seed * 1.01e-8, facts=facts) for seed in range(3)]
    page = leaderboard_markdown(leaderboard("s", Scale.LOCAL, made))
    assert re.search(r"\*\*-1\.999e-07 ± 2\.\de-08\*\*", page)
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
            outcome=Diverged(step=3, reason=Reason.PARAMETER, first=NonFinite(step=2, tensor=HOSTILE, dtype=HOSTILE)),
        ),
    ]
    page = leaderboard_markdown(leaderboard("s", Scale.LOCAL, records))
    assert "\n## pwned" not in page
    assert "<b>" not in page
    table = [line for line in page.splitlines() if line.startswith("|")]
    bars = [line.replace("\\|", "").count("|") for line in table]
    first, details = bars[: len(bars) // 2], bars[len(bars) // 2 :]
    assert len(set(first)) == len(set(details)) == 1


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
