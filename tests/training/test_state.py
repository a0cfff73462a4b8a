"""The state of a run's training is one value, which a checkpoint holds whole."""

import json

import msgspec
import pytest

from apo_bench.records.events import CurvePoint
from apo_bench.records.outcome import Reason
from apo_bench.training.loop import GIVE_UP
from apo_bench.training.state import TrainingState

POINT = CurvePoint(
    step=140,
    epoch=1.0,
    seconds=0.1 + 0.2,
    train_loss=1 / 3,
    validation_loss=2e-45,
    validation=80.0,
    learning_rate_factor=0.7,
    readings={"learning_rate": 1e-3},
)
STATE = TrainingState(
    taken=147,
    skipped=3,
    skipped_in_a_row=1,
    since_evaluation=[0.1, 1 / 3],
    block_ms=[4.2],
    rate_factor=0.7,
    curve=[POINT],
    continued=2,
    peak_bytes=2**40,
    reserved_bytes=7,
)


def test_it_is_read_back_to_the_bit() -> None:
    assert TrainingState.from_builtins(json.loads(json.dumps(STATE.to_builtins()))) == STATE


def test_every_field_differs_from_its_default_above_so_that_none_is_lost() -> None:
    fresh = TrainingState()
    assert [name for name in STATE.__struct_fields__ if getattr(STATE, name) == getattr(fresh, name)] == []


@pytest.mark.parametrize("change", [{"taken": "many"}, {"surprise": 1}, {"curve": [1]}])
def test_what_is_no_state_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        TrainingState.from_builtins(STATE.to_builtins() | change)


def test_two_states_share_no_list() -> None:
    one, other = TrainingState(), TrainingState()
    one.since_evaluation.append(1.0)
    assert other.since_evaluation == []
    assert (one.train_loss, other.train_loss) == (1.0, None)


def test_the_words_for_failed_loss_scaling_give_its_number() -> None:
    assert Reason.LOSS_SCALE.startswith(f"{GIVE_UP} steps in a row")
