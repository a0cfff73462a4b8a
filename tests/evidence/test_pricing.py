"""Runs at another machine's prices."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from support.records import MADE_ON, PRINT, flat, made_probe
from support.snapshots import run

from apo_bench.evidence.cells import Machine, cells
from apo_bench.evidence.leaderboard import leaderboard_of
from apo_bench.evidence.pricing import Pricing, priced
from apo_bench.evidence.rows import Row
from apo_bench.records.events import CurvePoint
from apo_bench.records.facts import PrecisionBackend
from apo_bench.records.outcome import Reached
from apo_bench.records.probe import ProbeRecord
from apo_bench.records.run import RunRecord
from apo_bench.records.spec import Device, Scale

HERE, THERE = Machine("cpu name", 1), Machine("card", 7)


def on_there(probe: ProbeRecord, **fingerprint: str) -> ProbeRecord:
    """A probe as another machine's, of another kind of device."""
    print_ = msgspec.structs.replace(PRINT, **fingerprint)
    return msgspec.structs.replace(
        probe,
        spec=msgspec.structs.replace(probe.spec, device=Device.CUDA, threads=THERE.threads),
        environment=msgspec.structs.replace(MADE_ON, device_name=THERE.device_name, threads=3),
        competitors=tuple(msgspec.structs.replace(one, fingerprint=print_) for one in probe.competitors),
    )


def finished(optimizer: str, seed: int, **changed: Any) -> RunRecord:
    point = CurvePoint(
        step=20, epoch=2.0, seconds=0.7, train_loss=1.0, validation_loss=1.0, validation=70.0, learning_rate_factor=1.0
    )
    made = run(optimizer, seed, 80.0, outcome=Reached(step=20, target=70.0), **changed)
    return msgspec.structs.replace(made, curve=(point,))


def rows(pricing: Pricing, records: Sequence[RunRecord] = ()) -> dict[str, Row]:
    held = cells(records or pricing.records, "s", Scale.LOCAL, machine=pricing.machine)
    (section,) = leaderboard_of(held, pricing.probes).sections
    return {row.competitor: row for row in section.rows}


def test_every_time_is_steps_times_the_other_machines_milliseconds() -> None:
    records = [finished(name, seed) for name in ("sgdm", "x", "y") for seed in range(3)]
    pricing = priced(records, [on_there(flat(8.0))])
    assert pricing.machine == THERE
    assert pricing.missing == ("t y fp32",)
    assert pricing.other_code == ()
    table = rows(pricing)
    own = table["x"]
    assert own.step_ms == 8.0
    assert own.train_seconds == pytest.approx(0.4)
    assert own.target_seconds == pytest.approx(0.16)
    assert own.composed_target_seconds == pytest.approx(0.16)
    assert own.step is not None
    assert own.step.ratio == pytest.approx(2.0)
    assert (table["sgdm"].step_ms, own.steps_to_target, own.state_bytes) == (4.0, 20, 2048)
    assert own.peak_memory_bytes is None
    without = table["y"]
    assert (without.step_ms, without.train_seconds, without.target_seconds, without.step) == (None, None, None, None)
    assert without.score is not None
    assert "card, 7 threads" in pricing.lines[0]
    assert "t y fp32" in pricing.lines[1]


def test_scores_do_not_change() -> None:
    records = [finished("x", seed) for seed in range(3)]
    before = cells(records, "s", Scale.LOCAL).cells[0].tests
    assert cells(priced(records, [on_there(flat())]).records, "s", Scale.LOCAL).cells[0].tests == before


def test_another_optimizer_is_no_price_and_another_harness_is_said() -> None:
    records = [finished("x", 0)]
    changed = priced(records, [on_there(flat(), optimizer="other")])
    assert changed.missing == ("t x fp32",)
    said = priced(records, [on_there(flat(), harness="other", torch="3")])
    assert said.missing == ()
    assert said.other_code == (("harness", 1), ("torch", 1))
    assert rows(said)["x"].step_ms == 8.0
    assert "another version of torch than the runs in 1 cell" in said.lines[-1]


def test_a_probe_that_fits_exactly_comes_first_and_a_doubtful_one_last() -> None:
    exact, other = on_there(flat(8.0)), on_there(flat(9.0), harness="other")
    assert rows(priced([finished("x", 0)], [exact, other]))["x"].step_ms == 8.0
    doubtful = on_there(flat(7.0, foreign=2.0))
    assert rows(priced([finished("x", 0)], [exact, doubtful]))["x"].step_ms == 8.0
    assert rows(priced([finished("x", 0)], [doubtful]))["x"].step_ms == 7.0


def test_emulated_runs_have_neither_times_nor_a_missing_price() -> None:
    pricing = priced([finished("x", 0, backend=PrecisionBackend.EMULATED)], [on_there(flat())])
    assert pricing.missing == ()
    assert rows(pricing)["x"].step_ms is None


def test_prices_are_of_one_machine() -> None:
    with pytest.raises(ValueError, match="one machine"):
        priced([], [flat(), on_there(flat())])
    with pytest.raises(ValueError, match="one machine"):
        priced([], [])
    assert priced([], [made_probe({"sgdm": {"plain": (1.0, [[1.0]])}})]).machine == HERE
