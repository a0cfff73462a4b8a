"""The store: one folder a run, append-only, crash-safe, for many writers.

::

    store/
      runs/<run_id>-<attempt>/     record.json, events.jsonl, output.log     finished; never changed again
      active/<run_id>-<attempt>/   events.jsonl, output.log                  being written
      damaged/                     what could not be read, set aside
      locks/<run_id>.lock          held by the process that runs it
      leaderboards/                rewritten at will

A run is written in ``active``, flushed to disk, and renamed into ``runs``: a reader never sees half a record. A
correction is a new record beside the old one.
"""

import contextlib
import dataclasses
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import filelock
import msgspec

from apo_bench.errors import StoreError
from apo_bench.record import Event, Fingerprint, RunRecord, decode_event, decode_record, encode

_RECORD = "record.json"
_EVENTS = "events.jsonl"
OUTPUT = "output.log"
_FOLDERS = ("runs", "active", "damaged", "locks", "leaderboards")


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
    """What a store holds: readable records, oldest first, and damaged ones."""

    records: tuple[RunRecord, ...]
    damaged: tuple[Damaged, ...]

    def find_result(self, run_id: str, fingerprint: Fingerprint) -> RunRecord | None:
        """The newest result of a run that was made with this code and data."""
        for record in reversed(self.records):
            if record.run_id == run_id and record.is_result and record.fingerprint == fingerprint:
                return record
        return None

    def newest(self) -> dict[str, RunRecord]:
        """The newest record of each run, results preferred to failures."""
        newest: dict[str, RunRecord] = {}
        for record in self.records:
            old = newest.get(record.run_id)
            if old is None or record.is_result or not old.is_result:
                newest[record.run_id] = record
        return newest


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
        """Append one event; a reader sees it at once."""
        self._events.write(encode(event) + b"\n")

    def finish(self, record: RunRecord) -> None:
        """Write the record and move the run among the finished ones."""
        os.fsync(self._events.fileno())
        self._events.close()
        write_durably(self.folder / _RECORD, encode(record))
        self.folder.rename(self._destination)
        _sync_folder(self._destination.parent)

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
    def claim(self, run_id: str) -> Iterator[bool]:
        """Claim a run for this process; yields False when another process holds it.

        The kernel releases the claim when the process dies, however it dies.
        """
        lock = filelock.FileLock(self.path / "locks" / f"{run_id}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def begin(self, run_id: str) -> Workspace:
        """Begin writing a run."""
        name = f"{run_id}-{uuid.uuid4().hex[:8]}"
        folder = self.path / "active" / name
        folder.mkdir()
        return Workspace(folder, self.path / "runs" / name)

    def adopt(self, folder: Path) -> Workspace:
        """Take over the active run of a process that died, to finish it."""
        return Workspace(folder, self.path / "runs" / folder.name)

    def remove_orphans(self) -> int:
        """Remove what runs left behind whose processes died; returns how many."""
        removed = 0
        for folder in sorted((self.path / "active").iterdir()):
            run_id = folder.name.partition("-")[0]
            with self.claim(run_id) as mine:
                if mine and folder.is_dir():
                    shutil.rmtree(folder, ignore_errors=True)
                    removed += 1
        return removed

    def scan(self, run_id: str = "") -> Scan:
        """Read all finished runs, or those of one ``run_id``; a damaged one is set aside and stops nothing."""
        records: list[RunRecord] = []
        damaged: list[Damaged] = []
        for folder in sorted((self.path / "runs").glob(f"{run_id}*")):
            try:
                records.append(_read_record(folder))
            except FileNotFoundError:
                damaged.append(self._set_aside(folder, f"{_RECORD} is missing"))
            except NotADirectoryError:
                damaged.append(self._set_aside(folder, "not a run's folder"))
            except (ValueError, msgspec.MsgspecError) as error:
                damaged.append(self._set_aside(folder, str(error)))
        records.sort(key=lambda record: record.finished_at)
        return Scan(tuple(records), tuple(damaged))

    def _set_aside(self, folder: Path, reason: str) -> Damaged:
        destination = self.path / "damaged" / folder.name
        try:
            destination.parent.mkdir(exist_ok=True)
            folder.rename(destination)
        except OSError:
            destination = folder  # read-only, or another reader moved it: report it where it was
        return Damaged(destination, reason)


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


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that after a crash either the old or the new content is there, whole."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)
