"""What a store holds, read: every record that can be read, and where the others lie. Reading changes nothing."""

import dataclasses
import enum
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import msgspec

from apo_bench.files import NotRegularError, open_regular, read_regular
from apo_bench.records.events import Event, decode_event
from apo_bench.records.order import is_ahead, place
from apo_bench.records.outcome import Reached
from apo_bench.records.probe import ProbeRecord, decode_probe
from apo_bench.records.run import Fingerprint, NewerSchemaError, Role, RunRecord, decode_record
from apo_bench.records.spec import Scale

RECORD = "record.json"
_MOST_BYTES = 2**26
"""Of a record, and of what is read of events at a time: far more than a record has."""
EVENTS = "events.jsonl"
FOLDERS = ("runs", "active", "probes", "damaged", "locks", "leaderboards", "suites")
"""What a store is made of."""


class Piece(enum.StrEnum):
    """What a store is made of, as it is called where it cannot be read."""

    RECORD = "record"
    RUN = "run that waits"
    EVENTS = "event file"
    MARKER = "marker"
    LOCK = "lock"
    FILE = "file"


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """Something in a store that this version cannot read.

    Attributes:
        path: Where it lies.
        reason: What is wrong with it.
        is_newer: Whether a later version wrote it: then nothing is wrong with it.
        piece: What it is.
    """

    path: Path
    reason: str
    is_newer: bool = False
    piece: Piece = Piece.RECORD


def unreadable(path: Path, error: Exception, piece: Piece = Piece.RECORD) -> Unreadable:
    """What raised an error when it was read."""
    reason = str(error)
    if isinstance(error, OSError):
        file = Path(os.fsdecode(error.filename or path))
        reason = error.strerror or reason
        if isinstance(error, FileNotFoundError):
            reason = f"{file.name} is missing"
        elif file != path:
            reason = f"{file.name}: {reason}"
    return Unreadable(path, " ".join(reason.split()), isinstance(error, NewerSchemaError), piece)


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a store holds.

    Attributes:
        by_folder: Readable records with the folder of each, oldest first.
        unreadable: The others, markers among them.
        probes: Readable records of probes, oldest first.
        ahead: Those whose time is in the future: a clock was ahead, or this one is behind. They count as the oldest.
        shared: By suite and scale, runs that count there although they were made for another, with their role there;
            `None` where it is the one that they were made for.
    """

    by_folder: Mapping[Path, RunRecord]
    unreadable: tuple[Unreadable, ...] = ()
    probes: tuple[ProbeRecord, ...] = ()
    shared: Mapping[tuple[str, Scale], Mapping[str, Role | None]] = dataclasses.field(default_factory=dict)
    ahead: Mapping[Path, str] = dataclasses.field(default_factory=dict)

    @property
    def damaged(self) -> tuple[Unreadable, ...]:
        """What is damaged: unreadable, and not because it is of a later version."""
        return tuple(found for found in self.unreadable if not found.is_newer)

    @property
    def records(self) -> tuple[RunRecord, ...]:
        """Readable records, oldest first."""
        return tuple(self.by_folder.values())

    def attempts(self, run_id: str) -> Sequence[RunRecord]:
        """All records of a run, oldest first."""
        return self._attempts.get(run_id, ())

    def find_result(self, run_id: str, fingerprint: Fingerprint) -> RunRecord | None:
        """The newest result of a run that was made with this code and data."""
        found = (record for record in reversed(self.results(run_id)) if record.fingerprint == fingerprint)
        return next(found, None)

    def attempt(self, run_id: str, fingerprint: Fingerprint) -> RunRecord | None:
        """The newest record of a run that was made with this code and data, a result preferred to a failure."""
        return newest([record for record in self.attempts(run_id) if record.fingerprint == fingerprint])

    def results(self, run_id: str) -> Sequence[RunRecord]:
        """The results of a run, of whatever code and data, oldest first."""
        return [record for record in self.attempts(run_id) if record.is_result]

    @cached_property
    def _attempts(self) -> Mapping[str, Sequence[RunRecord]]:
        attempts: dict[str, list[RunRecord]] = defaultdict(list)
        for record in self.by_folder.values():
            attempts[record.run_id].append(record)
        return dict(attempts)

    @cached_property
    def _made_for(self) -> Mapping[tuple[str, Scale], Mapping[str, None]]:
        """By suite and scale, the runs that were made for it, in the order of their oldest records."""
        found: dict[tuple[str, Scale], dict[str, None]] = defaultdict(dict)
        for record in self.by_folder.values():
            found[record.suite, record.scale][record.run_id] = None
        return dict(found)

    @property
    def suites(self) -> Sequence[tuple[str, Scale]]:
        """Suites and scales for which there is a record, in order."""
        return sorted(self._made_for)

    def newest(self, fingerprint: Fingerprint | None = None) -> dict[str, RunRecord]:
        """The newest record of each run, results preferred to failures; of this code and data, where it is given."""
        chosen: dict[str, RunRecord] = {}
        for run_id, attempts in self._attempts.items():
            own = [one for one in attempts if one.fingerprint == fingerprint] if fingerprint is not None else attempts
            if (found := newest(own)) is not None:
                chosen[run_id] = found
        return chosen

    def of(self, suite: str, scale: Scale) -> list[RunRecord]:
        """All records of the runs of a suite, oldest first, as if all were made for it.

        Which of them count is for `apo_bench.evidence.cells.cells` to say.
        """
        shared = self.shared.get((suite, scale), {})
        own = self._made_for.get((suite, scale), {})
        found = []
        for record in self.by_folder.values():
            run_id = record.run_id
            if run_id in shared or run_id in own:
                role = shared.get(run_id) or record.role
                as_it_is = (record.suite, record.scale, record.role) == (suite, scale, role)
                found.append(record if as_it_is else record.under(suite=suite, scale=scale, role=role))
        return found

    def scales(self, suite: str) -> list[Scale]:
        """The scales at which there is a run of a suite, the smallest first."""
        own = {scale for name, scale in (*self._made_for, *self.shared) if name == suite}
        return sorted(own, key=list(Scale).index)


def newest(attempts: Sequence[RunRecord]) -> RunRecord | None:
    """The newest of the records of a run, a result preferred to a failure; `None` of none."""
    return next((record for record in reversed(attempts) if record.is_result), attempts[-1] if attempts else None)


def scan(store: Path, run_id: str = "", *, curves: bool = True) -> Scan:
    """Read all finished runs of a store, or those of one ``run_id``; what cannot be read stops nothing.

    Args:
        store: Its folder.
        run_id: Of the run; of all where it is empty.
        curves: Whether whole curves are kept, or only what tables need of them (`thinned`).
    """
    present = datetime.now(UTC)
    records, others = read_records(_attempts_of(store / "runs", run_id), curves=curves)
    oldest_first, ahead = _ordered(records, present)
    if run_id:
        return Scan(oldest_first, tuple(others), ahead=ahead)
    probes, unreadable_probes = read_probes(store)
    ahead |= {path: record.finished_at for path, record in probes.items() if is_ahead(record, present)}
    probed = sorted(probes.values(), key=lambda record: place(record, present))
    shared: dict[tuple[str, Scale], dict[str, Role | None]] = {}
    others += unreadable_probes
    for marker in markers(store):
        if isinstance(marker, Unreadable):
            others.append(marker)
        else:
            shared.setdefault((marker.suite, marker.scale), {})[marker.run_id] = marker.role
    others += (
        Unreadable(store / name, "not a folder", piece=Piece.FILE)
        for name in FOLDERS
        if os.path.lexists(store / name) and not (store / name).is_dir()
    )
    return Scan(oldest_first, tuple(others), tuple(probed), shared, ahead)


def _attempts_of(runs: Path, run_id: str) -> list[Path]:
    """The folders of a run, or of all; asked whenever a run begins or ends, among however many there are."""
    try:
        with os.scandir(runs) as entries:
            return [runs / name for name in sorted(entry.name for entry in entries if entry.name.startswith(run_id))]
    except OSError:
        return []


def read_probes(store: Path) -> tuple[dict[Path, ProbeRecord], list[Unreadable]]:
    """Read the probes of a store; those that cannot be read come second."""
    probes: dict[Path, ProbeRecord] = {}
    others: list[Unreadable] = []
    for path in sorted((store / "probes").glob("*.json")):
        try:
            probes[path] = _read_probe(path)
        except FileNotFoundError:
            continue  # another process set it aside
        except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
            others.append(unreadable(path, error))
    return probes, others


def read_records(folders: Iterable[Path], *, curves: bool = True) -> tuple[dict[Path, RunRecord], list[Unreadable]]:
    """Read the records in runs' folders; those that cannot be read come second."""
    records: dict[Path, RunRecord] = {}
    others: list[Unreadable] = []
    for folder in folders:
        try:
            record = read_record(folder)
            records[folder] = record if curves else thinned(record)
        except FileNotFoundError:
            if folder.is_dir():  # else another process set it aside
                others.append(Unreadable(folder, f"{RECORD} is missing"))
        except NotADirectoryError:
            others.append(Unreadable(folder, "not a run's folder"))
        except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
            others.append(unreadable(folder, error))
    return records, others


def thinned(record: RunRecord) -> RunRecord:
    """A record with only those points of its curve that no table can do without; whoever draws curves reads them all.

    They are the last point, the one at which the target was reached, and those of the last epoch, from whose mean a
    setting is chosen.
    """
    if len(record.curve) <= 1:
        return record
    last = record.curve[-1].step
    reached = record.outcome.step if isinstance(record.outcome, Reached) else last
    end = last if record.task is None else record.spec.budget.steps(record.task.steps_per_epoch)
    begin = end if record.task is None else end - record.task.steps_per_epoch
    kept = tuple(point for point in record.curve if point.step > begin or point.step in {last, reached})
    return record if len(kept) == len(record.curve) else msgspec.structs.replace(record, curve=kept)


def in_order(records: Mapping[Path, RunRecord], present: datetime) -> dict[Path, RunRecord]:
    """Records by their folders, the oldest first, as of a time."""
    return _ordered(records, present)[0]


def _ordered(records: Mapping[Path, RunRecord], present: datetime) -> tuple[dict[Path, RunRecord], dict[Path, str]]:
    """Records, the oldest first; and the times of those whose time is in the future."""
    places = {path: place(record, present) for path, record in records.items()}
    oldest_first = {path: records[path] for path in sorted(records, key=places.__getitem__)}
    ahead = {path: record.finished_at for path, record in oldest_first.items() if not places[path][0]}
    return oldest_first, ahead


def read_record(folder: Path) -> RunRecord:
    """Read the record in a run's folder.

    Raises:
        OSError: There is none that can be read.
        ValueError: It is damaged, or another run's.
        RecursionError: It is nested too deep.
    """
    place = os.fspath(folder)  # many paths are joined here, and `Path` takes a third of the time
    if os.path.islink(place):  # noqa: PTH114
        raise NotRegularError("a link, which is not followed", folder)
    record = decode_record(read_regular(os.path.join(place, RECORD), _MOST_BYTES))  # noqa: PTH118
    if record.run_id != folder.name.partition("-")[0]:
        raise ValueError("its contents belong to another run")
    return record


def _read_probe(path: Path) -> ProbeRecord:
    record = decode_probe(read_regular(path, _MOST_BYTES))
    if record.probe_id != path.name.partition("-")[0]:
        raise ValueError("its contents belong to another probe")
    return record


@dataclasses.dataclass(frozen=True)
class Marker:
    """Says that a run counts in a suite that it was not made for.

    Attributes:
        suite: The suite.
        scale: Its scale.
        run_id: The run.
        role: Its role there; `None` where it is the one that it was made for.
    """

    suite: str
    scale: Scale
    run_id: str
    role: Role | None


def markers(store: Path) -> Iterator[Marker | Unreadable]:
    """The markers of a store; of what is none, what is wrong with it."""
    for folder in sorted((store / "suites").glob("[!.]*")):
        suite, _, scale = folder.name.rpartition("-")
        if not suite or scale not in list(Scale) or folder.is_symlink() or not folder.is_dir():
            yield Unreadable(folder, "not the folder of a suite at a scale", piece=Piece.MARKER)
            continue
        for path in sorted(folder.glob("[!.]*")):
            try:
                text = read_regular(path, _MOST_BYTES).decode("ascii", "replace").strip()
            except FileNotFoundError:
                continue  # another process set it aside
            except OSError as error:
                yield unreadable(path, error, Piece.MARKER)
                continue
            if text and text not in list(Role):
                yield Unreadable(path, f"not a role: {text[:40]!r}", piece=Piece.MARKER)
                continue
            yield Marker(suite, Scale(scale), path.name, Role(text) if text else None)  # older versions wrote none


def read_events(
    folder: Path, offset: int = 0, damaged: Callable[[Unreadable], object] = lambda _: None
) -> tuple[list[Event], int]:
    """Read the complete events of a run from a byte offset on.

    Args:
        folder: The run's folder.
        offset: Where the last call ended.
        damaged: Told of the first thing that is wrong, where something is.

    Returns:
        Events, and the offset for the next call. A half-written last line is left for the next call; a damaged
        one is passed over.
    """
    path = folder / EVENTS
    try:
        with open_regular(path) as file:
            file.seek(offset)
            data = file.read(_MOST_BYTES)
    except FileNotFoundError:
        return [], offset
    except OSError as error:
        damaged(unreadable(path, error, Piece.EVENTS))
        return [], offset
    complete = data[: data.rfind(b"\n") + 1]
    if not complete and len(data) == _MOST_BYTES:
        complete = data  # no line is as long: none of it is an event
    events: list[Event] = []
    place, wrong = offset, ""
    for line in complete.splitlines(keepends=True):
        try:
            events.append(decode_event(line))
        except (ValueError, msgspec.MsgspecError, RecursionError):
            wrong = wrong or f"the line at byte {place} is no event"
        place += len(line)
    if wrong:
        damaged(Unreadable(path, wrong, piece=Piece.EVENTS))
    return events, offset + len(complete)
