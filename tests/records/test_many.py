"""Reading many records: what they share is kept once, and what only figures need is dropped."""

import msgspec
import pytest
from support.records import FACTS, MADE_ON, record

from apo_bench.records.events import CurvePoint
from apo_bench.records.outcome import Reached
from apo_bench.records.run import RunRecord, decode_record, encode
from apo_bench.records.spec import RunSpec
from apo_bench.store.scan import thinned


def point(step: int) -> CurvePoint:
    return CurvePoint(
        step=step, epoch=step / 10, seconds=1.0, train_loss=1.0, validation_loss=1.0, validation=50.0,
        learning_rate_factor=1.0,
    )  # fmt: skip


def with_curve(*steps: int, seed: int = 0) -> RunRecord:
    made = msgspec.structs.replace(record("adam", seed, 80.0), environment=MADE_ON)
    return msgspec.structs.replace(made, curve=tuple(map(point, steps)))


def test_what_records_share_is_kept_once() -> None:
    one, other = (decode_record(encode(with_curve(10, 50, seed=seed))) for seed in (0, 1))
    for part in ("environment", "task", "fingerprint"):
        assert getattr(one, part) is getattr(other, part)
    assert one.spec.optimizer is other.spec.optimizer
    assert one.spec != other.spec


def test_a_record_read_quickly_is_the_one_that_was_written() -> None:
    for made in (with_curve(10, 50), record("x", 3, None), msgspec.structs.replace(with_curve(), task=None)):
        read = decode_record(encode(made))
        assert read == made
        assert read.run_id == made.run_id
        assert type(read) is RunRecord
        assert type(read.spec) is RunSpec


@pytest.mark.parametrize("number", [1, 1.0, -0.0, 1e-7, 12345678901234567890.0])
def test_a_run_has_one_identity_however_it_came_to_be(number: float) -> None:
    made = record("adam", 0, 80.0, field=number, text="é\n", nothing=None)
    assert decode_record(encode(made)).run_id == made.run_id


def test_without_curves_a_record_keeps_what_tables_need() -> None:
    """The last point, the one at the target, and the last epoch: facts say 10 steps an epoch, the budget is 5."""
    whole = with_curve(5, 20, 30, 42, 46, 50)
    assert FACTS.steps_per_epoch == 10
    assert [one.step for one in thinned(whole).curve] == [42, 46, 50]
    reached = msgspec.structs.replace(whole, outcome=Reached(step=20, target=50.0))
    assert [one.step for one in thinned(reached).curve] == [20, 42, 46, 50]
    assert [one.step for one in thinned(msgspec.structs.replace(whole, task=None)).curve] == [50]
    empty = with_curve()
    assert thinned(empty) is empty


def test_a_short_run_keeps_its_last_point() -> None:
    diverged_early = with_curve(5, 20)
    assert [one.step for one in thinned(diverged_early).curve] == [20]
