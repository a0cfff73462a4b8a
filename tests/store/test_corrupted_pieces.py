"""Every command that reads a store, over a store with one corrupted piece: a line for it, and the rest is shown."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
from support.fake_wandb import pretend
from support.pieces import PIECES, replace
from support.stores import PLACES, TEXT, place_in, small_store

from apo_bench.cli.main import main
from apo_bench.store.store import Store

SUITE = "classification"
SCANNING = {"status", "report", "claims", "export", "check --save", "run --plan", "store verify", "wandb push"}
LOOKING = {"status", "store verify"}
NAMED_BY = {
    **dict.fromkeys(("record", "run", "probe", "marker", "suite"), SCANNING),
    **dict.fromkeys(("owner", "deaths", "lock", "probe lock", "waiting events", "checkpoint", "page"), LOOKING),
    "events": {"store verify"},
    "intent": {*LOOKING, "wandb push"},
}
"""Who reads each, and so names it where it is damaged."""
HARMLESS = {
    *((place, piece) for place in ("lock", "probe lock", "owner", "deaths", "page") for piece in TEXT),
    *((place, piece) for place in ("events", "waiting events") for piece in TEXT if piece != "a terabyte of zeros"),
    ("marker", "empty"),
    ("suite", "folder"),
}
"""Regular files are locks whatever they hold; a last line without its end is no event yet; an older marker is empty."""
COMMANDS: dict[str, Sequence[str]] = {
    "status": ("status",),
    "report": ("report", "--suite", SUITE),
    "claims": ("claims", "--scale", "local"),
    "export": ("export",),
    "check --save": ("check", "--suite", SUITE, "--save", "held.json"),
    "run --plan": ("run", "--suite", SUITE, "--scale", "smoke", "--tasks", "concrete.mlp", "--epochs", "1", "--plan"),
    "store verify": ("store", "verify"),
    "list": ("list",),
    "wandb push": ("wandb", "push", "--mode", "offline"),
}

STATUS = {"store verify": {0, 1}, "check --save": {2}}
"""1 where something is damaged; and these results are of other code, so that there is nothing to save."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A small one, of a suite that the commands know."""
    monkeypatch.chdir(tmp_path)
    pretend(monkeypatch)
    return small_store(tmp_path, SUITE)


def _try_all(store: Store, place: str, piece: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = place_in(store, place)
    replace(path, piece)
    piece_of = path.parent.name if place in {"record", "intent"} else path.name
    before = _listed(store)
    for name, command in COMMANDS.items():
        more = [] if name == "list" else ["--store", str(store.path)]
        status = main([*command, *more])
        out, err = capsys.readouterr()
        said = f"{name}, {piece} in place of {place}: {status}\n{out}\n{err}"
        assert "Traceback" not in out + err, said
        assert status in STATUS.get(name, {0}), said
        is_harmless = (place, piece) in HARMLESS or (place == "checkpoint" and piece in TEXT and name == "status")
        if name in NAMED_BY[place] and not is_harmless:
            assert piece_of in out + err, said
        if name == "report":
            assert ("\n| sgdm " in out) + ("\n| adam " in out) == (1 if place == "record" else 2), said
    assert _listed(store) == before


def _listed(store: Store) -> list[str]:
    """All paths but those of a push: its memory and its lock."""
    paths = sorted(str(found.relative_to(store.path)) for found in store.path.rglob("*"))
    return [path for path in paths if "wandb" not in path]


SOME = [("record", piece) for piece in PIECES] + [(place, "link outside") for place in PLACES if place != "record"]


@pytest.mark.parametrize(("place", "piece"), SOME)
def test_every_command_survives_some(store: Store, place: str, piece: str, capsys: pytest.CaptureFixture[str]) -> None:
    _try_all(store, place, piece, capsys)


@pytest.mark.soak
@pytest.mark.parametrize(("place", "piece"), [each for each in product(PLACES, PIECES) if each not in SOME])
def test_every_command_survives_every_corrupted_piece(
    store: Store, place: str, piece: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _try_all(store, place, piece, capsys)
