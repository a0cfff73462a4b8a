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
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from apo_bench.errors import StoreError
from apo_bench.files import (
    CHECKPOINT,
    LinkError,
    NoLocksError,
    NotRegularError,
    check_locks,
    refuse_link,
    write_durably,
)
from apo_bench.locks import acquire, holder, is_held, who_holds
from apo_bench.records.order import following
from apo_bench.records.probe import ProbeRecord
from apo_bench.records.run import Intent, NewerSchemaError, Role, RunRecord, decode_intent, encode
from apo_bench.records.spec import Device, RunSpec, Scale
from apo_bench.store.active import InFlight, active_folders, in_flight, what_is_wrong
from apo_bench.store.scan import FOLDERS, RECORD, Scan, Unreadable, read_record, scan
from apo_bench.store.workspace import INTENT, OUTPUT, OWNER, BusyError, Workspace, read

_NAME = re.compile(r"[0-9a-z]+-[0-9a-f]{8}")
"""A run's folder, as `Store.begin` names it; whatever else lies among them is not ours."""


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
            for name in FOLDERS:
                (path / name).mkdir(parents=True, exist_ok=True)
                refuse_link(path / name)
            probe = path / "active" / f".probe-{uuid.uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink()
            check_locks(path / "locks")
        except NoLocksError as error:
            raise _without_locks(path, error) from error
        except LinkError as error:
            raise StoreError(f"{error}; put a folder in its place, or name another store with --store") from error
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

        What a dead process has finished is to be looked for first (`finish_written`).

        Raises:
            BusyError: Another process writes it all the same.
        """
        continued: Workspace | None = None
        for folder in self._folders_of(intent.spec.run_id):
            if _is_newer(folder):
                continue
            try:
                workspace = self.adopt(folder)
            except NotRegularError:  # a stranger's: what it writes to may be a file elsewhere
                self.move_aside(folder)
                continue
            if continued is None and workspace.is_continuable and _is_of(folder, intent):
                continued = workspace
            else:
                workspace.discard()
        if continued is None:
            folder = self.path / "active" / f"{intent.spec.run_id}-{uuid.uuid4().hex[:8]}"
            folder.mkdir()
            continued = self.adopt(folder)
        if read(continued.folder / INTENT) != encode(intent):  # the same work may be wanted by another suite
            write_durably(continued.folder / INTENT, encode(intent))
        return continued

    def adopt(self, folder: Path) -> Workspace:
        """Go on writing an active run whose claim this process holds: a new one, or that of a process that died.

        Raises:
            BusyError: Another process writes it all the same.
        """
        owner = acquire(folder / OWNER, _OWNER_SECONDS)
        if owner is None:
            raise BusyError(f"{folder} is being written by {who_holds(folder / OWNER)}; wait for it")
        return Workspace(folder, self.path / "runs" / folder.name, owner)

    def finish_written(self, run_id: str) -> None:
        """Finish what a dead process had written the record of, of a run whose claim this process holds.

        Raises:
            BusyError: Another process writes it all the same.
        """
        for folder in self._folders_of(run_id):
            self.complete(folder)

    def complete(self, folder: Path) -> RunRecord | None:
        """Move an active run whose claim this process holds among the finished ones, where its record is written.

        Returns:
            The record; `None` where there is none, or it cannot be read, or the folder cannot be written: then the run
            is not finished.

        Raises:
            BusyError: Another process writes it all the same.
        """
        try:
            record = read_record(folder)
            self.adopt(folder).move()
        except (OSError, ValueError, RecursionError):
            return None
        return record

    def is_owned(self, folder: Path, token: str) -> bool:
        """Whether an active run is still the part of the process with this token: no other has gone on with it."""
        owner = holder(folder / OWNER)
        return owner is not None and owner.token == token

    def whereabouts(self, folder: Path) -> Path:
        """Where an active run's folder is now: its last events are read after it has moved among the finished ones."""
        finished = self.path / "runs" / folder.name
        return finished if finished.is_dir() else folder

    def remove_orphans(self) -> int:
        """Remove what dead processes left behind, but for what can be continued or is finished; returns how many."""
        removed = 0
        for folder in self._our_folders():
            with self.claim(folder.name.partition("-")[0]) as mine:
                if not mine or not folder.is_dir() or is_held(folder / OWNER) or self.complete(folder):
                    continue
                if _is_newer(folder):
                    continue
                if os.path.lexists(folder / RECORD):  # a result, which cannot be read or put in its place
                    self.move_aside(folder)
                elif not (folder / CHECKPOINT).is_file():
                    shutil.rmtree(folder, ignore_errors=True)
                    removed += 1
        return removed

    def in_flight(self) -> InFlight:
        """The runs in flight, those that were interrupted, and what of them cannot be read."""
        return in_flight(self.path)

    def _folders_of(self, run_id: str) -> list[Path]:
        return [folder for folder in self._our_folders() if folder.name.partition("-")[0] == run_id]

    def _our_folders(self) -> list[Path]:
        """Active folders that this program made, and may remove: no link, and nothing of another name."""
        return [
            folder
            for folder in active_folders(self.path)
            if _NAME.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink()
        ]

    def scan(self, run_id: str = "", *, curves: bool = True) -> Scan:
        """Read all finished runs, or those of one ``run_id``; what cannot be read stops nothing and stays in place.

        Without ``curves``, of each only those points are kept that tables need.
        """
        return scan(self.path, run_id, curves=curves)

    def output(self, run: RunSpec) -> Path | None:
        """What the newest attempt of a finished run printed, its traceback included; `None` where that is nothing."""
        folders = list(self.scan(run.run_id).by_folder)
        path = folders[-1] / OUTPUT if folders else None
        return path if path and path.is_file() and path.stat().st_size else None

    def set_aside(self, damaged: Iterable[Unreadable]) -> list[tuple[Unreadable, Path | None]]:
        """Move what is damaged into ``damaged``, what is of a run under its claim; nothing is deleted or replaced.

        Returns:
            Each, and where it lies now; `None` where it could not be moved, or its run is being written.
        """
        return [(found, self._set_aside(found.path)) for found in damaged]

    def _set_aside(self, path: Path) -> Path | None:
        parts = path.relative_to(self.path).parts
        if parts[0] not in {"runs", "active"}:
            return self.move_aside(path)
        try:
            with self.claim(parts[1].partition("-")[0]) as mine:
                is_busy = not mine or is_held(self.path.joinpath(*parts[:2], OWNER))
                return None if is_busy else self.move_aside(path)
        except OSError:  # a name too long for a claim, or a claim that is no file: no process of ours writes it
            return self.move_aside(path)

    def move_aside(self, path: Path) -> Path | None:
        """Move something into ``damaged``, where it takes nobody's place; `None` where it cannot be moved.

        Another process may have moved it.
        """
        destination = self.path / "damaged" / "-".join(path.relative_to(self.path).parts[1:])
        try:
            destination.parent.mkdir(exist_ok=True)
            refuse_link(destination.parent)
            if os.path.lexists(destination):
                destination = destination.with_name(f"{destination.name}-{uuid.uuid4().hex[:8]}")
            path.rename(destination)
        except OSError:
            return None
        return destination

    def share(self, suite: str, scale: Scale, runs: Mapping[str, Role]) -> None:
        """Let runs, by ``run_id``, count in a suite that they were not made for, in the role that they have there."""
        for run_id, role in runs.items():
            path = self.path / "suites" / f"{suite}-{scale}" / run_id
            path.parent.mkdir(parents=True, exist_ok=True)
            refuse_link(path.parent)
            if read(path) != role.encode():
                write_durably(path, role.encode())

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


def _is_newer(folder: Path) -> bool:
    """Whether an active run is of a later version, which will know what to do with it."""
    return isinstance(what_is_wrong(folder), NewerSchemaError)


def _is_of(folder: Path, intent: Intent) -> bool:
    """Whether an active run is this one, made with the same code and data; for whatever suite."""
    try:
        found = decode_intent(read(folder / INTENT) or b"")
    except (ValueError, RecursionError):
        return False
    return (found.spec, found.fingerprint) == (intent.spec, intent.fingerprint)


def _without_locks(store: Path, error: OSError) -> StoreError:
    return StoreError(
        f"the file system of {store} has no locks ({error.strerror}), without which two processes would write one run; "
        "name a folder on another one with --store, for example on a local disk"
    )
