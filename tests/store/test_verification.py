"""A store is read whole; what is damaged is named, and moved only on demand, and nothing is lost by it."""

import json
from pathlib import Path

import pytest
from support.pieces import PIECES, replace
from support.stores import place_in, small_store

from apo_bench.cli.main import main
from apo_bench.store.scan import RECORD
from apo_bench.store.sealed import DIGEST, PLACEHOLDER, sealed
from apo_bench.store.store import Store
from apo_bench.store.verification import verify


def _checkpoint() -> bytes:
    header = json.dumps({"__metadata__": {DIGEST: PLACEHOLDER}}, separators=(",", ":")).encode()
    return sealed(len(header).to_bytes(8, "little") + header + b"numbers")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A small one, whose run that waits has a checkpoint."""
    made = small_store(tmp_path)
    place_in(made, "checkpoint").write_bytes(_checkpoint())
    return made


def _everything(store: Store) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(store.path)): path.read_bytes() if _is_small_file(path) else None
        for path in store.path.rglob("*")
    }


def _is_small_file(path: Path) -> bool:
    return not path.is_symlink() and path.is_file() and path.stat().st_size < 2**20


def test_a_store_as_it_was_written_is_whole_and_stays_as_it_is(store: Store) -> None:
    before = _everything(store)
    verified = verify(store)
    assert verified.unreadable == ()
    assert verified.counts == {**verified.counts, "runs": 2, "events": 2, "waiting runs": 1, "markers": 1}
    assert _everything(store) == before


KINDS = ("record", "events", "probe", "intent", "checkpoint", "owner", "deaths", "marker", "suite", "lock")
HARMLESS = {
    *(("events", piece) for piece in ("empty", "not UTF-8", "nested too deep", "nested and closed")),
    *(
        (kind, piece)
        for kind in ("lock", "owner", "deaths")
        for piece in ("empty", "a terabyte of zeros", "not UTF-8", "nested too deep", "nested and closed")
    ),
    ("marker", "empty"),
    ("suite", "folder"),
}
"""No event yet, or a last line that was cut off; a marker of an older version; whatever stands in a lock or a count."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("piece", PIECES)
def test_each_is_named_moved_on_demand_and_then_the_store_is_whole(store: Store, kind: str, piece: str) -> None:
    place = place_in(store, kind)
    replace(place, piece)
    before = _everything(store)
    verified = verify(store)
    assert _everything(store) == before
    if (kind, piece) in HARMLESS:
        assert verified.unreadable == ()
        return
    (found,) = verified.damaged
    assert place.is_relative_to(found.path)
    assert found.reason
    ((_, moved),) = store.set_aside(verified.damaged)
    assert moved is not None
    assert moved.parent.name == "damaged"
    assert verify(store).unreadable == ()
    assert len(_everything(store)) >= len(before)
    assert list(store.set_aside(verify(store).damaged)) == []


def test_a_later_version_s_record_is_named_and_left(store: Store) -> None:
    folder = next(iter(store.scan().by_folder))
    (folder / RECORD).write_bytes(b'{"schema":99}')
    verified = verify(store)
    assert [found.is_newer for found in verified.unreadable] == [True]
    assert verified.damaged == ()
    assert list(store.set_aside(verified.damaged)) == []


def test_a_run_that_is_being_written_is_left(store: Store) -> None:
    (waiting,) = (store.path / "active").iterdir()
    (waiting / "intent.json").write_bytes(b"{}")
    verified = verify(store)
    workspace = store.adopt(waiting)
    assert [found.path for found in verify(store).unreadable] == [waiting]
    assert verify(store).busy == 1
    assert [place for _, place in store.set_aside(verified.damaged)] == [None]
    workspace.leave()
    with store.claim(waiting.name.partition("-")[0]):
        assert [place for _, place in store.set_aside(verified.damaged)] == [None]
    assert waiting.is_dir()


def test_the_command_says_what_is_damaged_and_its_status_whether_something_is(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    def called(action: str, *more: str) -> tuple[int, str]:
        status = main(["store", action, "--store", str(store.path), *more])
        return status, capsys.readouterr().out

    assert called("verify")[0] == 0
    folder = next(iter(store.scan().by_folder))
    (folder / RECORD).write_bytes(b"\x1b[2J{")
    status, text = called("verify")
    assert status == 1
    assert f"damaged: runs/{folder.name} (" in text
    assert "1 damaged; `apo-bench store repair` moves it aside" in text
    assert "\x1b" not in text
    status, text = called("verify", "--json")
    assert (status, json.loads(text)["found"][0]["path"]) == (1, f"runs/{folder.name}")
    status, text = called("repair")
    assert status == 0
    assert f"moved to damaged/{folder.name}" in text
    assert "nothing left that is damaged" in text
    assert called("verify") == (0, called("verify")[1])
    assert called("repair")[0] == 0
