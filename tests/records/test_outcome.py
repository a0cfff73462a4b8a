"""Why a run diverged is a type, in records of all schemas."""

import json

import msgspec
import pytest
from support.records import record

from apo_bench.records.digest import seal
from apo_bench.records.outcome import Diverged, Reason
from apo_bench.records.run import decode_record

RELEASED = {
    "training loss is not finite": Reason.TRAINING_LOSS,
    "validation loss is not finite": Reason.VALIDATION,
    "test metric is not finite": Reason.TEST,
    "a parameter is not finite": Reason.PARAMETER,
    "40 steps in a row overflowed at every loss scale": Reason.LOSS_SCALE,
}
"""All that records on disk may hold."""


def test_every_reason_has_its_released_words() -> None:
    assert set(RELEASED.values()) == set(Reason)


@pytest.mark.parametrize("schema", [1, 2, 3, 4])
@pytest.mark.parametrize("words", RELEASED)
def test_the_words_of_earlier_records_are_read_as_the_type(words: str, schema: int) -> None:
    raw = json.loads(msgspec.json.encode(record("sgd", 0, None, outcome=Diverged(step=7, reason=RELEASED[words]))))
    assert raw["outcome"]["reason"] == words
    if schema < 3:
        intent = raw.pop("intent")
        del intent["role"]
        raw |= intent
    outcome = decode_record(json.dumps(raw | {"schema": schema}).encode()).outcome
    assert isinstance(outcome, Diverged)
    assert outcome.reason is RELEASED[words]
    assert outcome.message == words


def test_other_words_are_refused() -> None:
    """No reader would know where to look."""
    raw = json.loads(msgspec.json.encode(record("sgd", 0, None, outcome=Diverged(step=7, reason=Reason.TEST))))
    raw["outcome"]["reason"] = "it went wrong"
    with pytest.raises(ValueError, match="it went wrong"):
        decode_record(seal(json.dumps(raw).encode()))
