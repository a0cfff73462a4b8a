"""Snapshots: what they hold, and that they are read back as they were written."""

import random

import pytest
from support.snapshots import held, ratios, run, runs

from apo_bench.errors import UsageError
from apo_bench.records.outcome import Crashed, Diverged, Reason
from apo_bench.records.snapshot import decode_snapshot, encode_snapshot
from apo_bench.records.suite import TUNING_SEED


def test_runs_without_a_result_and_tuning_runs_are_no_baseline() -> None:
    crashed = run("adam", outcome=Crashed(message="m"))
    other = run("sgdm").under(suite="another")
    made = held([*runs(), crashed, other, run("apo-p", TUNING_SEED)])
    assert [(one.cell.title, list(one.seeds)) for one in made.cells] == [("t kfac fp32", [0, 1, 2])]


def test_a_baseline_is_read_back_as_it_was_written() -> None:
    made = held(
        [*runs(interval=10), run("adam", score=None, outcome=Diverged(step=3, reason=Reason.TRAINING_LOSS))],
        ratios(random.Random(0), 1.4),
    )
    data = encode_snapshot(made)
    assert decode_snapshot(data, "f") == made
    assert encode_snapshot(decode_snapshot(data, "f")) == data
    assert max(map(len, data.decode().splitlines())) < 100  # a diff is readable


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "f is no baseline"),
        (b'{"schema": 1}', "f is no baseline"),
        (b"\xff\xfe", "f is no baseline"),
        (b'{"schema": 99}', "f has schema 99, this version reads 1"),
        (b'{"schema": 1, "x": ' + b"[" * 100_000, "f is no baseline"),
        (encode_snapshot(held([])), "f holds no cell, and anything would pass"),
        (
            encode_snapshot(held(runs())).replace(
                b'"step": null', b'"step": {"logarithms": [1000, 1001], "device_name": "c", "threads": 1}'
            ),
            "f is no baseline",
        ),
    ],
)
def test_a_damaged_baseline_is_one_line(data: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        decode_snapshot(data, "f")
