"""Keep a plan's leaderboard file up to date while its runs finish."""

import time
from collections.abc import Iterable, Sequence

from apo_bench.evidence.leaderboard import Leaderboard, leaderboard
from apo_bench.executors.local import Watcher
from apo_bench.files import write_durably
from apo_bench.plan import Plan
from apo_bench.probe_record import ProbeRecord
from apo_bench.record import Event, Outcome, RunRecord
from apo_bench.report.markdown import leaderboard_markdown
from apo_bench.spec import RunSpec
from apo_bench.store import Store
from apo_bench.tuning import tune

_SECONDS = 2.0
"""Shortest time between two rewrites."""


class Publisher(Watcher):
    """Passes everything on to a display and rewrites the leaderboard as cells finish.

    Args:
        store: Where records are read and the leaderboard is written.
        plan: Whose runs it shows.
        probes: What steps cost, oldest first.

    Attributes:
        interrupted: Whether Ctrl-C came: nothing more is to be started.
        lost: Runs that ended without a record, by ``run_id``: title and message.
    """

    def __init__(self, store: Store, plan: Plan, probes: Sequence[ProbeRecord] = ()) -> None:
        self.path = store.leaderboards / f"{plan.suite.name}-{plan.suite.scale}.md"
        self._store = store
        self._probes = probes
        self._display = Watcher()
        self._records: dict[str, RunRecord] = {}
        self._next = 0.0
        self.interrupted = False
        self.lost: dict[str, tuple[str, str]] = {}
        self.show(plan)

    def show(self, plan: Plan) -> None:
        """Show this plan from now on: the next one knows the settings that its predecessor's tuning runs chose."""
        self._plan = plan
        self._fingerprints = {
            planned.run.run_id: planned.fingerprint for planned in (*plan.tuning, *plan.runs, *plan.pending)
        }
        self._records |= {
            planned.run.run_id: planned.reused for planned in (*plan.tuning, *plan.runs) if planned.reused is not None
        }

        self._share(self._records.values())

    def _share(self, records: Iterable[RunRecord]) -> None:
        """Let runs that were made for another suite count in this one too."""
        suite, scale = self._plan.suite.name, self._plan.suite.scale
        others = [record.run_id for record in records if (record.suite, record.scale) != (suite, scale)]
        try:
            self._store.share(suite, scale, others)
        except OSError as error:
            self._display.warn(f"{len(others)} runs of other suites are not counted in this one ({error.strerror})")

    def follow(self, display: Watcher) -> None:
        """Pass events on to ``display``."""
        self._display = display

    def publish(self) -> Leaderboard:
        """Write the leaderboard of the plan's runs as they stand now."""
        board = leaderboard(
            self._plan.suite.name,
            self._plan.suite.scale,
            self._records.values(),
            [planned.run for planned in self._plan.runs],
            [tune(one.search, self._records, final=one.tuned.is_final) for one in self._plan.searches],
            self._probes,
        )
        write_durably(self.path, leaderboard_markdown(board).encode())
        return board

    def started(self, run: RunSpec) -> None:
        """Pass on."""
        self._display.started(run)

    def event(self, run: RunSpec, event: Event) -> None:
        """Pass on."""
        self._display.event(run, event)

    def finished(self, run: RunSpec, outcome: Outcome) -> None:
        """Read the run's record, rewrite the leaderboard, pass on."""
        # a result of earlier code does not stand in for today's failure
        wanted = self._fingerprints.get(run.run_id)
        found = self._store.scan(run.run_id).newest(wanted)
        self._records |= found
        self._share(found.values())  # another command may have finished it, for its own suite
        if not found:
            self.lost[run.run_id] = (run.title, getattr(outcome, "message", "interrupted"))
        if time.monotonic() >= self._next:
            try:
                self.publish()
            except OSError as error:
                self._display.warn(f"cannot write {self.path} ({error.strerror}); the runs go on")
            self._next = time.monotonic() + _SECONDS
        self._display.finished(run, outcome)

    def elsewhere(self, runs: int) -> None:
        """Pass on."""
        self._display.elsewhere(runs)

    def draining(self, runs: int) -> None:
        """Remember, and pass on."""
        self.interrupted = True
        self._display.draining(runs)
