"""What a command is about to do: its runs, what of them is already done, what must be done again and why, how long."""

import dataclasses
from collections.abc import Mapping
from statistics import median
from typing import Any

import msgspec

from apo_bench.errors import DataError
from apo_bench.fingerprint import fingerprint
from apo_bench.grid import unroll
from apo_bench.record import Fingerprint, RunRecord
from apo_bench.registry import Registry
from apo_bench.spec import Device, RunSpec, Suite
from apo_bench.store import Scan


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
class Plan:
    """All runs of a suite in their order.

    Attributes:
        suite: The suite, without the tasks whose data cannot be had.
        runs: Its runs.
        unavailable: What is wrong, one line for each dataset that cannot be had.
        by_entry: The runs of each task of the suite, by its place; a run that two of them share is in both.
        asked: The suite with all its tasks, those whose data cannot be had included.
        tasks: The loaded tasks of ``asked``, by name.
    """

    suite: Suite
    runs: tuple[PlannedRun, ...]
    unavailable: tuple[str, ...]
    by_entry: tuple[tuple[PlannedRun, ...], ...]
    asked: Suite
    tasks: Mapping[str, Any]

    @property
    def pending(self) -> tuple[PlannedRun, ...]:
        """Runs still to be made."""
        return tuple(planned for planned in self.runs if planned.reused is None)

    @property
    def expected_seconds(self) -> float | None:
        """Training time of all pending runs one after the other; `None` when one of them is unknown."""
        times = [planned.expected_seconds for planned in self.pending]
        known = [time for time in times if time is not None]
        return sum(known) if len(known) == len(times) else None


def plan(
    suite: Suite,
    device: Device,
    tasks: Registry,
    optimizers: Registry,
    scan: Scan,
    *,
    compile: bool = False,  # noqa: A002 - torch's name
) -> Plan:
    """Unroll a suite against a store. Imports the plugins that the suite names.

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
    runs = unroll(suite, competitors, device, compile=compile)
    speeds = _Speeds(scan, loaded_tasks)
    planned = []
    for run in runs:
        now = fingerprint(tasks[run.task], optimizers[run.optimizer.name], digests[run.task])
        reused = scan.find_result(run.run_id, now)
        finished = [record for record in scan.records if record.run_id == run.run_id and record.is_result]
        planned.append(
            PlannedRun(
                run=run,
                fingerprint=now,
                reused=reused,
                changed=finished[-1].fingerprint.changes(now) if finished and reused is None else (),
                expected_seconds=speeds.expected_seconds(run),
            )
        )
    by_id = {run.run.run_id: run for run in planned}
    alone = [msgspec.structs.replace(suite, tasks=(entry,)) for entry in suite.tasks]
    by_entry = [unroll(part, competitors, device, compile=compile) for part in alone]
    grouped = tuple(tuple(by_id[run.run_id] for run in runs) for runs in by_entry)
    return Plan(suite, tuple(planned), tuple(unavailable), grouped, asked, loaded_tasks)


class _Speeds:
    """Seconds an epoch takes: from the store's own records first, then the task's stated reference."""

    def __init__(self, scan: Scan, tasks: Mapping[str, Any]) -> None:
        self._tasks = tasks
        self._by_cell: dict[tuple[object, ...], list[float]] = {}
        for record in scan.records:
            if record.cost is None or record.task is None or record.cost.steps == 0:
                continue
            epochs = record.cost.steps / record.task.steps_per_epoch
            run = record.spec
            for key in (
                (run.task, run.device, run.optimizer.name, run.precision),
                (run.task, run.device),
            ):
                self._by_cell.setdefault(key, []).append(record.cost.train_seconds / epochs)

    def expected_seconds(self, run: RunSpec) -> float | None:
        for key in ((run.task, run.device, run.optimizer.name, run.precision), (run.task, run.device)):
            if key in self._by_cell:
                return median(self._by_cell[key]) * run.budget.epochs
        reference = self._tasks[run.task].reference_epoch_seconds
        if reference is None or run.device is not Device.CPU:
            return None
        return float(reference) * run.budget.epochs
