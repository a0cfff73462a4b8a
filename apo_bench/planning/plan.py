"""What a command is about to do: its runs, what of them is already done, what must be done again and why, how long.

A run whose setting is to be chosen from a grid waits for the runs that try it, until the store holds them all.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec

from apo_bench.errors import DataError
from apo_bench.evidence.tuning import GridSearch, Tuned, tune
from apo_bench.planning.expected import Speeds, total
from apo_bench.planning.fingerprint import fingerprint
from apo_bench.planning.grid import Waiting, unroll
from apo_bench.plugins.registry import Registry
from apo_bench.records.run import Fingerprint, RunRecord
from apo_bench.records.spec import Device, RunSpec
from apo_bench.records.suite import Suite, TaskEntry
from apo_bench.store.scan import Scan


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a plan.

    Attributes:
        run: What is to be run.
        fingerprint: Code and data it would depend on now.
        reused: A finished record that is still valid.
        changed: Parts of the fingerprint in which the newest finished record differs; empty without such a record.
        expected_seconds: Training time to be expected, `None` where nothing is known.
    """

    run: RunSpec
    fingerprint: Fingerprint
    reused: RunRecord | None
    changed: tuple[str, ...]
    expected_seconds: float | None


@dataclasses.dataclass(frozen=True)
class WaitingRun:
    """A run whose setting is not chosen.

    Attributes:
        run: The run as far as it is known.
        expected_seconds: Training time to be expected, `None` where nothing is known.
    """

    run: Waiting
    expected_seconds: float | None


@dataclasses.dataclass(frozen=True)
class PlannedSearch:
    """A grid search of a plan.

    Attributes:
        search: The search.
        runs: Its tuning runs.
        tuned: What came out of them so far.
    """

    search: GridSearch
    runs: tuple[PlannedRun, ...]
    tuned: Tuned


@dataclasses.dataclass(frozen=True)
class PlannedEntry:
    """One task of a suite; a run that two of them share is in both.

    Attributes:
        runs: Its reported runs.
        waiting: Those whose setting is not chosen, or cannot be.
        tuning: Its tuning runs.
    """

    runs: tuple[PlannedRun, ...]
    waiting: tuple[WaitingRun, ...]
    tuning: tuple[PlannedRun, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """All runs of a suite in their order.

    Attributes:
        suite: The suite, without the tasks whose data cannot be had.
        runs: Its reported runs whose setting is known.
        unavailable: What is wrong, one line for each dataset that cannot be had.
        by_entry: The runs of each task of the suite, by its place.
        asked: The suite with all its tasks, those whose data cannot be had included.
        tasks: The loaded tasks of ``asked``, by name.
        searches: The grid searches, each once.
        waiting: Reported runs to be made once their setting is chosen.
        dropped: Reported runs that cannot be made, because no point of their grid came to a validation metric.
    """

    suite: Suite
    runs: tuple[PlannedRun, ...]
    unavailable: tuple[str, ...]
    by_entry: tuple[PlannedEntry, ...]
    asked: Suite
    tasks: Mapping[str, Any]
    searches: tuple[PlannedSearch, ...] = ()
    waiting: tuple[WaitingRun, ...] = ()
    dropped: tuple[WaitingRun, ...] = ()

    @property
    def tuning(self) -> tuple[PlannedRun, ...]:
        """The runs that try settings, each once: grids may overlap."""
        return tuple({planned.run.run_id: planned for search in self.searches for planned in search.runs}.values())

    @property
    def pending_tuning(self) -> tuple[PlannedRun, ...]:
        """Those that are still to be made before a setting is chosen."""
        pending = {
            planned.run.run_id: planned
            for search in self.searches
            if not search.tuned.is_final
            for planned in search.runs
            if planned.reused is None
        }
        return tuple(pending.values())

    @property
    def pending_reported(self) -> tuple[PlannedRun, ...]:
        """Reported runs still to be made whose setting is known."""
        return tuple(planned for planned in self.runs if planned.reused is None)

    @property
    def pending(self) -> tuple[PlannedRun, ...]:
        """Runs still to be made, without those that wait."""
        return (*self.pending_tuning, *self.pending_reported)

    @property
    def pending_count(self) -> int:
        """Runs still to be made, with those that wait."""
        return len(self.pending) + len(self.waiting)

    @property
    def count(self) -> int:
        """All runs, of whatever kind."""
        return len(self.tuning) + len(self.runs) + len(self.waiting) + len(self.dropped)

    @property
    def expected_seconds(self) -> float | None:
        """Training time of all runs still to be made, one after the other; `None` when one of them is unknown."""
        known = [planned.expected_seconds for planned in self.pending]
        return total([*known, *(waiting.expected_seconds for waiting in self.waiting)])


def plan(
    suite: Suite,
    device: Device,
    tasks: Registry,
    optimizers: Registry,
    scan: Scan,
    *,
    compile: bool = False,  # noqa: A002 - torch's name
    after_tuning: bool = False,
) -> Plan:
    """Unroll a suite against a store. Imports the plugins that the suite names.

    Args:
        suite: What to run.
        device: Kind of device.
        tasks: Registered tasks.
        optimizers: Registered optimizers.
        scan: What the store holds.
        compile: Whether models run through `torch.compile`.
        after_tuning: Whether the tuning runs have had their turn: a point without a result is then given up, and the
            choice is among the others. Otherwise the choice waits for it.

    Raises:
        UsageError: Unknown or broken task or optimizer, or unknown hyperparameter.
    """
    loaded_tasks = {entry.task: tasks[entry.task].load()() for entry in suite.tasks}
    competitors = {entry.optimizer: optimizers[entry.optimizer].load() for entry in suite.all_competitors()}
    digests: dict[str, str] = {}
    unavailable: dict[str, None] = {}
    for name, task in loaded_tasks.items():
        try:
            digests[name] = task.dataset.digest()
        except DataError as error:
            unavailable[str(error)] = None
    asked = suite
    suite = msgspec.structs.replace(suite, tasks=tuple(entry for entry in suite.tasks if entry.task in digests))
    speeds = Speeds(scan, loaded_tasks)

    def planned(run: RunSpec) -> PlannedRun:
        now = fingerprint(tasks[run.task], optimizers[run.optimizer.name], digests[run.task])
        reused = scan.find_result(run.run_id, now)
        finished = [record for record in scan.records if record.run_id == run.run_id and record.is_result]
        return PlannedRun(
            run=run,
            fingerprint=now,
            reused=reused,
            changed=finished[-1].fingerprint.changes(now) if finished and reused is None else (),
            expected_seconds=speeds.expected_seconds(run),
        )

    unrolled = unroll(suite, competitors, device, compile=compile)
    searches: dict[tuple[str, ...], PlannedSearch] = {}
    for search in {run.search.key: run.search for run in unrolled if isinstance(run, Waiting)}.values():
        tried = tuple(planned(point) for point in search.points)
        records = {one.run.run_id: one.reused for one in tried if one.reused is not None}
        if after_tuning:
            newest = scan.newest()
            failures = {key: newest[key] for key in search.key if key in newest and not newest[key].is_result}
            records = failures | records
        searches[search.key] = PlannedSearch(search, tried, tune(search, records, final=after_tuning))

    def resolved(run: RunSpec | Waiting) -> RunSpec | Waiting:
        """The run itself once its setting is chosen."""
        if isinstance(run, RunSpec):
            return run
        chosen = searches[run.search.key].tuned.chosen
        return run if chosen is None else run.at(chosen)

    waits = [run for run in map(resolved, unrolled) if isinstance(run, Waiting)]
    by_id = {run.run_id: planned(run) for run in map(resolved, unrolled) if isinstance(run, RunSpec)}

    def alone(entry: TaskEntry) -> PlannedEntry:
        own = unroll(msgspec.structs.replace(suite, tasks=(entry,)), competitors, device, compile=compile)
        known = dict.fromkeys(run.run_id for run in map(resolved, own) if isinstance(run, RunSpec))
        tried = dict.fromkeys(run.search.key for run in own if isinstance(run, Waiting))
        return PlannedEntry(
            runs=tuple(by_id[run_id] for run_id in known),
            waiting=tuple(waiting(run) for run in map(resolved, own) if isinstance(run, Waiting)),
            tuning=tuple({one.run.run_id: one for key in tried for one in searches[key].runs}.values()),
        )

    def waiting(run: Waiting) -> WaitingRun:
        return WaitingRun(run, speeds.expected_seconds(run.first))

    return Plan(
        suite=suite,
        runs=tuple(by_id.values()),
        unavailable=tuple(unavailable),
        by_entry=tuple(alone(entry) for entry in suite.tasks),
        asked=asked,
        tasks=loaded_tasks,
        searches=tuple(searches.values()),
        waiting=tuple(waiting(run) for run in waits if not searches[run.search.key].tuned.is_final),
        dropped=tuple(waiting(run) for run in waits if searches[run.search.key].tuned.is_final),
    )
