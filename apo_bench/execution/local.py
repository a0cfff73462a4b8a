"""Runs as isolated processes on this machine.

Every run has a process of its own, forked from a server that has imported torch once: a start costs tens of
milliseconds, a crash costs one run, and memory is measured for each run by itself. The server runs no operator, so
neither OpenMP nor CUDA is initialized before the fork.
"""

import contextlib
import dataclasses
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from apo_bench.execution.job import Begun, Busy, Finished, Job, Report
from apo_bench.execution.process import start_fork_server
from apo_bench.execution.watcher import Watcher, Watchers
from apo_bench.files import CHECKPOINT
from apo_bench.records.outcome import Crashed, Interrupted, Outcome
from apo_bench.records.run import failed, now
from apo_bench.store.scan import read_events
from apo_bench.store.store import OUTPUT, Store

_POLL_SECONDS = 0.25
_ELSEWHERE_SECONDS = 2.0


@dataclasses.dataclass
class _Live:
    job: Job
    slot: int
    process: BaseProcess
    reports: Connection
    started_at: str
    folder: Path | None = None
    offset: int = 0
    outcome: Outcome | None = None
    busy: bool = False


def execute(
    jobs: Sequence[Job],
    store: Store,
    *,
    workers: int,
    watchers: Sequence[Watcher],
) -> bool:
    """Run jobs, at most ``workers`` at a time, in their order.

    Ctrl-C once lets the runs in flight finish, twice stops them; both leave a clean store. A job that another process
    runs is waited for.

    Args:
        jobs: What to run.
        store: Where the records go.
        workers: Processes at a time.
        watchers: Told of every change, in their order.

    Returns:
        Whether all jobs were run; False where Ctrl-C left some.
    """
    return _Executor(jobs, store, workers, Watchers(watchers)).run()


class _Executor:
    def __init__(
        self,
        jobs: Sequence[Job],
        store: Store,
        workers: int,
        watcher: Watcher,
    ) -> None:
        self.waiting = deque(jobs)
        self.elsewhere: deque[Job] = deque()
        self.store = store
        self.workers = workers
        self.watcher = watcher
        self.live: list[_Live] = []
        self.interrupts = 0
        self.told = False
        self.context = start_fork_server()

    def run(self) -> bool:
        with self._interruptible():
            while self.live or (not self.interrupts and (self.waiting or self.elsewhere)):
                while not self.interrupts and self.waiting and len(self.live) < self.workers:
                    if self._probed():
                        break
                    self._start(self.waiting.popleft())
                if not self.live:
                    if self.waiting and not self.interrupts:
                        time.sleep(_ELSEWHERE_SECONDS)  # a probe is measuring
                    elif not self.interrupts and self.elsewhere:
                        self._look_elsewhere()
                    continue
                wait(
                    [live.process.sentinel for live in self.live] + [live.reports for live in self.live],
                    timeout=_POLL_SECONDS,
                )
                for live in list(self.live):
                    self._attend(live)
        return not (self.waiting or self.elsewhere or self.interrupts > 1)

    def _probed(self) -> bool:
        """Whether a probe has the device, whose measurement a run would disturb; says so once."""
        with self.store.probing(self.waiting[0].run.device, patience=0.2) as free:
            if not free and not self.told:
                self.watcher.warn("a probe of this store is measuring; the next run waits for it")
            self.told = not free
            return not free

    def _start(self, job: Job) -> None:
        mine, theirs = self.context.Pipe(duplex=False)
        slot = min(set(range(self.workers)) - {live.slot for live in self.live})
        process = self.context.Process(target=_work, args=(msgspec.json.encode(job), slot, theirs), daemon=False)
        process.start()
        theirs.close()
        self.live.append(_Live(job, slot, process, mine, started_at=now()))

    def _attend(self, live: _Live) -> None:
        exited = live.process.exitcode is not None  # before reading, so that the last report is not missed
        self._read_reports(live)
        if live.folder is not None:
            events, live.offset = read_events(self.store.whereabouts(live.folder), live.offset)
            for event in events:
                self.watcher.event(live.job.run, event)
        if not exited:
            return
        self.live.remove(live)
        live.reports.close()
        live.process.join()
        if live.busy:
            self.elsewhere.append(live.job)
            return
        if live.outcome is None:
            try:
                live.outcome = self._bury(live)
            except OSError as error:  # a full disk costs this record, not the other runs
                self.watcher.warn(f"no record of {live.job.run.title} ({error.strerror}); the other runs go on")
                live.outcome = Crashed(message=f"its record could not be written ({error.strerror})")
        self.watcher.finished(live.job.run, live.outcome)

    def _read_reports(self, live: _Live) -> None:
        with contextlib.suppress(EOFError):
            while live.reports.poll():
                report: Report = msgspec.json.decode(live.reports.recv_bytes(), type=Report)
                match report:
                    case Begun():
                        live.folder = Path(report.folder)
                        self.watcher.started(live.job.run)
                    case Busy():
                        live.busy = True
                    case Finished():
                        live.outcome = report.outcome

    def _bury(self, live: _Live) -> Outcome:
        """Write the record of a run whose process died without writing one."""
        code = live.process.exitcode or 0
        if self.interrupts > 1:
            outcome: Outcome = Interrupted()
        elif code < 0:
            name = signal.Signals(-code).name
            hint = " (often the kernel, out of memory)" if -code == signal.SIGKILL else ""
            outcome = Crashed(message=f"the run's process was killed by {name}{hint}")
        else:
            outcome = Crashed(message=f"the run's process ended with exit status {code}{_last_words(live.folder)}")
        waits = isinstance(outcome, Interrupted) and live.folder is not None and (live.folder / CHECKPOINT).is_file()
        if live.folder is not None and live.folder.is_dir() and not waits:
            workspace = self.store.adopt(live.folder)
            workspace.finish(failed(live.job.intent, outcome, live.started_at))
        return outcome

    def _look_elsewhere(self) -> None:
        """Drop what another process has finished; take over what it has given up."""
        pending: deque[Job] = deque()
        for job in self.elsewhere:
            record = self.store.result(job.intent)
            if record is None:
                pending.append(job)
            else:
                self.watcher.finished(job.run, record.outcome)
        self.elsewhere.clear()
        if pending:
            self.watcher.elsewhere(len(pending))
            time.sleep(_ELSEWHERE_SECONDS)
            self.waiting = pending

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        def on_interrupt(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
            self.interrupts += 1
            if self.interrupts == 1:
                self.watcher.draining(len(self.live))
            else:
                for live in self.live:
                    live.process.terminate()

        previous: Any = signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)
            for live in self.live:
                live.process.kill()


def _work(encoded: bytes, slot: int, reports: Connection) -> None:
    """Target of a run's process, for the server to import; this process need not import torch for it."""
    from apo_bench.execution.worker import work

    work(encoded, slot, reports)


def _last_words(folder: Path | None) -> str:
    """The last line a run printed, as the likeliest reason of its end."""
    if folder is None or not (folder / OUTPUT).is_file():
        return ""
    lines = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace").split("\n")
    return next((f": {line.strip()[:300]}" for line in reversed(lines) if line.strip()), "")
