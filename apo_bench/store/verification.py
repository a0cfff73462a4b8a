"""A whole store, read piece by piece: what is damaged is named, and nothing is changed."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from apo_bench.files import CHECKPOINT, open_regular
from apo_bench.records.events import decode_event
from apo_bench.store.active import active_folders, is_written
from apo_bench.store.scan import EVENTS, Marker, Piece, Unreadable, markers, unreadable
from apo_bench.store.sealed import check_digest
from apo_bench.store.store import Store

_LONGEST_LINE = 2**24
"""Bytes of an event."""
_WRONG = (OSError, ValueError, RecursionError)


@dataclasses.dataclass(frozen=True)
class Verified:
    """What a store holds, and what of it is not as it was written.

    Attributes:
        counts: Pieces that were read and are well, by kind.
        unreadable: The others.
        busy: Runs that are being written; of their events and checkpoints nothing is said.
    """

    counts: Mapping[str, int]
    unreadable: tuple[Unreadable, ...]
    busy: int

    @property
    def damaged(self) -> tuple[Unreadable, ...]:
        """What is damaged, and not only of a later version."""
        return tuple(found for found in self.unreadable if not found.is_newer)


def verify(store: Store) -> Verified:
    """Read everything in a store; changes nothing."""
    counts: Counter[str] = Counter()
    found: list[Unreadable] = []
    scan = store.scan()
    counts["runs"], counts["probes"] = len(scan.by_folder), len(scan.probes)
    counts["markers"] = sum(isinstance(marker, Marker) for marker in markers(store.path))
    found += scan.unreadable
    for folder in scan.by_folder:
        error = _events(folder / EVENTS)
        counts["events"] += error is None
        found += [unreadable(folder / EVENTS, error, Piece.EVENTS)] if error else []
    flight = store.in_flight()
    found += flight.unreadable
    named = {piece.path for piece in found}
    for run in flight.runs:
        if run.running or run.folder in named:
            continue
        checkpoint, events = run.folder / CHECKPOINT, run.folder / EVENTS
        ours = []
        if checkpoint not in named and (error := _checkpoint(checkpoint)):
            ours.append(unreadable(checkpoint, error, Piece.FILE))
        if events not in named and (error := _events(events)):
            ours.append(unreadable(events, error, Piece.EVENTS))
        counts["waiting runs"] += not ours
        found += ours
    counts["locks"] = sum(path not in named for path in (store.path / "locks").glob("[!.]*"))
    busy = sum(is_written(store.path, folder) for folder in active_folders(store.path))
    return Verified({kind: count for kind, count in counts.items() if count}, tuple(found), busy)


def _checkpoint(path: Path) -> Exception | None:
    """Why a checkpoint cannot be continued from; `None` where it can, or there is none."""
    try:
        check_digest(path)
    except FileNotFoundError:
        return None
    except _WRONG as error:
        return error
    return None


def _events(path: Path) -> Exception | None:
    """The first thing that is wrong with an event file; a last line that was cut off by a kill is not."""
    try:
        with open_regular(path) as file:
            number = 0
            while line := file.readline(_LONGEST_LINE):
                number += 1
                if line.endswith(b"\n"):
                    decode_event(line)
                elif len(line) == _LONGEST_LINE:
                    raise ValueError(f"line {number} is longer than an event")
    except FileNotFoundError:
        return None
    except _WRONG as error:
        return error if isinstance(error, OSError) else ValueError(f"line {number} is no event ({error})")
    return None
