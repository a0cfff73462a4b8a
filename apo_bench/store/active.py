"""Runs that are not finished, read: those in flight, those that wait, and what is damaged of them.

Reading changes nothing.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from apo_bench.files import CHECKPOINT, open_regular, read_regular
from apo_bench.locks import Holder, holder, is_held
from apo_bench.records.run import Intent, decode_intent
from apo_bench.store.scan import EVENTS, RECORD, Piece, Unreadable, read_record, unreadable
from apo_bench.store.workspace import DEATHS, INTENT, OWNER

_MOST_BYTES = 2**20
"""Of an intent."""


@dataclasses.dataclass(frozen=True)
class Active:
    """A run that is not finished.

    Attributes:
        folder: Where it is written.
        intent: What it is.
        running: Whether a process holds its claim; otherwise it waits to be continued.
        holder: Which process that is, where it is known.
    """

    folder: Path
    intent: Intent
    running: bool
    holder: Holder | None = None


@dataclasses.dataclass(frozen=True)
class InFlight:
    """What a store holds of runs that are not finished.

    Attributes:
        runs: Those that can be read, in any order.
        unreadable: What cannot: a run, or a file or a lock of one.
    """

    runs: tuple[Active, ...]
    unreadable: tuple[Unreadable, ...]

    @property
    def damaged(self) -> tuple[Unreadable, ...]:
        """What is damaged: unreadable, and not because it is of a later version."""
        return tuple(found for found in self.unreadable if not found.is_newer)


def in_flight(store: Path) -> InFlight:
    """Read the runs of a store that are not finished, and look at its locks, and at its pages, which runs rewrite."""
    runs: list[Active] = []
    found: list[Unreadable] = []
    for folder in active_folders(store):
        found += _files(folder, OWNER, EVENTS, DEATHS, CHECKPOINT)
        running = is_written(store, folder)
        intent, error = _intent(folder)
        error = error or (None if running else what_is_wrong(folder))
        if isinstance(error, FileNotFoundError) and not os.path.lexists(folder / CHECKPOINT):
            continue  # it begins just now, or was killed as it began, or is finished meanwhile
        if error is not None:
            found.append(unreadable(folder, error, Piece.RUN))
        if intent is not None:
            runs.append(Active(folder, intent, running, holder(claim_of(store, folder)) if running else None))
    for folder, piece in ((store / "locks", Piece.LOCK), (store / "leaderboards", Piece.FILE)):
        found += _files(folder, *sorted(path.name for path in folder.glob("[!.]*")), piece=piece)
    return InFlight(tuple(runs), tuple(found))


def active_folders(store: Path) -> list[Path]:
    """Folders of runs that are not finished; a copy of a store through git has no place for them."""
    return sorted((store / "active").glob("[!.]*"))


def claim_of(store: Path, folder: Path) -> Path:
    """The file of the claim on a run, by its folder."""
    return store / "locks" / f"{folder.name.partition('-')[0]}.lock"


def is_written(store: Path, folder: Path) -> bool:
    """Whether a process writes an active run."""
    return is_held(claim_of(store, folder)) or is_held(folder / OWNER)


def what_is_wrong(folder: Path) -> Exception | None:
    """What keeps a run that waits from being finished or continued, but for its checkpoint."""
    _, error = _intent(folder)
    if error is None and os.path.lexists(folder / RECORD):
        try:
            read_record(folder)
        except (OSError, ValueError, RecursionError) as wrong:
            return wrong
    return error


def _intent(folder: Path) -> tuple[Intent | None, Exception | None]:
    if folder.is_symlink() or not folder.is_dir():
        return None, ValueError("not a run's folder")
    try:
        intent = decode_intent(read_regular(folder / INTENT, _MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        return None, error
    if intent.spec.run_id != folder.name.partition("-")[0]:
        return None, ValueError(f"{INTENT}: its contents belong to another run")
    return intent, None


def _files(folder: Path, *names: str, piece: Piece = Piece.FILE) -> Iterator[Unreadable]:
    """Which of these, where they are there, are no regular files."""
    for name in names if folder.is_dir() else ():
        try:
            open_regular(folder / name).close()
        except FileNotFoundError:
            continue
        except OSError as error:
            yield unreadable(folder / name, error, piece)
