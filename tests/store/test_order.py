"""Which record of a run is the newest, whatever clocks said."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from support.records import flat, record

from apo_bench.cli.main import main
from apo_bench.evidence.cells import cells
from apo_bench.records.order import following
from apo_bench.records.outcome import Crashed
from apo_bench.records.ranges import moment
from apo_bench.records.run import RunRecord
from apo_bench.records.spec import Scale
from apo_bench.store.store import Store


def at(hours: float) -> str:
    """A time by the present clock."""
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="microseconds")


def made(test: float, hours: float, code: str = "now", **fields: object) -> RunRecord:
    """A record that says it was finished some hours from now."""
    fields = {"finished_at": at(hours)} | fields
    one = msgspec.structs.replace(record("sgdm", 0, test), **fields)
    return one.under(fingerprint=msgspec.structs.replace(one.fingerprint, harness=code))


def put(store: Store, one: RunRecord) -> None:
    store.begin(one.intent).finish(one)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", create=True)


def newest(store: Store) -> float | None:
    (one,) = store.scan().newest().values()
    return one.scores.test


@pytest.mark.parametrize("ahead", [0.5, 1000.0, 24 * 365 * 100])
def test_a_record_made_by_a_clock_that_was_ahead_does_not_stay_on_top(
    store: Store, ahead: float, capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, made(11.0, ahead, code="old").under(suite="regression"))
    put(store, made(22.0, 0.0).under(suite="regression"))
    assert newest(store) == 22.0
    held = cells(store.scan().of("regression", Scale.LOCAL), "regression", Scale.LOCAL)
    assert [one.scores.test for one in held.reported] == [22.0]
    for command in (["status"], ["export"], ["report", "--suite", "regression"]):
        assert main([*command, "--store", str(store.path)]) == 0
        printed = capsys.readouterr()
        assert "11.0" not in printed.out
        assert ("22.0" in printed.out) == (command != ["status"])
        (line,) = printed.err.splitlines()
        assert line.startswith("apo-bench: a record bears a time in the future (")


def test_nor_does_it_once_its_time_has_come(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock was an hour ahead; an hour later nothing tells the two apart but what the second one knew."""
    put(store, made(1.0, 1.0, code="old"))
    put(store, made(2.0, 0.1))
    put(store, made(3.0, 0.2))

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override] # noqa: ARG003
            return datetime.now(UTC) + timedelta(hours=2)

    monkeypatch.setattr("apo_bench.store.scan.datetime", Later)
    scan = store.scan()
    assert scan.ahead == {}
    assert [one.scores.test for one in scan.records] == [1.0, 2.0, 3.0]


def test_what_was_made_with_the_code_that_is_asked_for_comes_before_any_time(store: Store) -> None:
    mine = made(2.0, -5.0)
    for one in (mine, made(1.0, -1.0, code="old"), made(3.0, 1000.0, code="old")):
        put(store, one)
    scan = store.scan()
    assert scan.find_result(mine.run_id, mine.fingerprint) == mine
    assert scan.attempt(mine.run_id, mine.fingerprint) == mine
    assert scan.newest(mine.fingerprint) == {mine.run_id: mine}
    assert newest(store) == 1.0


def test_a_result_is_preferred_to_a_later_failure_of_the_same_code(store: Store) -> None:
    result = made(1.0, -2.0)
    put(store, result)
    put(store, made(2.0, -1.0, outcome=Crashed(message="m")))
    put(store, made(3.0, 0.0, code="other", outcome=Crashed(message="m")))
    scan = store.scan()
    assert scan.attempt(result.run_id, result.fingerprint) == result
    other = msgspec.structs.replace(result.fingerprint, harness="other")
    found = scan.attempt(result.run_id, other)
    assert found is not None
    assert found.outcome == Crashed(message="m")
    assert scan.attempt("unknown", other) is None


def test_times_in_other_zones_are_compared_as_times(store: Store) -> None:
    put(store, made(1.0, 0.0, finished_at="2026-01-01T12:00:00+02:00"))
    put(store, made(2.0, 0.0, finished_at="2026-01-01T11:00:00+00:00"))
    put(store, made(3.0, 0.0, finished_at="2026-01-01T11:30:00Z"))
    assert [one.scores.test for one in store.scan().records] == [1.0, 2.0, 3.0]
    assert all(one.follows is None for one in store.scan().records)


def test_a_few_minutes_are_no_matter(store: Store) -> None:
    put(store, made(1.0, 0.05))
    assert store.scan().ahead == {}


def test_a_record_says_that_it_follows_only_where_its_time_does_not() -> None:
    first, second = made(1.0, 1.0), made(2.0, 0.0)
    assert following(first, [second]) == first
    assert following(second, []) == second
    third = following(second, [first])
    fourth = following(made(3.0, -0.5), [third])
    times = [moment(time) for time in (first.finished_at, third.follows or "", fourth.follows or "")]
    assert times == sorted(set(times))
    last = msgspec.structs.replace(first, finished_at="9999-12-31T23:59:59.999999+00:00")
    assert following(second, [last]).follows == last.finished_at


def test_a_probe_made_by_a_clock_that_was_ahead_does_not_stay_on_top(store: Store) -> None:
    for milliseconds, hours in ((8.0, 1000.0), (9.0, 0.0), (10.0, -1.0)):
        store.keep_probe(msgspec.structs.replace(flat(milliseconds), finished_at=at(hours)))
    scan = store.scan()
    assert [probe.competitors[1].kinds[0].milliseconds[0][0] for probe in scan.probes] == [8.0, 9.0, 10.0]
    assert len(scan.ahead) == 1
