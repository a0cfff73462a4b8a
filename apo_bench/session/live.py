"""The leaderboard file of a plan, up to date while its runs finish."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator

from apo_bench.evidence.cells import cells
from apo_bench.evidence.leaderboard import leaderboard_of, planned_leaderboard
from apo_bench.evidence.rows import Leaderboard
from apo_bench.evidence.tuning import tune
from apo_bench.execution.watcher import Watcher
from apo_bench.files import write_durably
from apo_bench.planning.installed import InstalledCode
from apo_bench.planning.plan import Plan
from apo_bench.plugins.registry import optimizers, tasks
from apo_bench.records.outcome import Outcome, message_of
from apo_bench.records.run import Fingerprint, Role, RunRecord
from apo_bench.records.spec import RunSpec
from apo_bench.render.leaderboard import leaderboard_markdown
from apo_bench.say import warn
from apo_bench.store.scan import Scan
from apo_bench.store.store import Store
from apo_bench.suites import declared_suite

_SECONDS = 2.0
"""Shortest time between two rewrites."""
_SHARE = 0.05
"""Of the time, at most so much is spent on rewriting: a long plan's runs do not wait for its long page."""


class LiveLeaderboard(Watcher):
    """Reads the record of each run that finishes, and rewrites the leaderboard.

    Args:
        store: Where records are read and the leaderboard is written.
        plan: Whose runs it shows.
        scan: What the store held before; what of it belongs to the suite and not to the plan stays on the page.

    Attributes:
        path: The file.
        lost: Runs that ended without a record, by ``run_id``: title and message.
    """

    def __init__(self, store: Store, plan: Plan, scan: Scan | None = None) -> None:
        self.path = store.leaderboards / f"{plan.suite.name}-{plan.suite.scale}.md"
        self._store = store
        self._probes = scan.probes if scan else ()
        self._held = scan.of(plan.suite.name, plan.suite.scale) if scan else []
        self._installed = InstalledCode(tasks(), optimizers())
        self._records: dict[str, RunRecord] = {}
        self._next = 0.0
        self._warn: Callable[[str], None] = warn
        self.lost: dict[str, tuple[str, str]] = {}
        self.show(plan)

    def show(self, plan: Plan) -> None:
        """Show this plan from now on: the next one knows the settings that its predecessor's tuning runs chose."""
        self._plan = plan
        runs = (*plan.tuning, *plan.runs, *plan.pending)
        self._fingerprints = {planned.run.run_id: planned.fingerprint for planned in runs}
        self._codes = {(planned.run.task, planned.run.optimizer.name): planned.fingerprint for planned in runs}
        self._tuning = {planned.run.run_id for planned in plan.tuning}
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
        """Write the suite's page as it stands now; returns the leaderboard of the plan's own runs."""
        name, scale = self._plan.suite.name, self._plan.suite.scale
        planned = [one.run for one in self._plan.runs]
        # whole, as `report` has it: the plan may be of a part, and must not come to other verdicts from the same runs
        declared = declared_suite(name, scale) or self._plan.suite
        tuned = [tune(one.search, self._records, final=one.tuned.is_final) for one in self._plan.searches]
        board = planned_leaderboard(name, scale, self._records.values(), planned, tuned, self._probes, declared)
        others = [record for record in self._held if record.run_id not in self._fingerprints]
        whole = board
        if others:
            own = [record.under(suite=name, scale=scale, role=self._role(record)) for record in self._records.values()]
            held = cells([*others, *own], name, scale, code=self._code, planned=planned)
            whole = leaderboard_of(held, self._probes, tuned, in_order=True, declared=declared)
        write_durably(self.path, leaderboard_markdown(whole).encode())
        return board

    def _code(self, run: RunSpec) -> Fingerprint | None:
        """The code of the plan, where it has the task and the optimizer of a run; else the installed one."""
        return self._codes.get((run.task, run.optimizer.name)) or self._installed(run)

    def _role(self, record: RunRecord) -> Role:
        return Role.TUNING if record.run_id in self._tuning else Role.REPORTED

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
        others = {
            record.run_id: self._role(record) for record in records if (record.suite, record.scale) != (suite, scale)
        }
        try:
            self._store.share(suite, scale, others)
        except OSError as error:
            self._warn(f"{len(others)} runs of other suites are not counted in this one ({error.strerror})")
