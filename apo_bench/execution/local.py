"""Runs as isolated processes on this machine.

Every run has a process of its own, forked from a server that has imported torch once: a start costs tens of
milliseconds, a crash costs one run, and memory is measured for each run by itself. The server runs no operator, so
neither OpenMP nor CUDA is initialized before the fork. A server that dies takes its runs with it; another is started.
"""

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait

import msgspec

from apo_bench.errors import StoreError
from apo_bench.execution.death import Live, Settlement, settle
from apo_bench.execution.job import Begun, Busy, Finished, Job, Left, Refused, Report
from apo_bench.execution.output import shorten
from apo_bench.execution.process import kill_server, server_pid, start_fork_server
from apo_bench.execution.stopping import GRACE_SECONDS, Stopping, stopped_by
from apo_bench.execution.watcher import Watcher, Watchers
from apo_bench.records.outcome import Crashed
from apo_bench.records.run import now
from apo_bench.records.spec import Device
from apo_bench.store.scan import Unreadable, read_events
from apo_bench.store.store import Store
from apo_bench.store.workspace import OUTPUT

_POLL_SECONDS = 0.25
_ELSEWHERE_SECONDS = 2.0
_FIRST_PAUSE = 60.0
"""Seconds until it is said again who is waited for; then twice as long, and so on."""
_CLAIM_SECONDS = 1.0
_MOST_STARTS = 3


def execute(
    jobs: Sequence[Job],
    store: Store,
    *,
    workers: int,
    watchers: Sequence[Watcher],
) -> bool:
    """Run jobs, at most ``workers`` at a time, in their order.

    Ctrl-C once lets the runs in flight finish, twice lets them save themselves, and a third time kills them; SIGTERM
    and SIGHUP let them save themselves too. Who takes too long to save itself is killed. All leave a clean store. A job
    that another process runs is waited for.

    A run whose process was killed, or died with its server, keeps its checkpoint. It is continued once, by itself, when
    the others are done; after that the same command continues it.

    Args:
        jobs: What to run.
        store: Where the records go.
        workers: Processes at a time.
        watchers: Told of every change, in their order.

    Returns:
        Whether all jobs were run; False where Ctrl-C left some.

    Raises:
        StoppedBySignalError: SIGTERM or SIGHUP came.
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
        self.again: deque[Job] = deque()
        self.elsewhere: deque[Job] = deque()
        self.store = store
        self.workers = workers
        self.watcher = watcher
        self.live: list[Live] = []
        self.stopping = Stopping()
        self.told = False
        self.told_stopping = False
        self.told_elsewhere = _Told()
        self.failed_starts = 0
        self.tried_again: set[str] = set()
        self.named: set[str] = set()
        self.context = start_fork_server()

    def run(self) -> bool:
        with self.stopping.heeded(), self._none_left_behind():
            while self.live or (not self.stopping.is_asked and (self.waiting or self.again or self.elsewhere)):
                self._heed()
                self._fill()
                if self.live:
                    wait(
                        [live.process.sentinel for live in self.live] + [live.reports for live in self.live],
                        timeout=_POLL_SECONDS,
                    )
                    for live in list(self.live):
                        self._attend(live)
                elif self.waiting or self.again:
                    self._sleep(_ELSEWHERE_SECONDS)  # a probe is measuring
                elif self.elsewhere:
                    self._look_elsewhere()
        if self.stopping.signum is not None:
            raise stopped_by(self.stopping.signum)
        return not (self.waiting or self.again or self.elsewhere or self.stopping.saves)

    def _heed(self) -> None:
        """Do what a person or a scheduler asks."""
        asked = self.stopping
        if asked.is_asked and not self.told_stopping:
            self.told_stopping = True
            if asked.saves:
                self.watcher.warn(f"stopping; {len(self.live)} runs in flight are saved")
            else:
                self.watcher.draining(len(self.live))
        if not asked.saves:
            return
        for live in self.live:
            if asked.kills:
                live.process.kill()
            else:
                live.process.terminate()  # again and again: its process may have been too young to hear it
        if asked.waited > GRACE_SECONDS + _CLAIM_SECONDS:
            kill_server()  # it has not told of their end: it is stopped, or hangs

    def _fill(self) -> None:
        """Start what there is room for; what is tried again by itself, at the end."""
        while not self.stopping.is_asked and len(self.live) < self.workers:
            queue = self.waiting or (self.again if not self.live else None)
            if not queue or self._probed(queue[0].run.device):
                break
            self._start(queue.popleft())

    def _probed(self, device: Device) -> bool:
        """Whether a probe has the device, whose measurement a run would disturb; says so once."""
        with self.store.probing(device, patience=0.2) as free:
            if not free and not self.told:
                who = self.store.probed_by(device)
                self.watcher.warn(f"a probe of this store is measuring ({who}); the next run waits for it")
            self.told = not free
            return not free

    def _start(self, job: Job) -> None:
        mine, theirs = self.context.Pipe(duplex=False)
        slot = min(set(range(self.workers)) - {live.slot for live in self.live})
        process = self.context.Process(target=_work, args=(msgspec.json.encode(job), slot, theirs), daemon=False)
        try:
            process.start()
        except (OSError, EOFError) as error:  # the server died just now; the next try starts another
            mine.close()
            self._not_started(job, error)
            return
        finally:
            theirs.close()
        self.failed_starts = 0
        self.live.append(Live(job, slot, process, mine, started_at=now(), server=server_pid()))

    def _not_started(self, job: Job, error: Exception) -> None:
        self.failed_starts += 1
        if self.failed_starts < _MOST_STARTS:
            self.waiting.appendleft(job)
            self._sleep(0.2 * self.failed_starts)
            return
        self.failed_starts = 0
        reason = getattr(error, "strerror", None) or "the server of the runs' processes died"
        self.watcher.finished(job.run, Crashed(message=f"its process could not be started ({reason})"))

    def _attend(self, live: Live) -> None:
        exited = live.process.exitcode is not None  # before reading, so that the last report is not missed
        self._read_reports(live)
        if live.folder is not None:
            events, live.offset = read_events(self.store.whereabouts(live.folder), live.offset, self._name)
            for event in events:
                self.watcher.event(live.job.run, event)
            with contextlib.suppress(OSError):
                shorten(live.folder / OUTPUT)
        if not exited:
            return
        self.live.remove(live)
        live.reports.close()
        live.process.join()
        if live.busy:
            self.elsewhere.append(live.job)
        elif live.outcome is not None:
            self.watcher.finished(live.job.run, live.outcome)
        else:
            self._settle(live)

    def _name(self, damaged: Unreadable) -> None:
        """Name what of a run's events is damaged, once; its record will hold what counts."""
        if damaged.path.parent.name not in self.named:
            self.named.add(damaged.path.parent.name)
            self.watcher.warn(f"damaged {damaged.piece}: {damaged.path} ({damaged.reason}); the run goes on")

    def _read_reports(self, live: Live) -> None:
        with contextlib.suppress(EOFError, OSError):
            while live.reports.poll():
                report: Report = msgspec.json.decode(live.reports.recv_bytes(), type=Report)
                match report:
                    case Begun():
                        live.begin(report)
                        self.watcher.started(live.job.run)
                    case Busy():
                        live.busy = True
                    case Refused():
                        live.refused = report.message
                    case Left():
                        live.left = True
                    case Finished():
                        live.outcome = report.outcome

    def _settle(self, live: Live) -> None:
        """Decide what becomes of a run whose process ended without a record, under the run's claim."""
        run = live.job.run
        may_go_on = run.run_id not in self.tried_again and not self.stopping.is_asked
        try:
            with self.store.claim(run.run_id, _CLAIM_SECONDS) as mine:
                if not mine:  # another process goes on with it
                    self.elsewhere.append(live.job)
                    return
                settled = settle(live, self.store, asked=self.stopping.saves, may_go_on=may_go_on)
        except (OSError, StoreError) as error:  # a full disk costs this record, not the other runs
            reason = getattr(error, "strerror", None) or error
            self.watcher.warn(f"no record of {run.title} ({reason}); the other runs go on")
            settled = Settlement(Crashed(message=f"its record could not be written ({reason})"))
        if settled.outcome is not None:
            self.watcher.finished(run, settled.outcome)
            return
        self.tried_again.add(run.run_id)
        self.watcher.warn(f"{run.title}: {settled.message}")
        (self.again if settled.is_alone else self.waiting).append(live.job)

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
        held = deque(job for job in pending if self.store.is_claimed(job.run.run_id))
        self.waiting = deque(job for job in pending if job not in held)
        self.elsewhere = held
        if held and not self.waiting:
            who = self.store.claimed_by(held[0].run.run_id)
            if self.told_elsewhere.is_due(who):
                self.watcher.elsewhere(len(held), who, self.told_elsewhere.waited)
            self._sleep(_ELSEWHERE_SECONDS)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.stopping.is_asked and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    @contextlib.contextmanager
    def _none_left_behind(self) -> Iterator[None]:
        """Let what is in flight save itself where an error ends the command."""
        try:
            yield
        finally:
            for live in self.live:
                live.process.terminate()
            end = time.monotonic() + (0.0 if self.stopping.kills else GRACE_SECONDS)
            for live in self.live:
                live.process.join(max(0.0, end - time.monotonic()))
                live.process.kill()


class _Told:
    """When it was last said who is waited for."""

    def __init__(self) -> None:
        self._who = ""
        self._since = self._next = time.monotonic()
        self._pause = _FIRST_PAUSE

    @property
    def waited(self) -> float:
        """Seconds since somebody was first waited for."""
        return time.monotonic() - self._since

    def is_due(self, who: str) -> bool:
        """Whether to say it: at first, of another process, and then ever more rarely."""
        now = time.monotonic()
        if not self._who:
            self._since = now
        if who == self._who and now < self._next:
            return False
        self._pause = self._pause * 2 if who == self._who else _FIRST_PAUSE
        self._who, self._next = who, now + self._pause
        return True


def _work(encoded: bytes, slot: int, reports: Connection) -> None:
    """Target of a run's process, for the server to import; this process need not import torch for it."""
    from apo_bench.execution.worker import work

    work(encoded, slot, reports)
