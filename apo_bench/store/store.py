"""The store: one folder a run, append-only, crash-safe, for many writers.

::

    store/
      runs/<run_id>-<attempt>/     record.json, events.jsonl, output.log     finished; never changed again
      active/<run_id>-<attempt>/   intent.json, events.jsonl, checkpoint,    being written, or waiting to be continued;
                                   owner.lock, deaths.json                   whose it is; how often its process died
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
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from apo_bench.errors import StoreError
from apo_bench.files import CHECKPOINT, NoLocksError, check_locks, sync_folder, write_durably
from apo_bench.locks import Holder, Lock, acquire, holder, is_held, who_holds
from apo_bench.records.events import Event
from apo_bench.records.order import following
from apo_bench.records.probe import ProbeRecord
from apo_bench.records.run import Intent, Role, RunRecord, decode_intent, encode
from apo_bench.records.spec import Device, RunSpec, Scale
from apo_bench.store.scan import EVENTS, RECORD, Scan, Unreadable, scan

_INTENT = "intent.json"
_OWNER = "owner.lock"
_DEATHS = "deaths.json"
_NAME = re.compile(r"[0-9a-z]+-[0-9a-f]{8}")
"""A run's folder, as `Store.begin` names it; whatever else lies among them is not ours."""
OUTPUT = "output.log"
_FOLDERS = ("runs", "active", "probes", "damaged", "locks", "leaderboards")


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


class BusyError(StoreError):
    """Another process writes this run, although this one has its claim: the file of the claim was deleted."""


class _Deaths(msgspec.Struct, frozen=True):
    """How often a run's process died after one checkpoint."""

    place: str
    count: int


class Workspace:
    """A run being written. Only its own process writes it; anyone may read its events."""

    def __init__(self, folder: Path, destination: Path, owner: Lock) -> None:
        self.folder = folder
        self._owner = owner
        self._destination = destination
        self._events = (folder / EVENTS).open("ab", buffering=0)

    @property
    def token(self) -> str:
        """Tells this process's part of the run from that of every other that goes on with it."""
        return self._owner.token

    @property
    def is_continuable(self) -> bool:
        """Whether there is a checkpoint."""
        return (self.folder / CHECKPOINT).is_file()

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
        own = (self.folder / name for name in (CHECKPOINT, _INTENT, _OWNER, _DEATHS))
        for path in (*own, *self.folder.glob(".*")):
            path.unlink(missing_ok=True)  # no longer needed, or half-written by a process that was killed
        self.folder.rename(self._destination)
        sync_folder(self._destination.parent)
        self._owner.release()

    def leave(self) -> None:
        """Stop writing; the run waits to be continued."""
        self._events.close()
        self._owner.release()

    def count_death(self) -> int:
        """Remember that the run's process died; returns how often it did since its newest checkpoint was written."""
        path, state = self.folder / _DEATHS, (self.folder / CHECKPOINT).stat()
        place = f"{state.st_mtime_ns} {state.st_size}"
        before = _Deaths("", 0)
        with contextlib.suppress(ValueError, RecursionError):
            before = msgspec.json.decode((_read(path) or b"")[:_MOST_BYTES], type=_Deaths)
        deaths = _Deaths(place, (before.count if before.place == place else 0) + 1)
        write_durably(path, msgspec.json.encode(deaths))
        return deaths.count

    def discard(self) -> None:
        """Remove the run as if it had not begun."""
        self._events.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._owner.release()


_MOST_BYTES = 4096


class Store:
    """A store at ``path``.

    Args:
        path: Its folder.
        create: Whether to make it when it does not exist.

    Raises:
        StoreError: It cannot be read, or made, or written.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path.absolute()  # stays where it is when a plugin changes the folder
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
        try:
            lock = acquire(self._claim(run_id), patience)
        except NoLocksError as error:
            raise _without_locks(self.path, error) from error
        if lock is None:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def is_claimed(self, run_id: str) -> bool:
        """Whether a process holds a claim; looking takes none and writes nothing."""
        return is_held(self._claim(run_id))

    def claimed_by(self, run_id: str) -> str:
        """Which process holds a claim, in words."""
        return who_holds(self._claim(run_id))

    def _claim(self, run_id: str) -> Path:
        return self.path / "locks" / f"{run_id}.lock"

    def result(self, intent: Intent) -> RunRecord | None:
        """The newest result of a run with its code and data, read from the disk."""
        run_id = intent.spec.run_id
        return self.scan(run_id).find_result(run_id, intent.fingerprint)

    def attempt(self, name: str) -> RunRecord | None:
        """The record of one attempt, by the name of its folder, whatever it came to."""
        return self.scan(name.partition("-")[0]).by_folder.get(self.path / "runs" / name)

    def waits(self, intent: Intent) -> bool:
        """Whether a checkpoint of a run waits to be continued."""
        folders = self._folders_of(intent.spec.run_id)
        return any((folder / CHECKPOINT).is_file() and _is_of(folder, intent) for folder in folders)

    def begin(self, intent: Intent) -> Workspace:
        """Begin writing a run whose claim this process holds, or take it up where a dead process left a checkpoint.

        Raises:
            BusyError: Another process writes it all the same.
        """
        continued: Workspace | None = None
        for folder in self._folders_of(intent.spec.run_id):
            workspace = self.adopt(folder)
            if continued is None and workspace.is_continuable and _is_of(folder, intent):
                continued = workspace
            else:
                workspace.discard()
        if continued is None:
            folder = self.path / "active" / f"{intent.spec.run_id}-{uuid.uuid4().hex[:8]}"
            folder.mkdir()
            continued = self.adopt(folder)
        if _read(continued.folder / _INTENT) != encode(intent):  # the same work may be wanted by another suite
            write_durably(continued.folder / _INTENT, encode(intent))
        return continued

    def adopt(self, folder: Path) -> Workspace:
        """Go on writing an active run whose claim this process holds: a new one, or that of a process that died.

        Raises:
            BusyError: Another process writes it all the same.
        """
        owner = acquire(folder / _OWNER, _OWNER_SECONDS)
        if owner is None:
            raise BusyError(f"{folder} is being written by {who_holds(folder / _OWNER)}; wait for it")
        return Workspace(folder, self.path / "runs" / folder.name, owner)

    def is_owned(self, folder: Path, token: str) -> bool:
        """Whether an active run is still the part of the process with this token: no other has gone on with it."""
        owner = holder(folder / _OWNER)
        return owner is not None and owner.token == token

    def whereabouts(self, folder: Path) -> Path:
        """Where an active run's folder is now: its last events are read after it has moved among the finished ones."""
        finished = self.path / "runs" / folder.name
        return finished if finished.is_dir() else folder

    def remove_orphans(self) -> int:
        """Remove what dead processes left behind, but for what can be continued; returns how many."""
        removed = 0
        for folder in self._our_folders():
            with self.claim(folder.name.partition("-")[0]) as mine:
                if mine and folder.is_dir() and not (folder / CHECKPOINT).is_file() and not is_held(folder / _OWNER):
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
                claim = self._claim(folder.name.partition("-")[0])
                running = is_held(claim) or is_held(folder / _OWNER)
                found.append(Active(folder, decode_intent(data), running, holder(claim) if running else None))
        return found

    def _active_folders(self) -> list[Path]:
        """Folders of runs that are not finished; a copy of a store through git has no place for them."""
        return sorted((self.path / "active").glob("[!.]*"))

    def _folders_of(self, run_id: str) -> list[Path]:
        return [folder for folder in self._our_folders() if folder.name.partition("-")[0] == run_id]

    def _our_folders(self) -> list[Path]:
        """Active folders that this program made, and may remove: no link, and nothing of another name."""
        return [
            folder
            for folder in self._active_folders()
            if _NAME.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink()
        ]

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

    def probed_by(self, device: Device) -> str:
        """Which process probes, in words."""
        return self.claimed_by(f"probe-{device}")


_OWNER_SECONDS = 0.2


def _is_of(folder: Path, intent: Intent) -> bool:
    """Whether an active run is this one, made with the same code and data; for whatever suite."""
    try:
        found = decode_intent(_read(folder / _INTENT) or b"")
    except (ValueError, RecursionError):
        return False
    return (found.spec, found.fingerprint) == (intent.spec, intent.fingerprint)


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
