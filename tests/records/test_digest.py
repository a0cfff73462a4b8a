"""Whatever changes a file that was written is noticed when it is read."""

import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records import flat, record
from support.snapshots import held, runs

from apo_bench.errors import UsageError
from apo_bench.records.digest import is_sealed, seal, verified
from apo_bench.records.events import CurvePoint
from apo_bench.records.probe import decode_probe
from apo_bench.records.run import SCHEMA, NewerSchemaError, decode_intent, decode_record, encode
from apo_bench.records.snapshot import decode_snapshot, encode_snapshot

POINT = CurvePoint(
    step=50, epoch=5.0, seconds=1.5, train_loss=0.25, validation_loss=0.5, validation=80.0, learning_rate_factor=1.0
)
MADE = msgspec.structs.replace(record("sgdm", 3, 81.5), curve=(POINT,))
SEALED = {
    "record": (encode(MADE), decode_record),
    "intent": (encode(MADE.intent), decode_intent),
    "probe": (encode(flat()), decode_probe),
}


@pytest.mark.parametrize("kind", SEALED)
def test_a_file_is_read_back_and_says_the_sha256_of_all_that_stands_before_its_digest(kind: str) -> None:
    data, decode = SEALED[kind]
    head, _, tail = data.partition(b',"digest":"')
    assert tail == hashlib.sha256(head).hexdigest().encode() + b'"}'
    assert decode(encode(decode(data))) == decode(data)
    assert json.loads(data)["digest"] == tail[:-2].decode()


@pytest.mark.parametrize("kind", SEALED)
def test_no_flipped_bit_goes_unnoticed(kind: str) -> None:
    data, decode = SEALED[kind]
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            with pytest.raises(ValueError) as raised:  # noqa: PT011 - whatever it says, it is one line
                decode(bytes(flipped))
            assert not isinstance(raised.value, NewerSchemaError)
            assert len(str(raised.value)) < 500


@pytest.mark.parametrize("kind", SEALED)
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255), kept=st.integers(0, 10**6))
def test_no_changed_byte_goes_unnoticed_and_no_lost_one(kind: str, place: int, byte: int, kept: int) -> None:
    data, decode = SEALED[kind]
    place, kept = place % len(data), kept % len(data)
    if data[place] != byte:
        with pytest.raises(ValueError):  # noqa: PT011
            decode(data[:place] + bytes([byte]) + data[place + 1 :])
    with pytest.raises(ValueError):  # noqa: PT011
        decode(data[:kept])
    with pytest.raises(ValueError):  # noqa: PT011
        decode(data[:place] + data[place + 1 :])
    with pytest.raises(ValueError):  # noqa: PT011
        decode(data + bytes([byte]))


def test_what_is_damaged_is_never_taken_for_what_a_later_version_wrote() -> None:
    later = f'"schema":{SCHEMA + 1}'.encode()
    damaged = encode(MADE).replace(f'"schema":{SCHEMA}'.encode(), later)
    assert damaged.startswith(b"{" + later)
    with pytest.raises(ValueError, match="its digest does not match") as raised:
        decode_record(damaged)
    assert not isinstance(raised.value, NewerSchemaError)
    with pytest.raises(NewerSchemaError, match=f"schema {SCHEMA + 1}"):
        decode_record(seal(msgspec.json.encode(msgspec.structs.replace(MADE, schema=SCHEMA + 1))))


@pytest.mark.parametrize("kind", ["record", "probe"])
def test_a_file_that_has_lost_its_digest_is_damaged(kind: str) -> None:
    data, decode = SEALED[kind]
    bare = verified(data)
    assert not is_sealed(bare)
    for lost in (bare, json.dumps(json.loads(data)).encode()):
        with pytest.raises(ValueError, match="its digest is missing"):
            decode(lost)


@pytest.mark.parametrize("schema", [3, 4])
def test_a_record_from_before_there_were_digests_is_read(schema: int) -> None:
    data = msgspec.json.encode(msgspec.structs.replace(MADE, schema=schema)).replace(b',"follows":null', b"")
    assert decode_record(data) == MADE


def test_a_probe_and_a_baseline_from_before_there_were_digests_are_read() -> None:
    probe = flat()
    assert decode_probe(msgspec.json.encode(msgspec.structs.replace(probe, schema=1))) == probe
    made = held(runs())
    former = json.loads(encode_snapshot(made))
    del former["digest"]
    assert decode_snapshot(json.dumps(former | {"schema": 1}).encode(), "f") == made


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"validation": 8', b'"validation": 9'),
        (b'"schema": 2', b'"schema": 1'),
        (b'"name": "kfac"', b'"name": "kfad"'),
    ],
)
def test_a_baseline_that_was_changed_by_hand_is_refused(before: bytes, after: bytes) -> None:
    data = encode_snapshot(held(runs()))
    assert before in data
    with pytest.raises(UsageError, match=r"f is not as it was saved: .*; save it again with --save"):
        decode_snapshot(data.replace(before, after, 1), "f")


def test_a_baseline_without_its_digest_is_refused() -> None:
    bare = json.loads(encode_snapshot(held(runs())))
    del bare["digest"]
    with pytest.raises(UsageError, match=r"f has lost its digest: .*; save it again with --save"):
        decode_snapshot(json.dumps(bare).encode(), "f")


def test_the_layout_of_a_baseline_is_nobodys_business() -> None:
    """Git may change line ends, people sort and indent, and JSON has several words for a number."""
    made = held(runs())
    data = encode_snapshot(made)
    for same in (
        data.replace(b"\n", b"\r\n"),
        json.dumps(json.loads(data), sort_keys=True, indent=4).encode(),
        data.replace(b'"epochs": 1.0', b'"epochs": 1'),
    ):
        assert decode_snapshot(same, "f") == made


def test_no_flipped_bit_of_a_baseline_changes_what_is_read() -> None:
    made = held(runs())
    data = encode_snapshot(made)
    unnoticed = []
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            try:
                unnoticed.append(decode_snapshot(bytes(flipped), "f"))
            except UsageError:
                continue
    assert all(read == made for read in unnoticed)
    assert len(unnoticed) < len(data) / 10
