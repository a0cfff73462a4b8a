"""Every command that reads a store, over a store with one corrupted piece: a line for it, and the rest is shown."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from support.pieces import PIECES, replace
from support.stores import PLACES, place_in, small_store

from apo_bench.cli.main import main
from apo_bench.store.store import Store

SUITE = "classification"
NAMED = ("record", "run", "probe")
"""What commands other than `store` say: what is missing from what they show."""
COMMANDS: dict[str, Sequence[str]] = {
    "status": ("status",),
    "report": ("report", "--suite", SUITE),
    "export": ("export",),
    "check --save": ("check", "--suite", SUITE, "--save", "held.json"),
    "run --plan": ("run", "--suite", SUITE, "--scale", "smoke", "--tasks", "concrete.mlp", "--epochs", "1", "--plan"),
    "store verify": ("store", "verify"),
    "list": ("list",),
}

STATUS = {"store verify": {0, 1}, "check --save": {2}}
"""1 where something is damaged; and these results are of other code, so that there is nothing to save."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A small one, of a suite that the commands know."""
    monkeypatch.chdir(tmp_path)
    return small_store(tmp_path, SUITE)


def _try_all(store: Store, place: str, piece: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = place_in(store, place)
    replace(path, piece)
    piece_of = path.parent.name if place == "record" else path.name
    before = sorted(found.relative_to(store.path) for found in store.path.rglob("*"))
    for name, command in COMMANDS.items():
        more = [] if name == "list" else ["--store", str(store.path)]
        status = main([*command, *more])
        out, err = capsys.readouterr()
        said = f"{name}, {piece} in place of {place}: {status}\n{out}\n{err}"
        assert "Traceback" not in out + err, said
        assert status in STATUS.get(name, {0}), said
        if (
            place in NAMED
            and name in {"status", "report", "export", "check --save"}
            and (place, piece) != ("run", "folder")
        ):
            assert piece_of in err, said
        if name == "report":
            assert ("\n| sgdm " in out) + ("\n| adam " in out) == (1 if place == "record" else 2), said
    assert sorted(found.relative_to(store.path) for found in store.path.rglob("*")) == before


@pytest.mark.parametrize("piece", PIECES)
def test_every_command_survives_a_corrupted_record(
    store: Store, piece: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _try_all(store, "record", piece, capsys)


@pytest.mark.soak
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("piece", PIECES)
def test_every_command_survives_every_corrupted_piece(
    store: Store, place: str, piece: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _try_all(store, place, piece, capsys)
