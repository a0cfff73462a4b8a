"""What a command is about to do: its runs, what of them is already done, what must be done again and why, how long.

A run whose setting is to be chosen from a grid waits for the runs that try it, until the store holds them all.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from apo_bench.evidence.tuning import GridSearch, Tuned, tune
from apo_bench.planning.expected import Speeds, total
from apo_bench.planning.grid import Waiting, unroll
from apo_bench.planning.reuse import Reuse, Sources
from apo_bench.plugins.registry import BrokenPluginError, Registry
from apo_bench.records.run import Fingerprint, Role, RunRecord
from apo_bench.records.spec import Device, RunSpec
from apo_bench.records.suite import Suite
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
        role: Whether it is reported or tries a setting.
    """

    run: RunSpec
    fingerprint: Fingerprint
    reused: RunRecord | None
    changed: tuple[str, ...]
    expected_seconds: float | None
    role: Role = Role.REPORTED


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
        unavailable: What is wrong, one line for each dataset that cannot be had, and for each broken plugin.
        by_entry: The runs of each task of the suite, by its place.
        asked: The suite with all its tasks, those without data included, without plugins that cannot be used.
        tasks: The loaded tasks of ``asked``, by name.
        broken: Those lines of ``unavailable`` that are of plugins; ``asked`` is without what needs them.
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
    broken: tuple[str, ...] = ()
    searches: tuple[PlannedSearch, ...] = ()
    waiting: tuple[WaitingRun, ...] = ()
    dropped: tuple[WaitingRun, ...] = ()

    @property
    def tuning(self) -> tuple[PlannedRun, ...]:
        """The runs that try settings, each once: grids may overlap."""
        return _distinct(planned for search in self.searches for planned in search.runs)

    @property
    def pending_tuning(self) -> tuple[PlannedRun, ...]:
        """Those that are still to be made before a setting is chosen."""
        return _distinct(
            planned
            for search in self.searches
            if not search.tuned.is_final
            for planned in search.runs
            if planned.reused is None
        )

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
    """Unroll a suite against a store. Imports the plugins that the suite names; the runs of a broken one are left out.

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
        UsageError: Unknown task or optimizer, or unknown hyperparameter, or all plugins are broken.
    """
    sources = Sources(tasks, optimizers)
    suite, broken = _usable(suite, sources, optimizers)
    loaded = {entry.task: sources.task(entry.task) for entry in suite.tasks}
    competitors = {entry.optimizer: optimizers[entry.optimizer].load() for entry in suite.all_competitors()}
    available = tuple(entry for entry in suite.tasks if sources.has_data(entry.task))
    own = msgspec.structs.replace(suite, tasks=available)
    unrolled = unroll(own, competitors, device, compile=compile)
    planner = _Planner(sources, scan, Speeds(scan, loaded), after_tuning=after_tuning)
    searches = {run.search.key: run.search for run in unrolled.runs if isinstance(run, Waiting)}
    found = {key: planner.search(search) for key, search in searches.items()}
    placed = {run: planner.placed(run, found) for run in unrolled.runs}
    by_entry = tuple(_entry([placed[run] for run in runs], runs, found) for runs in unrolled.by_entry)
    waits = [one for one in placed.values() if isinstance(one, WaitingRun)]
    return Plan(
        suite=own,
        runs=_distinct(one for one in placed.values() if isinstance(one, PlannedRun)),
        unavailable=(*broken, *dict.fromkeys(sources.missing.values())),
        broken=broken,
        by_entry=by_entry,
        asked=suite,
        tasks=loaded,
        searches=tuple(found.values()),
        waiting=tuple(one for one in waits if not found[one.run.search.key].tuned.is_final),
        dropped=tuple(one for one in waits if found[one.run.search.key].tuned.is_final),
    )


def _usable(suite: Suite, sources: Sources, optimizers: Registry) -> tuple[Suite, tuple[str, ...]]:
    """A suite without what needs a broken plugin, and one line for each of these.

    Raises:
        BrokenPluginError: Nothing is left of it.
    """
    broken: dict[tuple[str, str], BrokenPluginError] = {}
    for entry in suite.tasks:
        try:
            sources.task(entry.task)
        except BrokenPluginError as error:
            broken["task", entry.task] = error
    for name in dict.fromkeys(declared.optimizer for declared in suite.all_competitors()):
        try:
            optimizers[name].load()
        except BrokenPluginError as error:
            broken["optimizer", name] = error
    if not broken:
        return suite, ()
    entries = []
    for entry in suite.tasks:
        left = tuple(one for one in suite.competitors(entry) if ("optimizer", one.optimizer) not in broken)
        if left and ("task", entry.task) not in broken:
            entries.append(msgspec.structs.replace(entry, optimizers=left))
    if not entries:
        raise next(iter(broken.values()))
    return msgspec.structs.replace(suite, tasks=tuple(entries)), tuple(dict.fromkeys(map(str, broken.values())))


@dataclasses.dataclass(frozen=True)
class _Planner:
    """Looks runs up in a store.

    Attributes:
        sources: Code and data that are here now.
        scan: What the store holds.
        speeds: How long runs may take.
        after_tuning: Whether points without a result are given up.
    """

    sources: Sources
    scan: Scan
    speeds: Speeds
    after_tuning: bool

    def run(self, run: RunSpec, role: Role = Role.REPORTED) -> PlannedRun:
        """A run whose setting is known."""
        reuse = Reuse.of(run, self.sources, self.scan)
        return PlannedRun(
            run=run,
            fingerprint=reuse.present,
            reused=reuse.record,
            changed=reuse.changed,
            expected_seconds=self.speeds.expected_seconds(run),
            role=role,
        )

    def search(self, search: GridSearch) -> PlannedSearch:
        """A grid search with what came out of it so far."""
        tried = tuple(self.run(point, Role.TUNING) for point in search.points)
        records = {one.run.run_id: one.reused for one in tried if one.reused is not None}
        if self.after_tuning:
            attempts = (self.scan.attempt(one.run.run_id, one.fingerprint) for one in tried)
            records |= {made.run_id: made for made in attempts if made is not None and not made.is_result}
        return PlannedSearch(search, tried, tune(search, records, final=self.after_tuning))

    def placed(
        self, run: RunSpec | Waiting, searches: Mapping[tuple[str, ...], PlannedSearch]
    ) -> PlannedRun | WaitingRun:
        """A reported run: itself once its setting is chosen, until then one that waits."""
        if isinstance(run, RunSpec):
            return self.run(run)
        chosen = searches[run.search.key].tuned.chosen
        if chosen is None:
            return WaitingRun(run, self.speeds.expected_seconds(run.first))
        return self.run(run.at(chosen))


def _entry(
    placed: Sequence[PlannedRun | WaitingRun],
    runs: Iterable[RunSpec | Waiting],
    searches: Mapping[tuple[str, ...], PlannedSearch],
) -> PlannedEntry:
    """What a task of the suite has of the plan."""
    tried = dict.fromkeys(run.search.key for run in runs if isinstance(run, Waiting))
    return PlannedEntry(
        runs=_distinct(one for one in placed if isinstance(one, PlannedRun)),
        waiting=tuple(one for one in placed if isinstance(one, WaitingRun)),
        tuning=_distinct(one for key in tried for one in searches[key].runs),
    )


def _distinct(runs: Iterable[PlannedRun]) -> tuple[PlannedRun, ...]:
    """Each run once, where it first stands: two searches may have chosen the same."""
    return tuple({one.run.run_id: one for one in runs}.values())
