"""What is new in a store: each record once, and in the order that every reader has."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from support.records import record

from apo_bench.records.run import RunRecord
from apo_bench.store.increments import Increments
from apo_bench.store.store import Store

NOW = datetime.now(UTC)


def _finished(optimizer: str, ahead: timedelta) -> RunRecord:
    time = (NOW + ahead).isoformat(timespec="microseconds")
    return msgspec.structs.replace(record(optimizer, 0, 80.0), finished_at=time)


def test_each_record_is_told_of_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", create=True)
    increments = Increments(store)
    told = []
    for name in ("sgdm", "adam", "kfac"):
        made = record(name, 0, 80.0)
        store.begin(made.intent).finish(made)
        told.append([one.spec.optimizer.name for one in increments.new().records])
    assert [*told, list(increments.new().records)] == [["sgdm"], ["adam"], ["kfac"], []]


def test_a_time_in_the_future_ranks_lowest_as_in_a_scan(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", create=True)
    increments = Increments(store)
    assert increments.new().records == ()
    for made in (
        _finished("adam", timedelta(hours=-1)),
        _finished("sgdm", timedelta(hours=5)),
        _finished("kfac", timedelta(hours=-2)),
    ):
        store.begin(made.intent).finish(made)
    order = [one.spec.optimizer.name for one in increments.new().records]
    assert order == [one.spec.optimizer.name for one in store.scan().records] == ["sgdm", "kfac", "adam"]
