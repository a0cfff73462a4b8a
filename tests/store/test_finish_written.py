"""A run that died between its record and its place among the finished ones is finished, and not made again."""

from pathlib import Path

import pytest
from support.commands import TINY, store_of
from support.records import record
from support.shell import Shell

from apo_bench.files import CHECKPOINT, write_durably
from apo_bench.records.run import encode
from apo_bench.store.scan import EVENTS, RECORD
from apo_bench.store.store import Store
from apo_bench.store.workspace import Workspace

MADE = record("sgdm", 0, 80.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", create=True)


def _died_after_its_record(store: Store, *, checkpoint: bool) -> Workspace:
    workspace = store.begin(MADE.intent)
    if checkpoint:
        (workspace.folder / CHECKPOINT).write_bytes(b"numbers")
    write_durably(workspace.folder / RECORD, encode(MADE))
    workspace.leave()
    return workspace


@pytest.mark.parametrize("checkpoint", [False, True])
def test_the_next_command_finishes_it(store: Store, checkpoint: bool) -> None:  # noqa: FBT001 - a parameter of the test
    _died_after_its_record(store, checkpoint=checkpoint)
    assert store.result(MADE.intent) is None
    assert store.remove_orphans() == 0
    assert store.result(MADE.intent) == MADE
    assert list((store.path / "active").iterdir()) == []
    (folder,) = store.path.glob("runs/*")
    assert {path.name for path in folder.iterdir()} == {RECORD, EVENTS}


def test_so_does_who_would_make_it(store: Store) -> None:
    _died_after_its_record(store, checkpoint=True)
    store.finish_written(MADE.run_id)
    assert store.result(MADE.intent) == MADE


def test_a_run_that_another_process_writes_is_left(store: Store) -> None:
    workspace = _died_after_its_record(store, checkpoint=False)
    with store.claim(MADE.run_id):
        assert store.remove_orphans() == 0
    assert workspace.folder.is_dir()


@pytest.mark.parametrize("damage", ["record", "events"])
def test_what_cannot_be_finished_is_set_aside_and_not_deleted(store: Store, damage: str, tmp_path: Path) -> None:
    """A record that was damaged afterwards; events that would be written to a file elsewhere."""
    folder = _died_after_its_record(store, checkpoint=False).folder
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    if damage == "record":
        (folder / RECORD).write_bytes(b"{")
    else:
        (folder / EVENTS).unlink()
        (folder / EVENTS).symlink_to(mine)
    assert store.remove_orphans() == 0
    assert store.result(MADE.intent) is None
    assert [path.name for path in (store.path / "damaged").iterdir()] == [folder.name]
    assert mine.read_bytes() == b"mine"


def test_an_active_run_whose_events_lie_elsewhere_is_set_aside_when_it_is_begun_again(
    store: Store, tmp_path: Path
) -> None:
    workspace = store.begin(MADE.intent)
    workspace.leave()
    (workspace.folder / EVENTS).unlink()
    (workspace.folder / EVENTS).symlink_to(tmp_path / "mine")
    again = store.begin(MADE.intent)
    again.finish(MADE)
    assert store.result(MADE.intent) == MADE
    assert [path.name for path in (store.path / "damaged").iterdir()] == [workspace.folder.name]


@pytest.mark.slow
def test_the_same_command_makes_it_no_second_time(tiny_shell: Shell) -> None:
    command = (*TINY, "--optimizers", "sgdm", "--precisions", "fp32")
    tiny_shell(*command)
    store = store_of(tiny_shell)
    (finished,) = store.glob("runs/*")
    before = (finished / RECORD).read_bytes()
    finished.rename(store / "active" / finished.name)
    assert "1 of 1 runs have a result" in tiny_shell(*command).stdout
    (finished,) = store.glob("runs/*")
    assert (finished / RECORD).read_bytes() == before
    assert list((store / "active").iterdir()) == []
