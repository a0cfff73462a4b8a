"""The store: one folder a run, append-only, crash-safe, for many writers.

::

    store/
      runs/<run_id>-<attempt>/     record.json, events.jsonl, output.log     finished; never changed again
      active/<run_id>-<attempt>/   intent.json, events.jsonl, checkpoint     being written, or waiting to be continued
      probes/<probe_id>-<attempt>.json, output.log                           what steps cost; never changed again
      damaged/                     what could not be read, set aside by `run`; never what a later version wrote
      locks/<run_id>.lock          held by the process that runs it; probe-<device>.lock by one that probes
      suites/<suite>-<scale>/<run_id>   counts in that suite too, although it was made for another; its role there
      leaderboards/                rewritten at will

A run is written in ``active``, flushed to disk, and renamed into ``runs``: a reader never sees half a record. A
correction is a new record beside the old one. Reading (`apo_bench.store.scan`) changes nothing.
"""

import contextlib
import dataclasses
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import filelock
import msgspec

from apo_bench.errors import StoreError
from apo_bench.files import CHECKPOINT, NO_LOCKS, NoLocksError, check_locks, sync_folder, write_durably
from apo_bench.records.events import Event
from apo_bench.records.order import following
from apo_bench.records.probe import ProbeRecord
from apo_bench.records.run import Intent, Role, RunRecord, decode_intent, encode
from apo_bench.records.spec import Device, RunSpec, Scale
from apo_bench.store.scan import EVENTS, RECORD, Scan, Unreadable, scan

_INTENT = "intent.json"
OUTPUT = "output.log"
_FOLDERS = ("runs", "active", "probes", "damaged", "locks", "leaderboards")


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
        self._events = (folder / EVENTS).open("ab", buffering=0)

    @property
    def output(self) -> Path:
        """File for what the run's process prints."""
        return self.folder / OUTPUT

    def append(self, event: Event) -> None:
        """Append one event; a reader sees it at once. On a full disk it is lost: the record will hold what counts."""
        with contextlib.suppress(OSError):
            self._events.write(encode(event) + b"\n")

    def finish(self, record: RunRecord) -> None:
        """Write the record and move the run among the finished ones, whose newest it is, whatever their times say."""
        earlier = scan(self._destination.parent.parent, record.run_id)
        record = following(record, earlier.records)
        os.fsync(self._events.fileno())
        self._events.close()
        write_durably(self.folder / RECORD, encode(record))
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
            check_locks(path / "locks")
        except NoLocksError as error:
            raise _without_locks(path, error) from error
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

        Raises:
            StoreError: The file system has no such locks.
        """
        lock = filelock.FileLock(self.path / "locks" / f"{run_id}.lock")
        try:
            lock.acquire(timeout=patience)
        except filelock.Timeout:
            yield False
            return
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise _without_locks(self.path, error) from error
        try:
            yield True
        finally:
            lock.release()

    def result(self, intent: Intent) -> RunRecord | None:
        """The newest result of a run with its code and data, read from the disk."""
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
        for folder in self._active_folders():
            with self.claim(folder.name.partition("-")[0]) as mine:
                if mine and not (folder / CHECKPOINT).is_file():
                    shutil.rmtree(folder, ignore_errors=True)
                    removed += 1
        return removed

    def active(self) -> list[Active]:
        """The runs in flight and those that were interrupted, in any order."""
        found = []
        for folder in self._active_folders():
            data = _read(folder / _INTENT)
            if data is None:
                continue
            with contextlib.suppress(ValueError, msgspec.MsgspecError):
                found.append(Active(folder, decode_intent(data), self._is_claimed(folder.name.partition("-")[0])))
        return found

    def _active_folders(self) -> list[Path]:
        """Folders of runs that are not finished; a copy of a store through git has no place for them."""
        return sorted((self.path / "active").glob("[!.]*"))

    def _is_claimed(self, run_id: str) -> bool:
        """Whether a process holds a claim; looking takes none and writes nothing."""
        try:
            descriptor = os.open(self.path / "locks" / f"{run_id}.lock", os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as filelock locks
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return False

    def scan(self, run_id: str = "") -> Scan:
        """Read all finished runs, or those of one ``run_id``; what cannot be read stops nothing and stays in place."""
        return scan(self.path, run_id)

    def output(self, run: RunSpec) -> Path | None:
        """What the newest attempt of a finished run printed, its traceback included; `None` where that is nothing."""
        folders = list(self.scan(run.run_id).by_folder)
        path = folders[-1] / OUTPUT if folders else None
        return path if path and path.is_file() and path.stat().st_size else None

    def set_aside(self, damaged: Iterable[Unreadable]) -> list[Unreadable]:
        """Move damaged records away, so that they are reported once; where they lie afterwards."""
        moved = []
        for found in damaged:
            destination = self.path / "damaged" / found.path.name
            try:
                destination.parent.mkdir(exist_ok=True)
                found.path.rename(destination)
            except OSError:
                destination = found.path  # another process moved it, or its place is taken
            moved.append(dataclasses.replace(found, path=destination))
        return moved

    def share(self, suite: str, scale: Scale, runs: Mapping[str, Role]) -> None:
        """Let runs, by ``run_id``, count in a suite that they were not made for, in the role that they have there."""
        for run_id, role in runs.items():
            path = self.path / "suites" / f"{suite}-{scale}" / run_id
            path.parent.mkdir(parents=True, exist_ok=True)
            if _read(path) != role.encode():
                path.write_text(role, encoding="ascii")

    def keep_probe(self, record: ProbeRecord) -> Path:
        """Write the record of a probe beside the others."""
        path = self.path / "probes" / f"{record.probe_id}-{uuid.uuid4().hex[:8]}.json"
        path.parent.mkdir(exist_ok=True)
        earlier = [other for other in self.scan().probes if other.spec == record.spec]
        write_durably(path, encode(following(record, earlier)))
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


def _without_locks(store: Path, error: OSError) -> StoreError:
    return StoreError(
        f"the file system of {store} has no locks ({error.strerror}), without which two processes would write one run; "
        "name a folder on another one with --store, for example on a local disk"
    )


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
