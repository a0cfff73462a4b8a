"""A small store with something of each kind."""

from pathlib import Path

from support.records import record

from apo_bench.files import CHECKPOINT
from apo_bench.records.run import Role
from apo_bench.records.spec import Scale
from apo_bench.store.scan import EVENTS, RECORD
from apo_bench.store.store import Store

PLACES = (
    *("record", "events", "run", "probe", "intent", "waiting events", "checkpoint"),
    *("owner", "deaths", "marker", "suite", "lock", "probe lock", "page"),
)


def small_store(folder: Path, suite: str = "s") -> Store:
    """Two finished runs of a suite, one of which is shared with another, and a run that waits."""
    store = Store(folder / "one" / "store", create=True)
    for name in ("sgdm", "adam"):
        made = record(name, 0, 80.0).under(suite=suite)
        store.begin(made.intent).finish(made)
    store.begin(record("kfac", 0, 82.0).intent).leave()
    store.share("regression", Scale.LOCAL, {record("sgdm", 0, 80.0).run_id: Role.REPORTED})
    return store


TEXT = ("empty", "a terabyte of zeros", "not UTF-8", "nested too deep", "nested and closed")
"""Pieces that are regular files."""


def place_in(store: Store, name: str) -> Path:
    """Where something of a kind lies, or may."""
    finished = next(iter(store.scan().by_folder))
    (waiting,) = (store.path / "active").iterdir()
    (marker,) = (store.path / "suites" / "regression-local").iterdir()
    return {
        "record": finished / RECORD,
        "events": finished / EVENTS,
        "run": store.path / "runs" / "0123456789abcdef-00000000",
        "probe": store.path / "probes" / "0123456789abcdef-00000000.json",
        "intent": waiting / "intent.json",
        "waiting events": waiting / EVENTS,
        "checkpoint": waiting / CHECKPOINT,
        "owner": waiting / "owner.lock",
        "deaths": waiting / "deaths.json",
        "marker": marker,
        "suite": store.path / "suites" / "all-local",
        "lock": store.path / "locks" / f"{waiting.name.partition('-')[0]}.lock",
        "probe lock": store.path / "locks" / "probe-cpu.lock",
        "page": store.leaderboards / "classification-local.md",
    }[name]
