"""A run that makes runs, and a probe, over a store with one corrupted piece: it is named, and costs no result."""

import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from support.kills import Commands, commands_in, records_of, values_of
from support.pieces import PIECES, replace
from support.shell import TINY_TASK, Shell
from support.stores import PLACES, TEXT, place_in

from apo_bench.records.run import Role
from apo_bench.records.spec import Scale
from apo_bench.store.store import Store

SELECTED = ("--suite", "classification", "--scale", "smoke", "--tasks", "tiny", "--optimizers", "sgdm,adam,rmsprop",
            "--precisions", "fp32", "--threads", "1", "--device", "cpu")  # fmt: skip
RUN = ("run", *SELECTED, "--epochs", "1", "--seeds", "0")
SOME = (("record", "pipe"), ("intent", "not UTF-8"), ("lock", "folder"))
PROBE = ("probe", *SELECTED, "--processes", "1", "--rounds", "1")


class Made:
    """A store that a run made, of which every trial has a copy: two finished runs, and one that waits."""

    def __init__(self, commands: Commands) -> None:
        self.commands = commands
        self.folder = commands.shell.folder
        self._template = self.folder / "made" / "store"
        made = commands(*RUN, "--store", str(self._template))
        assert made.status == 0, made.output()
        self.expected = self._values(self._template)
        store = Store(self._template)
        *_, (folder, record) = store.scan().by_folder.items()
        shutil.rmtree(folder)
        store.begin(record.intent).leave()
        shared = store.scan().records[0]
        store.share("regression", Scale.LOCAL, {shared.run_id: Role.REPORTED})

    def __call__(self, place: str, piece: str) -> None:
        """Corrupt one piece, make what is pending, and probe."""
        for number, (name, command) in enumerate((("run", RUN), ("probe", PROBE))):
            path = self.folder / f"{place}-{piece}-{number}".replace(" ", "_") / "store"
            shutil.copytree(self._template, path, symlinks=True)
            store = Store(path)
            page = store.leaderboards / "classification-smoke.md"
            corrupted = page if place == "page" else place_in(store, place)
            replace(corrupted, piece)
            done = self.commands(*command, "--store", str(path))
            said = f"{name}, {piece} in place of {place}: {done.status}\n{done.output()}"
            assert "Traceback" not in done.output(), said
            assert done.status == 0, said
            if self._is_read(name, place, piece):
                of = corrupted.parent.name if place in {"record", "intent"} else corrupted.name
                assert of in done.output() or "the checkpoint cannot be read" in done.output(), said
            if name == "run":
                assert self._values(path) == self.expected, said
            else:
                assert len(store.scan().probes) == 1, said
            shutil.rmtree(path)

    @staticmethod
    def _is_read(name: str, place: str, piece: str) -> bool:
        """Whether a command reads something there that it can tell to be damaged."""
        if place == "events" or (place, piece) in {("marker", "empty"), ("suite", "folder")}:
            return False
        whole = {"lock", "probe lock", "owner", "deaths", "page", "waiting events"} | (
            {"checkpoint"} if name == "probe" else set()
        )
        return place not in whole or piece not in TEXT

    @staticmethod
    def _values(store: Path) -> dict[str, Any]:
        results = {run: [one for one in made if "scores" in one] for run, made in records_of(store).items()}
        assert {len(made) for made in results.values()} <= {1}
        return {run: values_of(record) for run, made in results.items() for record in made}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    shell = Shell(tmp_path_factory.mktemp("made"))
    shell.install("tiny_task", TINY_TASK, "[apo_bench.tasks]\ntiny = tiny_task:tiny\n")
    with commands_in(shell) as commands:
        yield Made(commands)


@pytest.mark.slow
def test_what_is_made_over_some(made: Made) -> None:
    for place, piece in SOME:
        made(place, piece)


@pytest.mark.soak
@pytest.mark.parametrize(("place", "piece"), list(product(PLACES, PIECES)))
def test_what_is_made_over_every_corrupted_piece(made: Made, place: str, piece: str) -> None:
    made(place, piece)
