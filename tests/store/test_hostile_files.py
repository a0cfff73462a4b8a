"""A store that a stranger made: nothing but regular files is read, no link is followed, and each is named."""

from pathlib import Path

import pytest
from support.pieces import PIECES, replace
from support.records import record
from support.stores import small_store

from apo_bench.errors import StoreError
from apo_bench.files import NotRegularError, open_to_append, read_regular, write_durably
from apo_bench.store.scan import EVENTS, RECORD, read_events
from apo_bench.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return small_store(tmp_path)


@pytest.mark.parametrize("piece", PIECES)
def test_a_record_that_is_no_file_is_named_and_the_rest_is_read(store: Store, piece: str) -> None:
    damaged = next(iter(store.scan().by_folder))
    replace(damaged / RECORD, piece)
    scan = store.scan()
    assert len(scan.records) == 1
    (found,) = scan.unreadable
    assert found.path == damaged
    assert found.reason
    assert "\n" not in found.reason


@pytest.mark.parametrize("piece", PIECES)
def test_a_run_that_is_no_folder_is_named(store: Store, piece: str) -> None:
    if piece == "folder":
        pytest.skip("it is one")
    PIECES[piece](store.path / "runs" / "0123456789abcdef-00000000")
    assert [found.path.name for found in store.scan().unreadable] == ["0123456789abcdef-00000000"]


@pytest.mark.parametrize("name", ["intent.json", EVENTS, "owner.lock", "deaths.json", "checkpoint.safetensors"])
@pytest.mark.parametrize("piece", PIECES)
def test_what_an_active_run_has_in_place_of_a_file_stops_nothing(store: Store, piece: str, name: str) -> None:
    (folder,) = (store.path / "active").iterdir()
    replace(folder / name, piece)
    list(store.in_flight().runs)
    assert read_events(folder)[0] == []
    store.remove_orphans()
    assert len(store.scan().records) == 2


@pytest.mark.parametrize("piece", PIECES)
def test_markers_and_probes_that_are_no_files_stop_nothing(store: Store, piece: str) -> None:
    for path in (
        store.path / "suites" / "classification-local" / "0123456789abcdef",
        store.path / "suites" / "reconstruction-local",
        store.path / "probes" / "0123456789abcdef-00000000.json",
        store.path / "locks" / "0123456789abcdef.lock",
    ):
        path.parent.mkdir(exist_ok=True, parents=True)
        PIECES[piece](path)
    scan = store.scan()
    assert len(scan.records) == 2
    harmless = {"empty": "0123456789abcdef", "folder": "reconstruction-local"}.get(piece)  # of an older version, or new
    places = {"0123456789abcdef", "reconstruction-local", "0123456789abcdef-00000000.json"} - {harmless}
    assert {found.path.name for found in scan.unreadable} == places
    store.is_claimed("0123456789abcdef")


def test_events_are_not_appended_to_a_file_elsewhere(store: Store, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    made = record("ekfac", 0, 80.0)
    workspace = store.begin(made.intent)
    workspace.leave()
    events = workspace.folder / EVENTS
    for link in (events.symlink_to, events.hardlink_to):
        events.unlink()
        link(mine)
        with pytest.raises(OSError, match=r"a link|several names"):
            store.adopt(workspace.folder)
        assert mine.read_bytes() == b"mine"


def test_only_our_own_temporary_files_are_removed(store: Store) -> None:
    made = record("ekfac", 0, 80.0)
    workspace = store.begin(made.intent)
    (workspace.folder / ".ssh-key").write_bytes(b"mine")
    (workspace.folder / ".record.json-0123abcd").write_bytes(b"ours, half-written")
    workspace.finish(made)
    (folder,) = store.path.glob(f"runs/{made.run_id}-*")
    assert {path.name for path in folder.iterdir()} == {RECORD, EVENTS, ".ssh-key"}


@pytest.mark.parametrize("name", ["runs", "active", "probes", "damaged", "locks", "leaderboards", "suites"])
def test_a_folder_that_is_a_link_is_refused_by_who_writes(store: Store, name: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (store.path / name).rename(elsewhere)
    (store.path / name).symlink_to(elsewhere)
    with pytest.raises(StoreError, match="is a link to"):
        Store(store.path, create=True)


def test_a_page_that_is_a_link_is_replaced_and_its_target_stays(store: Store, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    page = store.leaderboards / "classification-local.md"
    page.symlink_to(mine)
    write_durably(page, b"new")
    assert mine.read_bytes() == b"mine"
    assert not page.is_symlink()
    assert page.read_bytes() == b"new"


def test_what_is_set_aside_never_takes_the_place_of_another(store: Store) -> None:
    for _ in range(2):
        folder = store.path / "runs" / "0123456789abcdef-00000000"
        folder.mkdir()
        ((_, place),) = store.set_aside(store.scan().damaged)
        assert place is not None
        assert place.parent.name == "damaged"
    assert len(list((store.path / "damaged").iterdir())) == 2


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(NotRegularError, match="larger than 4 bytes"):
        read_regular(path, 4)
    with open_to_append(path) as file:
        file.write(b"6")
    assert path.read_bytes() == b"123456"
