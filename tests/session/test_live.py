"""The leaderboard of a plan while its runs finish: it reads what has finished, and takes little of the time."""

import dataclasses
import time
from pathlib import Path
from unittest import mock

import msgspec
import pytest
from support.hostile_records import write
from support.opened import opened
from support.records import PRINT, record

from apo_bench.evidence.leaderboard import leaderboard
from apo_bench.files import is_temporary
from apo_bench.planning.plan import Plan, PlannedRun
from apo_bench.records.run import Role, RunRecord
from apo_bench.records.spec import Precision, Scale
from apo_bench.records.suite import Suite
from apo_bench.session import live as module
from apo_bench.session.live import LiveLeaderboard
from apo_bench.store.store import Store
from apo_bench.suites import suite

SUITE = Suite(name="s", scale=Scale.LOCAL, title="S", tasks=(), optimizers=(), precisions=())


def _planned(made: list[RunRecord]) -> Plan:
    runs = tuple(
        PlannedRun(one.spec, one.fingerprint, reused=None, changed=(), expected_seconds=None, role=Role.REPORTED)
        for one in made
    )
    return Plan(suite=SUITE, runs=runs, unavailable=(), by_entry=(), asked=SUITE, tasks={})


@pytest.fixture
def live(tmp_path: Path) -> tuple[LiveLeaderboard, list[RunRecord], Store]:
    """A board of 300 runs, half of them made for another suite, which are all in the store."""
    store = Store(tmp_path / "store", create=True)
    made = [record("sgdm", 200 + seed, 80.0).under(suite="s" if seed % 2 else "other") for seed in range(300)]
    with mock.patch("os.fsync"):
        assert all(write(store, one) for one in made)
    return LiveLeaderboard(store, _planned(made)), made, store


def test_a_finished_run_s_own_record_and_marker_are_all_that_is_read(
    live: tuple[LiveLeaderboard, list[RunRecord], Store],
) -> None:
    board, made, store = live
    board._next = float("inf")
    for place in (0, 1, 298, 299):
        with opened() as names:
            board.finished(made[place].spec, made[place].outcome)
            files = [Path(name) for name in names() if str(store.path) in name]
        records = [path for path in files if path.name == "record.json"]
        assert [path.parent.name.partition("-")[0] for path in records] == [made[place].run_id]
        seen = {path.name for path in files if "suites" in path.parts and not is_temporary(path)}
        assert seen <= {made[place].run_id, "s-local"}
        assert not any("probes" in path.parts for path in files)
    assert set(board._records) == {made[place].run_id for place in (0, 1, 298, 299)}
    assert {path.name for path in (store.path / "suites" / "s-local").iterdir()} == {made[0].run_id, made[298].run_id}


def test_a_page_that_takes_long_is_written_less_often(
    live: tuple[LiveLeaderboard, list[RunRecord], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    board, made, _ = live
    now = 1000.0
    written: list[float] = []
    monkeypatch.setattr(module.time, "monotonic", lambda: now)  # type: ignore[attr-defined] # the module imports it

    def publish() -> None:
        nonlocal now
        written.append(now)
        now += 1.0

    monkeypatch.setattr(board, "publish", publish)
    for place in range(100):
        board.finished(made[place].spec, made[place].outcome)
        now += 1.0
    assert written == [1000.0, 1021.0, 1042.0, 1063.0, 1084.0]


@pytest.mark.soak
@pytest.mark.timing
def test_the_last_of_two_thousand_runs_is_read_as_fast_as_the_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", create=True)
    made = [record("sgdm", 200 + seed, 80.0) for seed in range(2000)]
    board = LiveLeaderboard(store, _planned(made))
    board._next = float("inf")
    taken = []
    for one in made:
        with mock.patch("os.fsync"):
            assert write(store, one)
        begin = time.perf_counter()
        board.finished(one.spec, one.outcome)
        taken.append(time.perf_counter() - begin)
    assert sorted(taken[-100:])[50] < 0.01


def test_a_run_of_a_part_of_a_suite_leaves_the_rest_on_its_page(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", create=True)
    there = [record("sgdm", 0, 70.0, task="other"), record("adam", 0, 75.0)]
    assert all(write(store, one) for one in there)
    new = record("sgdm", 0, 80.0)
    board = LiveLeaderboard(store, _planned([new]), store.scan())
    shown = board.publish()
    assert [section.task for section in shown.sections] == ["t"]  # the plan's own
    page = board.path.read_text(encoding="utf-8")
    assert all(name in page for name in ("## t on cpu", "## other on cpu", "70.00", "75.00"))
    assert "2 of 3 runs have a result" in page
    assert write(store, new)
    board.finished(new.spec, new.outcome)
    page = board.path.read_text(encoding="utf-8")
    assert all(name in page for name in ("70.00", "75.00", "80.00", "3 of 3 runs have a result"))


def test_a_stale_result_does_not_stand_for_a_planned_run(tmp_path: Path) -> None:
    """Nor does it leave the page while another seed of its cell has no result of the new code."""
    store = Store(tmp_path / "store", create=True)
    stale = msgspec.structs.replace(PRINT, harness="old")
    old = [record("adam", seed, 10.0).under(fingerprint=stale) for seed in (0, 1)]
    assert all(write(store, one) for one in old)
    new = record("adam", 0, 80.0)
    board = LiveLeaderboard(store, _planned([new]), store.scan())
    assert board.publish().sections[0].rows[0].results == 0
    assert "adam †" in board.path.read_text(encoding="utf-8")  # the other seed's
    assert write(store, new)
    board.finished(new.spec, new.outcome)
    page = board.path.read_text(encoding="utf-8")
    assert "10.00" not in page
    assert "1 run left out" in page


def test_a_part_of_a_suite_is_judged_as_the_report_judges_it(tmp_path: Path) -> None:
    """The family is the declared one: a run of one precision must not claim what the page does not."""
    store = Store(tmp_path / "store", create=True)
    whole = suite("classification", Scale.LOCAL)
    task = whole.tasks[0]
    part = msgspec.structs.replace(whole, tasks=(msgspec.structs.replace(task, precisions=(Precision.FP32,)),))
    made = [
        record(name, seed, mean + seed, task=task.task).under(suite="classification")
        for name, mean in (("sgdm", 70.0), ("kfac", 80.0))
        for seed in range(3)
    ]
    with mock.patch("os.fsync"):
        assert all(write(store, one) for one in made)
    board = LiveLeaderboard(store, dataclasses.replace(_planned(made), suite=part))
    board._next = float("inf")
    for one in made:
        board.finished(one.spec, one.outcome)
    live = board.publish()
    found = leaderboard("classification", Scale.LOCAL, made, declared=whole)
    assert [one.estimate for one in live.answer.judgements if one.estimate.value is not None] == [
        one.estimate for one in found.answer.judgements if one.estimate.value is not None
    ]
    assert live.sections[0].rows[0].versus_reference == found.sections[0].rows[0].versus_reference
    assert live.sections[0].rows[0].versus_reference is not None
