"""A push: what W&B refuses costs that run only, is named and tried again; a follower reads what is new, once."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import msgspec
import pytest
from support.commands import store_of
from support.fake_wandb import CommError, Wandb, pretend
from support.hostile_records import TEXTS, hostile_store, write
from support.opened import opened
from support.records import record
from support.shell import Shell

from apo_bench.cli.main import main
from apo_bench.errors import StoreError
from apo_bench.records.events import CurvePoint
from apo_bench.records.run import RunRecord
from apo_bench.session.wandb import Destination, Pusher, RefusedError
from apo_bench.store.increments import Increments
from apo_bench.store.store import Store


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    return pretend(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", create=True)


def _fill(store: Store, count: int, start: int = 0) -> list[RunRecord]:
    point = CurvePoint(1, 0.1, 1.0, 1.0, 1.0, 50.0, 1.0)
    made = [
        msgspec.structs.replace(record("sgdm", 200 + start + place, 80.0), curve=(point,)) for place in range(count)
    ]
    with mock.patch("os.fsync"):
        assert all(write(store, one) for one in made)
    return made


def _folders(store: Store) -> list[str]:
    return sorted(path.name for path in (store.path / "runs").iterdir())


def _push(store: Store, *options: str) -> int:
    return main(["wandb", "push", "--mode", "offline", "--store", str(store.path), *options])


@pytest.mark.parametrize("call", ["init", "log", "config", "summary", "finish"])
def test_a_run_that_is_refused_costs_that_run_only_and_is_tried_again(
    call: str, wandb: Wandb, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    _fill(store, 6)
    hostile = _folders(store)[2]

    def refuse(at: str, name: str) -> None:
        if (at, name) == (call, hostile):
            raise ValueError("not this\x1b[2J\none")

    wandb.refuse = refuse
    assert _push(store) == 1
    out, err = capsys.readouterr()
    assert out == "5 runs pushed to apo-bench (offline); 1 refused, see above\n"
    assert len(err.splitlines()) == 1
    assert "W&B did not take t sgdm fp32 seed 20" in err
    assert "(ValueError: not this\\x1b[2J one); the others are pushed, and the next push tries this one again" in err

    assert _push(store) == 1  # still refused, still said
    assert "0 runs pushed to apo-bench (offline); 1 refused" in capsys.readouterr().out

    wandb.refuse = lambda at, name: None
    assert _push(store) == 0
    assert capsys.readouterr().out == "1 runs pushed to apo-bench (offline)\n"
    assert wandb.finished[hostile][-1] == 0
    assert _push(store) == 0
    assert capsys.readouterr() == ("0 runs pushed to apo-bench (offline)\n", "")
    assert all(len(codes) == 1 for name, codes in wandb.finished.items() if name != hostile)


def test_a_leaderboard_that_is_refused_is_tried_again_and_only_what_changed_is_pushed(
    wandb: Wandb, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    (made,) = _fill(store, 1)
    other = made.under(suite="a/b\x07;'", spec=msgspec.structs.replace(made.spec, seed=9))
    store.begin(other.intent).finish(other)

    def boards() -> list[str]:
        return [name for name in wandb.finished if name.startswith("leaderboard-")]

    def refuse(at: str, name: str) -> None:
        if at == "log" and name.startswith("leaderboard-") and name.endswith("-s-local"):
            raise RuntimeError("no table")

    wandb.refuse = refuse
    assert _push(store) == 1
    assert "W&B did not take leaderboard s local (RuntimeError: no table)" in capsys.readouterr().err
    wandb.finished.clear()
    wandb.refuse = lambda at, name: None
    assert _push(store) == 0
    assert [name.rpartition("leaderboard-")[2].partition("-")[2] for name in boards()] == ["s-local"]
    wandb.finished.clear()
    assert _push(store) == 0
    assert boards() == []
    _fill(store, 1, start=5)
    assert _push(store) == 0
    assert len(boards()) == 1
    assert _push(store, "--again") == 0
    assert len(boards()) == 3


def test_many_refused_runs_in_a_row_keep_no_other_from_being_pushed(wandb: Wandb, store: Store) -> None:
    _fill(store, 30)
    last = list(store.scan().by_folder)[-1].name

    def refuse(at: str, name: str) -> None:
        if name != last:
            raise ValueError("bad id")

    wandb.refuse = refuse
    pusher = Pusher(store, Destination("p", "offline"), warn=lambda line: None)
    assert (pusher.push(), pusher.refused) == (1, 29)


def test_what_keeps_all_runs_from_being_pushed_ends_the_push_soon(
    wandb: Wandb, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    _fill(store, 30)
    tried: list[str] = []

    def refuse(at: str, name: str) -> None:
        tried.append(name)
        raise CommError("no route")

    wandb.refuse = refuse
    assert _push(store) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(tried) == 3
    assert err.splitlines()[-1].startswith(
        "apo-bench: W&B failed (CommError: no route); the store is whole, push again"
    )


@pytest.mark.parametrize("damage", ["folder", "link", "dangling", "fifo", "contents"])
def test_a_damaged_memory_is_no_memory(damage: str, wandb: Wandb, store: Store, tmp_path: Path) -> None:
    _fill(store, 2)
    first, second = _folders(store)
    marker = store.path / "wandb" / f"{first}.offline"
    marker.parent.mkdir()
    outside = tmp_path / "outside"
    if damage == "folder":
        (marker / "x").mkdir(parents=True)
    elif damage == "link":
        outside.write_text("mine", encoding="utf-8")
        marker.symlink_to(outside)
    elif damage == "dangling":
        marker.symlink_to(outside)
    elif damage == "fifo":
        os.mkfifo(marker)
    else:
        marker.write_bytes(b"\xff\x00" * 1000)  # that it is there is what it says
    assert _push(store) == (1 if damage == "folder" else 0)
    assert set(wandb.finished) >= ({second} if damage == "contents" else {first, second})
    assert not outside.exists() or outside.read_text(encoding="utf-8") == "mine"
    wandb.finished.clear()
    assert _push(store) == (1 if damage == "folder" else 0)
    assert set(wandb.finished) == ({first} if damage == "folder" else set())


@pytest.mark.parametrize("place", ["wandb", "wandb/wandb"])
def test_nothing_is_pushed_through_a_link(place: str, store: Store, tmp_path: Path) -> None:
    (store.path / place).parent.mkdir(exist_ok=True)
    (store.path / place).symlink_to(tmp_path)
    with pytest.raises(StoreError, match="is a link"):
        Pusher(store, Destination("p", "offline"))


def test_two_at_once_push_each_run_once(wandb: Wandb, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    _fill(store, 8)
    wandb.refuse = lambda at, name: time.sleep(0.02)
    status: list[int] = []
    others = [threading.Thread(target=lambda: status.append(_push(store))) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    out, err = capsys.readouterr()
    assert status == [0, 0]
    assert sorted(line[:13] for line in out.splitlines()) == ["0 runs pushed", "8 runs pushed"]
    assert "another process pushes this store to W&B; waiting for it" in err
    assert all(codes == [0] for codes in wandb.finished.values())


def test_waiting_for_another_push_ends_when_it_is_told_to(wandb: Wandb, store: Store) -> None:
    said: list[str] = []
    pusher, other = (Pusher(store, Destination("p", "offline"), warn=said.append) for _ in range(2))
    with pusher.alone() as first, other.alone(lambda: True) as second:
        assert (first, second) == (True, False)
    with other.alone() as now:
        assert now
    assert len(said) == 1


@pytest.fixture
def read() -> Iterator[Callable[[], int]]:
    """How many records were read since it was last asked."""
    with opened() as names:
        yield lambda: sum(name.endswith("record.json") for name in names())


def test_a_follower_reads_each_record_once(wandb: Wandb, store: Store, read: Callable[[], int]) -> None:
    _fill(store, 40)
    said: list[str] = []
    pusher = Pusher(store, Destination("p", "offline"), warn=said.append)
    read()
    assert pusher.push() == 40
    assert read() == 40
    assert [pusher.push() for _ in range(5)] == [0] * 5
    assert read() == 0
    _fill(store, 2, start=40)
    (store.path / "runs" / "0123456789abcdef-0").mkdir()
    (store.path / "runs" / "[a-f]*").mkdir()
    read()
    assert [pusher.push() for _ in range(3)] == [2, 0, 0]
    assert read() <= 2 + 2  # and looked for where there is none
    assert len(said) == 2
    assert all("cannot be read" in line for line in said)


def test_increments_are_all_there_is_each_once_and_the_oldest_first(store: Store) -> None:
    new, whole = Increments(store), Increments(store)
    assert not new.new().by_folder
    made = _fill(store, 6)
    made += _fill(store, 1)  # one more attempt of a run that is known
    assert list(new.new().records) == made
    assert list(whole.new().records) == made
    _fill(store, 1)
    assert len(new.new().records) == 1
    assert not new.new().by_folder


def test_a_run_that_is_refused_while_it_runs_is_pushed_when_it_is_done(wandb: Wandb, store: Store) -> None:
    made = record("sgdm", 3, 80.0)
    said: list[str] = []
    pusher = Pusher(store, Destination("p", "offline"), warn=said.append)
    with store.claim(made.run_id):
        workspace = store.begin(made.intent)

        def refuse(at: str, name: str) -> None:
            raise ValueError("not yet")

        wandb.refuse = refuse
        assert [pusher.push(), pusher.push()] == [0, 0]
        assert (len(said), pusher.refused) == (1, 1)
        wandb.refuse = lambda at, name: None
        workspace.finish(made)
    assert (pusher.push(), pusher.refused) == (1, 0)


def test_a_store_that_vanishes_is_one_line(
    wandb: Wandb, store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(store, 1)
    asked = iter([False, False, True])

    def stop() -> bool:
        done = next(asked)
        if wandb.finished and (store.path / "runs").exists():
            (store.path / "runs").rename(store.path / "gone")
        return done

    monkeypatch.setattr("apo_bench.cli.wandb._input_closed", stop)
    monkeypatch.setattr("apo_bench.session.wandb._POLL_SECONDS", 0.0)
    assert _push(store, "--follow") == 2
    err = capsys.readouterr().err
    assert "cannot be read any more (No such file or directory); name the folder where it is with --store" in err
    assert len(err.splitlines()) == 1


def test_without_the_module_nothing_is_tried(wandb: Wandb, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(store, 3)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RefusedError, match="ModuleNotFoundError"):
        Pusher(store, Destination("p", "offline")).push()


@pytest.mark.parametrize(
    "texts",
    [pytest.param(TEXTS[::25], marks=pytest.mark.slow), pytest.param(TEXTS, marks=pytest.mark.soak)],
    ids=["some", "all"],
)
def test_wandb_itself_takes_hostile_records(texts: tuple[str, ...], shell: Shell) -> None:
    """In processes of its own: wandb leaves in its process, and in what that starts, a server and variables."""
    pytest.importorskip("wandb")
    store = hostile_store(store_of(shell), *texts)
    runs = len(store.scan().by_folder)
    done = shell("wandb", "push", "--mode", "offline")
    assert done.stdout == f"{runs} runs pushed to apo-bench (offline)\n", done.stderr
    assert "did not take" not in done.stderr
    assert "0 runs pushed" in shell("wandb", "push", "--mode", "offline").stdout
