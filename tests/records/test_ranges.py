"""What is out of range in a file is damage, named in a line; whatever stands in a file, readers raise nothing else."""

import copy
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.extremes import MOST_COSTS, costing, point, valued
from support.records import flat
from support.snapshots import held

from apo_bench.errors import UsageError
from apo_bench.records.digest import seal
from apo_bench.records.events import Evaluated, Progress, Remarked, Started, decode_event
from apo_bench.records.facts import Scores
from apo_bench.records.outcome import Crashed, Reached, Reason
from apo_bench.records.probe import decode_probe
from apo_bench.records.run import decode_intent, decode_record, failed, readable
from apo_bench.records.snapshot import decode_snapshot, encode_snapshot

REACHED = valued(1.0, outcome=Reached(step=10, target=1.0))
WHOLE = json.loads(msgspec.json.encode(costing(REACHED, **MOST_COSTS | {"steps": 50, "skipped_steps": 1})))
"""Every part of a record is there."""
HUGE = int("9" * 400)
BEYOND: list[tuple[str, Any]] = [
    ("cost.steps", -1),
    ("cost.steps", 0),
    ("cost.steps", 2**53 + 1),
    ("cost.steps", HUGE),
    ("cost.steps", 1.5),
    ("cost.steps", True),
    ("cost.skipped_steps", 51),
    ("cost.train_seconds", -1.0),
    ("cost.train_seconds", 1e13),
    ("cost.train_seconds", HUGE),
    ("cost.step_ms", -0.5),
    ("cost.peak_memory_bytes", -1),
    ("cost.state_bytes", HUGE),
    ("cost.bytes_by_purpose.optimizer", -1),
    ("cost.phases.meta", -1.0),
    ("cost.flops_per_step", -1.0),
    ("cost.energy_joules", 1e31),
    ("cost.clock_mhz", [1]),
    ("cost.not_counted", "x" * 4001),
    ("task.steps_per_epoch", 0),
    ("task.steps_per_epoch", -1),
    ("task.steps_per_epoch", HUGE),
    ("task.batch_size", 0),
    ("task.parameters", -1),
    ("task.train_examples", HUGE),
    ("task.metric", "m" * 1001),
    ("task.direction", "sideways"),
    ("intent.spec.seed", -1),
    ("intent.spec.seed", 2**63),
    ("intent.spec.seed", HUGE),
    ("intent.spec.budget.epochs", 0),
    ("intent.spec.budget.epochs", -1.0),
    ("intent.spec.budget.epochs", 1e10),
    ("intent.spec.budget.epochs", HUGE),
    ("intent.spec.task", "t" * 1001),
    ("intent.spec.task", 1),
    ("intent.spec.optimizer.hyperparameters.lr", HUGE),
    ("intent.spec.optimizer.hyperparameters.lr", 2**63),
    ("intent.spec.optimizer.hyperparameters.lr", [0.1]),
    ("intent.spec.optimizer.hyperparameters.lr", {"a": 1}),
    ("intent.spec.optimizer.hyperparameters.lr", "x" * 4001),
    ("intent.spec.optimizer.schedule", {"kind": "step", "warmup": 1.0}),
    ("intent.suite", "s" * 1001),
    ("intent.fingerprint.data", "d" * 1001),
    ("started_at", "yesterday"),
    ("finished_at", "9999"),
    ("finished_at", "2026-01-01T00:00:00"),
    ("finished_at", "2026-13-01T00:00:00+00:00"),
    ("finished_at", ""),
    ("finished_at", 1),
    ("follows", "later"),
    ("continued", -1),
    ("continued", HUGE),
    ("outcome", {"type": "reached", "step": 11, "target": 1.0}),
    ("outcome", {"type": "reached", "step": -1, "target": 1.0}),
    ("outcome", {"type": "diverged", "step": 52, "reason": str(Reason.TEST)}),
    ("outcome", {"type": "diverged", "step": HUGE, "reason": str(Reason.TEST)}),
    ("outcome", {"type": "crashed", "message": "x" * 4001}),
    ("outcome", {"type": "failed", "step": -1, "message": "x"}),
    ("curve.0.step", -1),
    ("curve.0.step", 50),
    ("curve.0.step", 60),
    ("curve.1.step", 51),
    ("curve.1.step", HUGE),
    ("curve.1.epoch", -1.0),
    ("curve.1.seconds", -1.0),
    ("curve.1.train_loss", HUGE),
    ("curve.1.train_loss", None),
    ("curve.1.train_loss", "0.5"),
    ("curve.1.readings", {"r" * 1001: 1.0}),
    ("curve.1.readings.x", HUGE),
    ("environment.threads", -1),
    ("environment.cpu_count", HUGE),
    ("environment.device_name", "d" * 1001),
    ("environment.variables", {"A": "x" * 100_001}),
    ("left_alone", {"why": ["w" * 1001]}),
]


def put_in(whole: Any, where: str, value: Any) -> Any:
    """A copy with another value in one place."""
    made = copy.deepcopy(whole)
    *path, last = where.split(".")
    inside = made
    for name in path:
        inside = inside[int(name) if isinstance(inside, list) else name]
    inside[int(last) if isinstance(inside, list) else last] = value
    return made


@pytest.mark.parametrize(("where", "value"), BEYOND, ids=lambda value: str(value)[:30])
def test_what_is_beyond_is_damaged_and_says_so_in_a_line(where: str, value: Any) -> None:
    decode_record(seal(json.dumps(WHOLE).encode()))
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - many words
        decode_record(seal(json.dumps(put_in(WHOLE, where, value)).encode()))
    line = str(raised.value)
    assert 0 < len(line) <= 301
    assert "\n" not in line


def test_numbers_and_depths_that_json_has_and_records_have_not_are_damaged() -> None:
    text = json.dumps(WHOLE)
    for rest in (
        '"x":1e400',
        '"x":' + "[" * 100_000,
        '"x":NaN',
        '"x":"\\ud800"',
        '"schema":1e1',
        '"schema":' + "9" * 400,
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            decode_record(seal(f"{text[:-1]},{rest}}}".encode()))
        with pytest.raises(ValueError):  # noqa: PT011
            decode_record(f"{{{rest},{text[1:]}".encode())
    for data in (b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"schema":' + b"[" * 100_000, seal(b"{}"), b"\xff" * 99):
        for decode in (decode_record, decode_probe, decode_intent):
            with pytest.raises(ValueError):  # noqa: PT011
                decode(data)


PROBED = json.loads(msgspec.json.encode(flat()))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("competitors.1.kinds.0.milliseconds", []),
        ("competitors.1.kinds.0.milliseconds", [[], [], []]),
        ("competitors.1.kinds.0.milliseconds", [[1.0, 1.0]] * 2),
        ("competitors.1.kinds.0.milliseconds", [[1.0]] * 3),
        ("competitors.1.kinds.0.milliseconds.0.0", 0.0),
        ("competitors.1.kinds.0.milliseconds.0.0", -1.0),
        ("competitors.1.kinds.0.milliseconds.0.0", 1e13),
        ("competitors.1.kinds.0.milliseconds.0.0", 5e-324),
        ("competitors.1.kinds.0.milliseconds.0.0", HUGE),
        ("competitors.1.kinds.0.share", 0.0),
        ("competitors.1.kinds.0.share", 1.5),
        ("competitors.1.kinds", []),
        ("competitors.1.skipped", -1),
        ("spec.competitors", []),
        ("spec.rounds", HUGE),
        ("foreign_cores", [-1.0]),
        ("foreign_processes", [-1]),
        ("environment.cpu_count", -1),
        ("finished_at", "9999"),
        ("follows", "x"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_probe_that_no_clock_measured_is_damaged(where: str, value: Any) -> None:
    decode_probe(seal(json.dumps(PROBED).encode()))
    with pytest.raises(ValueError):  # noqa: PT011
        decode_probe(seal(json.dumps(put_in(PROBED, where, value)).encode()))


def test_a_record_that_no_reader_would_take_is_a_crash_that_says_why() -> None:
    """What a plugin brings reaches a record: a name, a reading, a text."""
    good = valued(1.0)
    assert readable(good) == good
    bad = [
        msgspec.structs.replace(good, curve=(point(1, readings={"r" * 1001: 1.0}),)),
        msgspec.structs.replace(good, curve=(point(2), point(1))),
        msgspec.structs.replace(good, scores=Scores(test=float("nan"))),
        costing(good, not_counted="x" * 5000),
    ]
    for record_of_it in bad:
        instead = readable(record_of_it)
        outcome = instead.outcome
        assert isinstance(outcome, Crashed)
        assert outcome.message.startswith("the run cannot be recorded: ")
        assert readable(instead) == instead
    long = failed(good.intent, Crashed(message="x" * 5000), good.started_at)
    assert readable(long) == long


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from([HUGE, "x" * 5000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


def places(whole: Any, path: tuple[str, ...] = ()) -> list[str]:
    """Every place in nested values."""
    pairs = whole.items() if isinstance(whole, dict) else enumerate(whole) if isinstance(whole, list) else ()
    return [
        place for name, inner in pairs for place in (".".join((*path, str(name))), *places(inner, (*path, str(name))))
    ]


def _events() -> list[Any]:
    seen = (
        Started(steps=5, left_alone={"r": ("w",)}),
        Progress(step=1, train_loss=0.5),
        Evaluated(point=point(readings={"x": 1.0})),
        Remarked(message="m"),
    )
    return [msgspec.to_builtins(event) for event in seen]


BASELINE = json.loads(encode_snapshot(held([valued(1.0, 0).under(suite="s")], flat())))
BEFORE_3 = WHOLE["intent"] | {name: value for name, value in WHOLE.items() if name != "intent"} | {"schema": 2}
BEFORE_5 = {name: value for name, value in WHOLE.items() if name != "follows"} | {"schema": 4}
READERS: dict[str, tuple[list[Any], Callable[[bytes], Any]]] = {
    "record": ([WHOLE], lambda data: decode_record(seal(data))),
    "record of schema 4": ([BEFORE_5], decode_record),
    "record of schema 2": (
        [WHOLE["intent"] | {n: v for n, v in WHOLE.items() if n != "intent"} | {"schema": 2}],
        decode_record,
    ),
    "intent": ([WHOLE["intent"]], lambda data: decode_intent(seal(data))),
    "probe": ([PROBED], lambda data: decode_probe(seal(data))),
    "event": (_events(), decode_event),
    "baseline": ([BASELINE], lambda data: decode_snapshot(data, "f")),
}


def refused(decode: Callable[[bytes], Any], data: bytes) -> str:
    """Why a reader refuses a file; empty where it does not."""
    try:
        decode(data)
    except (ValueError, UsageError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=100)
@given(data=st.data())
def test_whatever_stands_in_a_file_is_read_or_refused_in_a_line(reader: str, data: st.DataObject) -> None:
    wholes, decode = READERS[reader]
    whole = data.draw(st.sampled_from(wholes))
    made = put_in(whole, data.draw(st.sampled_from(places(whole))), data.draw(ANYTHING))
    assert len(refused(decode, json.dumps(made).encode())) < 500


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=100)
@given(data=st.binary(max_size=60) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_whatever_bytes_are_in_a_file_they_are_read_or_refused_in_a_line(reader: str, data: bytes) -> None:
    with pytest.raises((ValueError, UsageError)) as raised:
        READERS[reader][1](data or b"{}")
    assert len(str(raised.value)) < 500
