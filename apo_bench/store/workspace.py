"""A run being written, in its folder among the active ones."""

import contextlib
import os
import shutil
from pathlib import Path

import msgspec

from apo_bench.errors import StoreError
from apo_bench.files import CHECKPOINT, is_temporary, open_to_append, read_regular, sync_folder, write_durably
from apo_bench.locks import Lock
from apo_bench.records.events import Event
from apo_bench.records.order import following
from apo_bench.records.run import RunRecord, encode
from apo_bench.store.scan import EVENTS, RECORD, scan

INTENT = "intent.json"
OWNER = "owner.lock"
OUTPUT = "output.log"
DEATHS = "deaths.json"
_MOST_BYTES = 2**20
"""Of an intent, a count of deaths or a role."""


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
        self._events = open_to_append(folder / EVENTS)

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
        write_durably(self.folder / RECORD, encode(following(record, earlier.records)))
        self.move()

    def move(self) -> None:
        """Move the run, whose record is written, among the finished ones."""
        os.fsync(self._events.fileno())
        self._events.close()
        own = (self.folder / name for name in (CHECKPOINT, INTENT, OWNER, DEATHS))
        for path in (*own, *filter(is_temporary, self.folder.iterdir())):
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
        path, state = self.folder / DEATHS, (self.folder / CHECKPOINT).stat()
        place = f"{state.st_mtime_ns} {state.st_size}"
        before = _Deaths("", 0)
        with contextlib.suppress(ValueError, RecursionError):
            before = msgspec.json.decode(read(path) or b"", type=_Deaths)
        deaths = _Deaths(place, (before.count if before.place == place else 0) + 1)
        write_durably(path, msgspec.json.encode(deaths))
        return deaths.count

    def discard(self) -> None:
        """Remove the run as if it had not begun."""
        self._events.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._owner.release()


def read(path: Path) -> bytes | None:
    """Read a small file of a store; `None` where there is none, or none that can be read."""
    try:
        return read_regular(path, _MOST_BYTES)
    except OSError:
        return None
