"""What becomes of a run whose process ended without a record of its own.

A process that was killed says nothing about the run: the kernel may have needed its memory. The checkpoint stays, and
the run is continued, until it has died too often at one place. A run that raised has ended by itself.
"""

import dataclasses
import signal
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from apo_bench.execution.job import Begun, Job
from apo_bench.execution.output import last_line
from apo_bench.execution.process import is_gone
from apo_bench.files import CHECKPOINT
from apo_bench.records.outcome import Crashed, Interrupted, Outcome
from apo_bench.records.run import failed
from apo_bench.store.store import Store
from apo_bench.store.workspace import OUTPUT, Workspace

_MOST_DEATHS = 3
"""Deaths after one checkpoint that are put down to chance."""
_SERVER_DIED = 255
"""What multiprocessing makes of the end of its server; a process may also end with it by itself."""


@dataclasses.dataclass
class Live:
    """A run in flight.

    Attributes:
        job: What it is.
        slot: Its place among the workers.
        process: Its process.
        reports: What it tells.
        started_at: When.
        server: The server that it was forked from.
        folder: Where it writes, once it has begun.
        token: Tells its part of the run from that of others.
        offset: How much of its events has been read.
        outcome: What it came to, once its record is written.
        busy: Whether another process runs it.
        refused: Why the store did not take it.
        left: Whether it was asked to end and left a checkpoint.
    """

    job: Job
    slot: int
    process: BaseProcess
    reports: Connection
    started_at: str
    server: int | None
    folder: Path | None = None
    token: str = ""
    offset: int = 0
    outcome: Outcome | None = None
    busy: bool = False
    refused: str | None = None
    left: bool = False

    def begin(self, report: Begun) -> None:
        """Its process has begun to write."""
        self.folder, self.token = Path(report.folder), report.token


@dataclasses.dataclass(frozen=True)
class Settlement:
    """What becomes of it.

    Attributes:
        outcome: What it came to; `None` where it is to be gone on with.
        message: Why it is.
        is_alone: Whether then nothing is to run beside it.
    """

    outcome: Outcome | None
    message: str = ""
    is_alone: bool = False


def settle(live: Live, store: Store, *, asked: bool, may_go_on: bool) -> Settlement:
    """Decide; the caller holds the run's claim.

    Args:
        live: The run; its process has ended without a record.
        store: Where it was written.
        asked: Whether the runs were to end.
        may_go_on: Whether it may be gone on with at once.

    Raises:
        OSError: The store cannot be written.
        StoreError: Another process writes the run although this one has the claim.
    """
    folder = live.folder
    if folder is None or not folder.is_dir() or not store.is_owned(folder, live.token):
        return _of_another(live, store, asked=asked, may_go_on=may_go_on)
    written = store.complete(folder)
    if written is not None:
        return Settlement(written.outcome)
    if live.refused is not None and not asked:
        return Settlement(Crashed(message=live.refused))
    return _of_this(live, store, folder, asked=asked, may_go_on=may_go_on)


def _of_this(live: Live, store: Store, folder: Path, *, asked: bool, may_go_on: bool) -> Settlement:
    """The run is still this process's."""
    how, by_accident = _end_of(live)
    is_continuable = (folder / CHECKPOINT).is_file()
    if asked:
        return Settlement(Interrupted()) if is_continuable else _ended(live, store.adopt(folder), Interrupted())
    if by_accident and is_continuable:
        return _continued(live, store.adopt(folder), how, may_go_on=may_go_on)
    if _died_with_server(live) and may_go_on:
        return Settlement(None, f"{how}; it is started again")
    return _ended(live, store.adopt(folder), Crashed(message=how))


def _of_another(live: Live, store: Store, *, asked: bool, may_go_on: bool) -> Settlement:
    """The run is not this process's any more, or was not yet: the store knows what became of it."""
    done = store.result(live.job.intent)
    if done is None and live.folder is not None:  # it wrote its record, and died before it could say so
        done = store.attempt(live.folder.name)
    if done is not None:
        return Settlement(done.outcome)
    if asked:
        return Settlement(Interrupted())
    how, by_accident = _end_of(live)
    if live.folder is not None or (by_accident and store.waits(live.job.intent)) or _died_with_server(live):
        if may_go_on:
            return Settlement(None, f"{how}; it is gone on with")
        how = f"{how}; the same command continues"
    return Settlement(Crashed(message=live.refused or how))


def _continued(live: Live, workspace: Workspace, how: str, *, may_go_on: bool) -> Settlement:
    deaths = workspace.count_death()
    if deaths >= _MOST_DEATHS:
        message = f"{how}, {deaths} times after one checkpoint, which is dropped; the same command starts the run again"
        return _ended(live, workspace, Crashed(message=message))
    workspace.leave()
    if may_go_on:
        message = f"{how}; it is continued from its checkpoint after the other runs"
        return Settlement(None, message, is_alone=not _died_with_server(live))
    return Settlement(Crashed(message=f"{how}; the same command continues from its checkpoint"))


def _ended(live: Live, workspace: Workspace, outcome: Outcome) -> Settlement:
    workspace.finish(failed(live.job.intent, outcome, live.started_at))
    return Settlement(outcome)


def _died_with_server(live: Live) -> bool:
    return live.process.exitcode == _SERVER_DIED and is_gone(live.server)


def _end_of(live: Live) -> tuple[str, bool]:
    """How a process ended, and whether that says nothing about its run."""
    code = live.process.exitcode or 0
    if live.left:
        return "the run's process was ended by SIGTERM", True
    if code < 0:
        hint = " (often the kernel, out of memory)" if -code == signal.SIGKILL else ""
        return f"the run's process was killed by {_name(-code)}{hint}", True
    if _died_with_server(live):
        return "the run's process died with the server that it was forked from", True
    said = last_line(live.folder / OUTPUT) if live.folder is not None else None
    return f"the run's process ended with exit status {code}" + (f": {said}" if said else ""), False


def _name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:  # a real-time signal has none
        return f"signal {signum}"
