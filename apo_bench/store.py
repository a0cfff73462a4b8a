"""The store: one folder a run, append-only, crash-safe, for many writers.

::

    store/
      runs/<run_id>-<attempt>/     record.json, events.jsonl, output.log     finished; never changed again
      active/<run_id>-<attempt>/   intent.json, events.jsonl, checkpoint     being written, or waiting to be continued
      probes/<probe_id>-<attempt>.json, output.log                           what steps cost; never changed again
      damaged/                     what could not be read, set aside
      locks/<run_id>.lock          held by the process that runs it; probe-<device>.lock by one that probes
      suites/<suite>-<scale>/<run_id>   counts in that suite too, although it was made for another; empty
      leaderboards/                rewritten at will

A run is written in ``active``, flushed to disk, and renamed into ``runs``: a reader never sees half a record. A
correction is a new record beside the old one.
"""

import contextlib
import dataclasses
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import filelock
import msgspec

from apo_bench.errors import StoreError
from apo_bench.files import CHECKPOINT, sync_folder, write_durably
from apo_bench.probe_record import ProbeRecord, decode_probe
from apo_bench.record import (
    Event,
    Fingerprint,
    Intent,
    RunRecord,
    decode_event,
    decode_intent,
    decode_record,
    encode,
)
from apo_bench.spec import Device, Scale

_RECORD = "record.json"
_EVENTS = "events.jsonl"
_INTENT = "intent.json"
OUTPUT = "output.log"
_FOLDERS = ("runs", "active", "probes", "damaged", "locks", "leaderboards")


@dataclasses.dataclass(frozen=True)
class Damaged:
    """A record that could not be read.

    Attributes:
        path: Where it lies now.
        reason: What is wrong with it.
    """

    path: Path
    reason: str


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a store holds.

    Attributes:
        by_folder: Readable records with the folder of each, oldest first.
        damaged: The others.
        probes: Readable records of probes, oldest first.
        shared: By suite and scale, runs that count there although they were made for another.
    """

    by_folder: Mapping[Path, RunRecord]
    damaged: tuple[Damaged, ...]
    probes: tuple[ProbeRecord, ...] = ()
    shared: Mapping[tuple[str, Scale], frozenset[str]] = dataclasses.field(default_factory=dict)

    @property
    def records(self) -> tuple[RunRecord, ...]:
        """Readable records, oldest first."""
        return tuple(self.by_folder.values())

    def find_result(self, run_id: str, fingerprint: Fingerprint) -> RunRecord | None:
        """The newest result of a run that was made with this code and data."""
        for record in reversed(self.records):
            if record.run_id == run_id and record.is_result and record.fingerprint == fingerprint:
                return record
        return None

    def newest(self, fingerprint: Fingerprint | None = None) -> dict[str, RunRecord]:
        """The newest record of each run, results preferred to failures; of this code and data, where it is given."""
        newest: dict[str, RunRecord] = {}
        for record in self.records:
            if fingerprint is not None and record.fingerprint != fingerprint:
                continue
            old = newest.get(record.run_id)
            if old is None or record.is_result or not old.is_result:
                newest[record.run_id] = record
        return newest

    def of(self, suite: str, scale: Scale) -> list[RunRecord]:
        """The newest record of each run of a suite, as if all were made for it."""
        own = {record.run_id for record in self.records if (record.suite, record.scale) == (suite, scale)}
        own |= self.shared.get((suite, scale), frozenset())
        return [
            msgspec.structs.replace(record, suite=suite, scale=scale)
            for run_id, record in self.newest().items()
            if run_id in own
        ]

    def scales(self, suite: str) -> list[Scale]:
        """The scales at which there is a run of a suite, the smallest first."""
        own = {record.scale for record in self.records if record.suite == suite}
        own |= {scale for name, scale in self.shared if name == suite}
        return sorted(own, key=list(Scale).index)


@dataclasses.dataclass(frozen=True)
class Active:
    """A run that is not finished.

    Attributes:
        folder: Where it is written.
        intent: What it is.
        running: Whether a process holds its claim; otherwise it waits to be continued.
    """

    folder: Path
    intent: Intent
    running: bool


class Workspace:
    """A run being written. Only its own process writes it; anyone may read its events."""

    def __init__(self, folder: Path, destination: Path) -> None:
        self.folder = folder
        self._destination = destination
        self._events = (folder / _EVENTS).open("ab", buffering=0)

    @property
    def output(self) -> Path:
        """File for what the run's process prints."""
        return self.folder / OUTPUT

    def append(self, event: Event) -> None:
        """Append one event; a reader sees it at once. On a full disk it is lost: the record will hold what counts."""
        with contextlib.suppress(OSError):
            self._events.write(encode(event) + b"\n")

    def finish(self, record: RunRecord) -> None:
        """Write the record and move the run among the finished ones."""
        os.fsync(self._events.fileno())
        self._events.close()
        write_durably(self.folder / _RECORD, encode(record))
        for path in (self.folder / CHECKPOINT, self.folder / _INTENT, *self.folder.glob(".*")):
            path.unlink(missing_ok=True)  # no longer needed, or half-written by a process that was killed
        self.folder.rename(self._destination)
        sync_folder(self._destination.parent)

    def discard(self) -> None:
        """Remove the run as if it had not begun."""
        self._events.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Store:
    """A store at ``path``.

    Args:
        path: Its folder.
        create: Whether to make it when it does not exist.

    Raises:
        StoreError: It cannot be read, or made, or written.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        if not create:
            if not (path / "runs").is_dir():
                raise StoreError(f"no results at {path}; run a suite first, or name another folder with --store")
            return
        try:
            for name in _FOLDERS:
                (path / name).mkdir(parents=True, exist_ok=True)
            probe = path / "active" / f".probe-{uuid.uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StoreError(f"cannot write to {path} ({error.strerror}); name another folder with --store") from error

    @property
    def leaderboards(self) -> Path:
        """Folder of the rendered leaderboards."""
        return self.path / "leaderboards"

    @contextlib.contextmanager
    def claim(self, run_id: str, patience: float = 0.0) -> Iterator[bool]:
        """Claim a run for this process; yields False when another holds it for longer than ``patience`` seconds.

        The kernel releases the claim when the process dies, however it dies.
        """
        lock = filelock.FileLock(self.path / "locks" / f"{run_id}.lock")
        try:
            lock.acquire(timeout=patience)
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def result(self, intent: Intent) -> RunRecord | None:
        """The newest result of a run with its code and data, read anew."""
        run_id = intent.spec.run_id
        return self.scan(run_id).find_result(run_id, intent.fingerprint)

    def begin(self, intent: Intent) -> Workspace:
        """Begin writing a run whose claim this process holds, or take it up where a dead process left a checkpoint."""
        encoded = encode(intent)
        continued = None
        for folder in sorted((self.path / "active").glob(f"{intent.spec.run_id}-*")):
            same = _read(folder / _INTENT) == encoded
            if continued is None and same and (folder / CHECKPOINT).is_file():
                continued = folder
            else:
                shutil.rmtree(folder, ignore_errors=True)
        if continued is not None:
            return self.adopt(continued)
        folder = self.path / "active" / f"{intent.spec.run_id}-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        write_durably(folder / _INTENT, encoded)
        return self.adopt(folder)

    def adopt(self, folder: Path) -> Workspace:
        """Go on writing an active run: a new one, or that of a process that died."""
        return Workspace(folder, self.path / "runs" / folder.name)

    def whereabouts(self, folder: Path) -> Path:
        """Where an active run's folder is now: its last events are read after it has moved among the finished ones."""
        finished = self.path / "runs" / folder.name
        return finished if finished.is_dir() else folder

    def remove_orphans(self) -> int:
        """Remove what dead processes left behind, but for what can be continued; returns how many."""
        removed = 0
        for folder in sorted((self.path / "active").iterdir()):
            with self.claim(folder.name.partition("-")[0]) as mine:
                if mine and not (folder / CHECKPOINT).is_file():
                    shutil.rmtree(folder, ignore_errors=True)
                    removed += 1
        return removed

    def active(self) -> list[Active]:
        """The runs in flight and those that were interrupted, in any order."""
        found = []
        for folder in sorted((self.path / "active").iterdir()):
            data = _read(folder / _INTENT)
            if data is None:
                continue
            with (
                contextlib.suppress(ValueError, msgspec.MsgspecError),
                self.claim(folder.name.partition("-")[0]) as mine,
            ):
                found.append(Active(folder, decode_intent(data), running=not mine))
        return found

    def scan(self, run_id: str = "") -> Scan:
        """Read all finished runs, or those of one ``run_id``; a damaged one is set aside and stops nothing."""
        records: dict[Path, RunRecord] = {}
        damaged: list[Damaged] = []
        for folder in sorted((self.path / "runs").glob(f"{run_id}*")):
            try:
                records[folder] = _read_record(folder)
            except FileNotFoundError:
                damaged.append(self._set_aside(folder, f"{_RECORD} is missing"))
            except NotADirectoryError:
                damaged.append(self._set_aside(folder, "not a run's folder"))
            except (ValueError, msgspec.MsgspecError) as error:
                damaged.append(self._set_aside(folder, str(error)))
        oldest_first = sorted(records.items(), key=lambda item: item[1].finished_at)
        probes = () if run_id else self._probes(damaged)
        return Scan(dict(oldest_first), tuple(damaged), probes, {} if run_id else self._shared())

    def share(self, suite: str, scale: Scale, run_ids: Iterable[str]) -> None:
        """Let runs count in a suite that they were not made for."""
        for run_id in run_ids:
            path = self.path / "suites" / f"{suite}-{scale}" / run_id
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def _shared(self) -> dict[tuple[str, Scale], frozenset[str]]:
        found: dict[tuple[str, Scale], frozenset[str]] = {}
        for folder in sorted((self.path / "suites").glob("*-*")):
            suite, _, scale = folder.name.rpartition("-")
            if scale in list(Scale):
                found[suite, Scale(scale)] = frozenset(path.name for path in folder.iterdir())
        return found

    def _probes(self, damaged: list[Damaged]) -> tuple[ProbeRecord, ...]:
        found = []
        for path in sorted((self.path / "probes").glob("*.json")):
            try:
                record = decode_probe(path.read_bytes())
                if record.probe_id != path.name.partition("-")[0]:
                    raise ValueError("its contents belong to another probe")  # noqa: TRY301 - set aside like the rest
                found.append(record)
            except FileNotFoundError:
                continue  # another reader set it aside
            except (OSError, ValueError, msgspec.MsgspecError) as error:
                damaged.append(self._set_aside(path, str(error)))
        return tuple(sorted(found, key=lambda record: record.finished_at))

    def keep_probe(self, record: ProbeRecord) -> Path:
        """Write the record of a probe beside the others."""
        path = self.path / "probes" / f"{record.probe_id}-{uuid.uuid4().hex[:8]}.json"
        path.parent.mkdir(exist_ok=True)
        write_durably(path, encode(record))
        return path

    @property
    def probe_output(self) -> Path:
        """File for what the processes of probes print."""
        return self.path / "probes" / OUTPUT

    @contextlib.contextmanager
    def probing(self, device: Device, patience: float = 0.0) -> Iterator[bool]:
        """Claim a kind of device for a probe; yields False when another probe of this store holds it.

        Whoever is about to start a run holds it too, for the moment of looking: hence a little ``patience``.
        """
        with self.claim(f"probe-{device}", patience) as mine:
            yield mine

    def _set_aside(self, folder: Path, reason: str) -> Damaged:
        destination = self.path / "damaged" / folder.name
        try:
            destination.parent.mkdir(exist_ok=True)
            folder.rename(destination)
        except OSError:
            destination = folder  # read-only, or another reader moved it: report it where it was
        return Damaged(destination, reason)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _read_record(folder: Path) -> RunRecord:
    record = decode_record((folder / _RECORD).read_bytes())
    if record.run_id != folder.name.partition("-")[0]:
        raise ValueError("its contents belong to another run")
    return record


def read_events(folder: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Read the complete events of a run from a byte offset on.

    Args:
        folder: The run's folder.
        offset: Where the last call ended.

    Returns:
        Events, and the offset for the next call. A half-written last line is left for the next call; a damaged
        one is passed over.
    """
    try:
        with (folder / _EVENTS).open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    complete = data[: data.rfind(b"\n") + 1]
    events: list[Event] = []
    for line in complete.splitlines():
        with contextlib.suppress(ValueError, msgspec.MsgspecError):
            events.append(decode_event(line))
    return events, offset + len(complete)
