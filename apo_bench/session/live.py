"""The leaderboard file of a plan, up to date while its runs finish."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from apo_bench.evidence.leaderboard import Leaderboard, planned_leaderboard
from apo_bench.evidence.tuning import tune
from apo_bench.execution.watcher import Watcher
from apo_bench.files import write_durably
from apo_bench.planning.plan import Plan
from apo_bench.records.outcome import Outcome, message_of
from apo_bench.records.probe import ProbeRecord
from apo_bench.records.run import Role, RunRecord
from apo_bench.records.spec import RunSpec
from apo_bench.render.leaderboard import leaderboard_markdown
from apo_bench.say import warn
from apo_bench.store.store import Store

_SECONDS = 2.0
"""Shortest time between two rewrites."""
_SHARE = 0.05
"""Of the time, at most so much is spent on rewriting: a long plan's runs do not wait for its long page."""


class LiveLeaderboard(Watcher):
    """Reads the record of each run that finishes, and rewrites the leaderboard.

    Args:
        store: Where records are read and the leaderboard is written.
        plan: Whose runs it shows.
        probes: What steps cost, oldest first.

    Attributes:
        path: The file.
        lost: Runs that ended without a record, by ``run_id``: title and message.
    """

    def __init__(self, store: Store, plan: Plan, probes: Sequence[ProbeRecord] = ()) -> None:
        self.path = store.leaderboards / f"{plan.suite.name}-{plan.suite.scale}.md"
        self._store = store
        self._probes = probes
        self._records: dict[str, RunRecord] = {}
        self._next = 0.0
        self._warn: Callable[[str], None] = warn
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

    @contextlib.contextmanager
    def warning(self, warn: Callable[[str], None]) -> Iterator[None]:
        """Meanwhile, say what goes wrong with ``warn``."""
        before, self._warn = self._warn, warn
        try:
            yield
        finally:
            self._warn = before

    def publish(self) -> Leaderboard:
        """Write the leaderboard of the plan's runs as they stand now."""
        board = planned_leaderboard(
            self._plan.suite.name,
            self._plan.suite.scale,
            self._records.values(),
            [planned.run for planned in self._plan.runs],
            [tune(one.search, self._records, final=one.tuned.is_final) for one in self._plan.searches],
            self._probes,
        )
        write_durably(self.path, leaderboard_markdown(board).encode())
        return board

    def finished(self, run: RunSpec, outcome: Outcome) -> None:
        """Read the run's record and rewrite the leaderboard."""
        # a result of earlier code does not stand in for today's failure
        wanted = self._fingerprints.get(run.run_id)
        found = self._store.scan(run.run_id).newest(wanted)
        self._records |= found
        self._share(found.values())  # another command may have finished it, for its own suite
        if not found:
            self.lost[run.run_id] = (run.title, message_of(outcome) or "interrupted")
        begin = time.monotonic()
        if begin >= self._next:
            try:
                self.publish()
            except OSError as error:
                self._warn(f"cannot write {self.path} ({error.strerror}); the runs go on")
            end = time.monotonic()
            self._next = end + max(_SECONDS, (end - begin) / _SHARE)

    def _share(self, records: Iterable[RunRecord]) -> None:
        """Let runs that were made for another suite count in this one too."""
        suite, scale = self._plan.suite.name, self._plan.suite.scale
        tuning = {planned.run.run_id for planned in self._plan.tuning}
        others = {
            record.run_id: Role.TUNING if record.run_id in tuning else Role.REPORTED
            for record in records
            if (record.suite, record.scale) != (suite, scale)
        }
        try:
            self._store.share(suite, scale, others)
        except OSError as error:
            self._warn(f"{len(others)} runs of other suites are not counted in this one ({error.strerror})")
