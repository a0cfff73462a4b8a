"""Runs of a plan, carried out: tune, run, publish."""

import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from apo_bench.evidence.tuning import Tuned
from apo_bench.execution.job import Job
from apo_bench.execution.local import execute
from apo_bench.execution.stopping import StoppedBySignalError
from apo_bench.execution.watcher import Watcher
from apo_bench.planning.plan import Plan, PlannedRun, PlannedSearch
from apo_bench.records.outcome import Crashed, Failed, Outcome, OutOfMemory
from apo_bench.records.run import Intent
from apo_bench.records.spec import RunSpec
from apo_bench.render.leaderboard import leaderboard_text
from apo_bench.say import note, say, show, warn
from apo_bench.session.live import LiveLeaderboard
from apo_bench.session.progress import display
from apo_bench.store.store import Store

_WANDB_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """How runs are made.

    Attributes:
        workers: Runs at a time.
        threads: CPU threads a run.
        threads_from: What said how many (`apo_bench.measure.cores`).
        checkpoint_seconds: Shortest time between two checkpoints of a run.
        wandb: Whether W&B follows the runs.
        output_is_data: Whether the standard output belongs to a program, so that words go to the standard error.
    """

    workers: int
    threads: int
    checkpoint_seconds: float = 60.0
    wandb: bool = False
    output_is_data: bool = False
    threads_from: str | None = None


class RunSession(Watcher):
    """One command's runs.

    Args:
        settings: How they are made.
        store: Takes the records.
        live: Keeps the leaderboard up to date.
        after_tuning: Makes the plan again, with settings chosen.

    Attributes:
        interrupted: Whether Ctrl-C came: nothing more is to be started.
    """

    def __init__(
        self, settings: RunSettings, store: Store, live: LiveLeaderboard, after_tuning: Callable[[], Plan]
    ) -> None:
        self.settings = settings
        self.store = store
        self.live = live
        self.after_tuning = after_tuning
        self.interrupted = False
        self._outputs: dict[str, Path] = {}

    def finished(self, run: RunSpec, outcome: Outcome) -> None:
        """Remember where the traceback of a failed run lies."""
        if isinstance(outcome, Crashed | OutOfMemory | Failed) and (output := self.store.output(run)):
            self._outputs[run.title] = output

    def _output_of(self, run: RunSpec) -> Path | None:
        return self._outputs.get(run.title)

    def draining(self, runs: int) -> None:  # noqa: ARG002 - a watcher's method
        """Remember that Ctrl-C came."""
        self.interrupted = True

    def carry_out(self, plan: Plan) -> int:
        """Run what is pending, publish, and return the exit status."""
        self.store.remove_orphans()
        complete = True
        if plan.pending:
            try:
                plan, complete = self._make(plan)
            except StoppedBySignalError:
                with contextlib.suppress(OSError):
                    self.live.publish()
                raise
        board = self.live.publish()
        if not self.settings.output_is_data:
            show(f"\n{leaderboard_text(board)}")
            say(f"leaderboard: {self.live.path}")
        if not complete:
            note("interrupted; the same command continues")
            return 1
        failures = [*board.failures, *self.live.lost.values()]
        if failures:
            title, message = failures[0]
            output = self._outputs.get(title)
            where = f"; see {output}" if output else ""
            warn(
                f"{len(failures)} runs failed, the first: {title}: {message}{where}; the same command tries them again"
            )
        for line in _without_setting(plan):
            warn(line)
        return 1 if failures or plan.dropped or plan.unavailable else 0

    def _make(self, plan: Plan) -> tuple[Plan, bool]:
        """Make the tuning runs, then the reported ones at the settings that they chose.

        Returns:
            The plan with these settings, and whether everything was run; False where Ctrl-C left some.
        """
        with (
            _wandb_following(self.store.path) if self.settings.wandb else contextlib.nullcontext(),
            display(
                plan.pending_count, _expected(plan), self._output_of, to_stderr=self.settings.output_is_data
            ) as shown,
            self.live.warning(shown.warn),
        ):
            watchers = (self.live, self, shown)
            if plan.pending_tuning:
                waited_for = [one.search.key for one in plan.searches if not one.tuned.is_final]
                if not self._run(plan, plan.pending_tuning, watchers) or self.interrupted:
                    return plan, False  # interrupted: also where the last tuning runs were let finish
                plan = self.after_tuning()
                self.live.show(plan)
                shown.expect(_expected(plan))
                new = [one for one in plan.searches if one.search.key in waited_for]
                for one in new:
                    shown.say(one.tuned.line)
                warn_of_ends(new)
            return plan, self._run(plan, plan.pending_reported, watchers)

    def _run(self, plan: Plan, pending: Sequence[PlannedRun], watchers: Sequence[Watcher]) -> bool:
        jobs = [self._job(plan, one) for one in pending]
        return execute(jobs, self.store, workers=self.settings.workers, watchers=watchers)

    def _job(self, plan: Plan, pending: PlannedRun) -> Job:
        settings = self.settings
        return Job(
            intent=Intent(
                spec=pending.run,
                suite=plan.suite.name,
                scale=plan.suite.scale,
                fingerprint=pending.fingerprint,
                role=pending.role,
            ),
            store=str(self.store.path),
            threads=settings.threads,
            threads_from=settings.threads_from,
            checkpoint_seconds=settings.checkpoint_seconds,
            co_scheduled=min(settings.workers, plan.pending_count) - 1,
        )


def _expected(plan: Plan) -> dict[str, float | None]:
    """Expected seconds of all runs still to be made; those that wait have no identity yet, and a number instead."""
    known = {pending.run.run_id: pending.expected_seconds for pending in plan.pending}
    return known | {f"waiting {place}": waiting.expected_seconds for place, waiting in enumerate(plan.waiting)}


def warn_of_ends(searches: Iterable[PlannedSearch]) -> None:
    """One line for each choice at an end of its grid."""
    for one in searches:
        if one.tuned.ends:
            warn(
                f"{one.tuned.line}: a better may lie beyond; widen the grid, or give "
                f"--set {_field(one.tuned, one.tuned.ends[0])}=VALUE"
            )


def _without_setting(plan: Plan) -> list[str]:
    """One line for each grid of which no point came to anything."""
    lines = []
    for one in plan.searches:
        dropped = sum(run.run.search.key == one.search.key for run in plan.dropped)
        if dropped:
            field = _field(one.tuned, next(iter(one.search.grid)))
            lines.append(f"{one.tuned.line}; its reported runs ({dropped}) are not made, give --set {field}=VALUE")
    return lines


def _field(tuned: Tuned, name: str) -> str:
    """A hyperparameter as the command line names it."""
    return f"{tuned.search.points[0].optimizer.name}.{name}"


@contextlib.contextmanager
def _wandb_following(store: Path) -> Iterator[None]:
    """Let W&B follow the store meanwhile; whatever becomes of it, the runs do not wait for it."""
    command = [sys.executable, "-m", "apo_bench", "wandb", "push", "--follow", "--store", str(store)]
    follower = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603 - our own command
    patience = 0.0  # whoever stops the command by force does not wait for W&B
    try:
        yield
        patience = _WANDB_SECONDS
    finally:
        if follower.stdin:
            follower.stdin.close()
        try:
            follower.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            warn("W&B is still busy; it goes on in the background")
