"""A whole store, read piece by piece: what is damaged is named, and moved out of the way only on demand."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from apo_bench.files import CHECKPOINT, open_regular, read_regular
from apo_bench.records.events import decode_event
from apo_bench.records.run import NewerSchemaError, Role, decode_intent
from apo_bench.records.spec import Scale
from apo_bench.store.scan import EVENTS, RECORD, Unreadable, read_record
from apo_bench.store.sealed import check_digest
from apo_bench.store.store import Store
from apo_bench.store.workspace import INTENT

_MOST_BYTES = 2**20
_LONGEST_LINE = 2**24
"""Bytes of an event."""
_WRONG = (OSError, ValueError, RecursionError)


@dataclasses.dataclass(frozen=True)
class Verified:
    """What a store holds, and what of it is not as it was written.

    Attributes:
        counts: Pieces that were read and are well, by kind.
        unreadable: The others.
        busy: Runs that are being written, of which nothing is said.
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
    unreadable: list[Unreadable] = []
    scan = store.scan()
    counts["runs"], counts["probes"] = len(scan.by_folder), len(scan.probes)
    unreadable += scan.unreadable
    for folder in scan.by_folder:
        _take("events", folder / EVENTS, _events(folder / EVENTS), counts, unreadable)
    busy = 0
    for folder in store.active_folders():
        if store.is_written(folder):
            busy += 1
            continue
        _take("waiting runs", folder, _active(folder), counts, unreadable)
    for path, error in _markers(store.path / "suites"):
        _take("markers", path, error, counts, unreadable)
    for path in sorted((store.path / "locks").glob("[!.]*")):
        _take("locks", path, _file(path), counts, unreadable)
    return Verified({kind: count for kind, count in counts.items() if count}, tuple(unreadable), busy)


def _take(kind: str, path: Path, error: Exception | None, counts: Counter[str], unreadable: list[Unreadable]) -> None:
    if error is None:
        counts[kind] += 1
        return
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    unreadable.append(Unreadable(path, " ".join(reason.split()), is_newer=isinstance(error, NewerSchemaError)))


def _file(path: Path) -> Exception | None:
    try:
        open_regular(path).close()
    except OSError as error:
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


def _active(folder: Path) -> Exception | None:
    """What keeps a run that waits from being continued."""
    try:
        if folder.is_symlink() or not folder.is_dir():
            raise ValueError("not a run's folder")
        intent = decode_intent(read_regular(folder / INTENT, _MOST_BYTES))
        if intent.spec.run_id != folder.name.partition("-")[0]:
            raise ValueError(f"{INTENT}: its contents belong to another run")
        if os.path.lexists(folder / RECORD):
            read_record(folder)
        if os.path.lexists(folder / CHECKPOINT):
            check_digest(folder / CHECKPOINT)
    except FileNotFoundError as error:
        return ValueError(f"{Path(str(error.filename)).name} is missing")
    except _WRONG as error:
        return error
    return _events(folder / EVENTS)


def _markers(suites: Path) -> Iterator[tuple[Path, Exception | None]]:
    """Markers, with what is wrong with them."""
    for folder in sorted(suites.glob("[!.]*")):
        suite, _, scale = folder.name.rpartition("-")
        if not suite or scale not in list(Scale) or folder.is_symlink() or not folder.is_dir():
            yield folder, ValueError("not the folder of a suite at a scale")
            continue
        for path in sorted(folder.glob("[!.]*")):
            try:
                text = read_regular(path, _MOST_BYTES).decode("ascii", "replace").strip()
            except OSError as error:
                yield path, error
                continue
            wrong = text and text not in list(Role)  # older versions wrote none
            yield path, ValueError(f"not a role: {text[:40]!r}") if wrong else None


def repair(store: Store, verified: Verified) -> Iterator[tuple[Unreadable, Path | None]]:
    """Move what is damaged into ``damaged``, under the claim of its run; nothing is deleted or replaced.

    Yields:
        Each, and where it lies now; `None` where it could not be moved, or its run is being written.
    """
    for found in verified.damaged:
        run_id = _run_of(store, found.path)
        if run_id is None:
            yield found, store.move_aside(found.path)
            continue
        try:
            with store.claim(run_id) as mine:
                place = store.move_aside(found.path) if mine else None
        except OSError:  # a name that is too long for a claim, or a claim that is no file: no process of ours writes it
            place = store.move_aside(found.path)
        yield found, place


def _run_of(store: Store, path: Path) -> str | None:
    """The run to which a damaged piece belongs."""
    parts = path.relative_to(store.path).parts
    return parts[1].partition("-")[0] if parts[0] in {"runs", "active"} else None
