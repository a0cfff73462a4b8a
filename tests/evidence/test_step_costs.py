"""What a probe's times compose to, and what is doubted."""

import math
import random
from statistics import median
from typing import Any

import msgspec
import pytest
from scipy import stats
from support.records import FACTS, MADE_ON, PRINT, Times, costs_of, flat, made_probe, record

from apo_bench.evidence.leaderboard import leaderboard
from apo_bench.evidence.step_costs import Probes, flagged, step_costs
from apo_bench.evidence.table import run_table
from apo_bench.records.events import CurvePoint
from apo_bench.records.outcome import Reached
from apo_bench.records.probe import ProbeRecord, decode_probe
from apo_bench.records.run import RunRecord, encode
from apo_bench.records.schedules import Cosine
from apo_bench.records.spec import OptimizerSpec, Scale
from apo_bench.render.leaderboard import leaderboard_markdown, leaderboard_text


def test_kinds_are_composed_by_their_shares_and_the_interval_is_students_over_processes() -> None:
    reference = [[10.0, 20.0], [10.0, 10.0], [12.0, 12.0]]
    plain = [[11.0, 22.0], [11.5, 11.5], [12.0, 12.0]]
    meta = [[30.0, 60.0], [30.0, 30.0], [40.0, 40.0]]
    found = costs_of(
        made_probe({"sgdm": {"plain": (1.0, reference)}, "x": {"plain": (0.9, plain), "meta": (0.1, meta)}})
    )
    composed = [[0.9 * 11 + 3, 0.9 * 22 + 6], [0.9 * 11.5 + 3] * 2, [0.9 * 12 + 4] * 2]
    logs = [math.log(12.9 / 10), math.log(13.35 / 10), math.log(14.8 / 12)]
    low, high = stats.t.interval(0.95, 2, loc=sum(logs) / 3, scale=stats.sem(logs))
    cost = found["x"]
    assert cost.ratio == pytest.approx(math.exp(sum(logs) / 3))
    assert (cost.low, cost.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert cost.milliseconds == pytest.approx(median(median(times) for times in composed))
    assert cost.periodic_overhead == pytest.approx(cost.milliseconds / 12.0 - 1.0)
    assert found["sgdm"].ratio == 1.0
    assert found["sgdm"].periodic_overhead == 0.0


def test_a_probe_without_its_reference_says_nothing() -> None:
    probe = made_probe({"sgdm": {"plain": (1.0, [[1.0, 1.0]])}, "x": {"plain": (1.0, [[1.0, 1.0]])}})
    headless = msgspec.structs.replace(probe, competitors=probe.competitors[1:])
    assert step_costs(headless) == []
    assert flagged(headless)


def simulated(
    source: random.Random, *, noise: float = 0.03, slower_from: float = math.inf, processes: int = 5, **fields: Any
) -> ProbeRecord:
    """Three optimizers whose times are lognormal around a speed of the machine; one may become slower half-way."""
    rounds = 10

    def times(base: float, name: str) -> Times:
        return [
            [
                base
                * math.exp(source.gauss(0.0, noise))
                * (1.3 if name == "x" and process * rounds + number >= slower_from else 1.0)
                for number in range(rounds)
            ]
            for process in range(processes)
        ]

    kinds = {name: {"plain": (1.0, times(base, name))} for name, base in (("sgdm", 5.0), ("adam", 6.0), ("x", 9.0))}
    return made_probe(kinds, **fields)


def test_a_quiet_machine_is_hardly_ever_doubted() -> None:
    source = random.Random(0)
    assert sum(flagged(simulated(source)) for _ in range(300)) <= 6


@pytest.mark.parametrize("slower_from", [5, 25])
def test_a_slow_down_of_one_competitor_half_way_is_flagged_as_its_own(slower_from: int) -> None:
    found = costs_of(simulated(random.Random(1), slower_from=slower_from))
    assert any("half-way" in flag or "imprecise" in flag for flag in found["x"].flags)
    assert not found["adam"].flags


def test_doubts_about_the_machine_are_everybodys() -> None:
    source = random.Random(2)
    for probe, word in (
        (simulated(source, foreign=0.9), "CPU cores"),
        (simulated(source, noise=0.4), "not steady"),
        (simulated(source, skipped=3), "overflowed"),
    ):
        assert all(any(word in flag for flag in cost.flags) for cost in costs_of(probe).values())
    assert not flagged(simulated(source, foreign=None))


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Processes differ by 3 %, rounds by 5 %; the truth is 1.2."""
    source = random.Random(3)
    hits = 0
    for _ in range(300):
        shifts = [math.log(1.2) + source.gauss(0.0, 0.03) for _ in range(5)]
        reference = [[5.0 * math.exp(source.gauss(0.0, 0.05)) for _ in range(6)] for _ in shifts]
        own = [[5.0 * math.exp(shift + source.gauss(0.0, 0.05)) for _ in range(6)] for shift in shifts]
        cost = costs_of(made_probe({"sgdm": {"plain": (1.0, reference)}, "x": {"plain": (1.0, own)}}))["x"]
        assert cost.low is not None
        assert cost.high is not None
        hits += cost.low <= 1.2 <= cost.high
    assert 0.91 < hits / 300 < 0.99


def made_run(optimizer: str = "x", *, seconds: float = 0.4, threads: int = 1, name: str = "cpu name") -> RunRecord:
    """A run of 50 steps."""
    run = record(optimizer, 0, 90.0)
    assert run.cost is not None
    return msgspec.structs.replace(
        run,
        cost=msgspec.structs.replace(run.cost, train_seconds=seconds),
        environment=msgspec.structs.replace(MADE_ON, threads=threads, device_name=name),
    ).under(fingerprint=PRINT)


def test_a_run_finds_the_probe_of_its_own_code_machine_and_threads_alone() -> None:
    probes = Probes([flat()])
    assert probes.find(made_run()) is not None
    assert probes.find(made_run(threads=2)) is None
    assert probes.find(made_run(name="another")) is None
    assert probes.find(msgspec.structs.replace(made_run(), environment=None)) is None
    other = msgspec.structs.replace(PRINT, optimizer="edited")
    assert Probes([flat(fingerprint=other)]).find(made_run()) is None
    run = made_run()
    faster = OptimizerSpec(name="x", hyperparameters={"lr": 0.2})
    assert probes.find(run.under(spec=msgspec.structs.replace(run.spec, optimizer=faster))) is None
    scheduled = msgspec.structs.replace(run.spec.optimizer, schedule=Cosine())
    assert probes.find(run.under(spec=msgspec.structs.replace(run.spec, optimizer=scheduled)))


def test_the_newest_probe_counts_unless_it_is_doubtful() -> None:
    for records, expected in (([flat(8.0), flat(12.0)], 3.0), ([flat(8.0), flat(12.0, foreign=1.0)], 2.0)):
        cost = Probes(records).find(made_run())
        assert cost is not None
        assert cost.ratio == pytest.approx(expected)


def test_a_run_that_disagrees_with_its_probe_is_left_out_and_counted() -> None:
    """The probe says 8 ms a step, 50 steps: 0.4 s; a second run took five times as long."""
    slow = made_run(seconds=2.0)
    slow = slow.under(spec=msgspec.structs.replace(slow.spec, seed=1))
    board = leaderboard("s", Scale.LOCAL, [made_run(), slow, made_run("sgdm", seconds=0.2)], [flat()])
    row = next(row for row in board.sections[0].rows if row.competitor == "x")
    assert row.disagreeing == 1
    assert row.train_seconds == 0.4
    page = leaderboard_markdown(board)
    assert "(1 of 2 left out)" in page
    assert "2.00" in page
    table = run_table([made_run(), slow], [flat()])
    assert list(table["agrees_with_probe"]) == [True, False]
    assert list(table["step_ratio"]) == pytest.approx([2.0, 2.0])


def test_doubts_are_shown_with_the_number() -> None:
    board = leaderboard("s", Scale.LOCAL, [made_run()], [flat(foreign=1.0)])
    page = leaderboard_markdown(board)
    assert "2.00 ?" in leaderboard_text(board)
    assert "## Doubtful measurements" in page
    assert "1.0 CPU cores" in page
    assert "## Doubtful" not in leaderboard_markdown(leaderboard("s", Scale.LOCAL, [made_run()], [flat()]))
    assert "step / sgdm" not in leaderboard_markdown(leaderboard("s", Scale.LOCAL, [made_run()]))


def reached(step: int, seconds: float) -> RunRecord:
    point = CurvePoint(
        step=step, epoch=1.0, seconds=seconds, train_loss=1.0, validation_loss=1.0, validation=90.0,
        learning_rate_factor=1.0,
    )  # fmt: skip
    return msgspec.structs.replace(made_run(), outcome=Reached(step=step, target=85.0), curve=(point,), task=FACTS)


def test_time_to_target_is_steps_times_the_probed_step_beside_the_runs_own_clock() -> None:
    run = reached(20, 0.3)
    row = leaderboard("s", Scale.LOCAL, [run], [flat()]).sections[0].rows[0]
    assert (row.steps_to_target, row.target_seconds) == (20, 0.3)
    assert row.composed_target_seconds == pytest.approx(20 * 0.008)
    (line,) = run_table([run], [flat()]).to_dict("records")
    assert (line["steps_to_target"], line["seconds_to_target"]) == (20, 0.3)
    assert line["composed_seconds_to_target"] == pytest.approx(0.16)
    missed = made_run().under(spec=msgspec.structs.replace(run.spec, seed=1))
    partly = leaderboard("s", Scale.LOCAL, [run, missed], [flat()])
    assert partly.sections[0].rows[0].steps_to_target == 20  # a median: half of the runs had reached it
    assert partly.sections[0].rows[0].target_seconds is None
    assert "1 of 2 reached it" in leaderboard_markdown(partly)


def test_lowered_clocks_are_a_doubt_and_the_limit_of_a_card_at_work_is_none() -> None:
    probe = msgspec.structs.replace(flat(), throttle_reasons=("hw_thermal_slowdown", "sw_power_cap"))
    flags = {flag for cost in costs_of(probe).values() for flag in cost.flags}
    assert "the card's clocks were lowered (hw_thermal_slowdown)" in flags
    assert decode_probe(encode(probe)) == probe
