"""How long a run may take, as far as anything is known of it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from apo_bench.records.cell import Cell, Conditions, Contender, Workload
from apo_bench.records.spec import Device, RunSpec
from apo_bench.store.scan import Scan


def total(times: Iterable[float | None]) -> float | None:
    """Sum of times; `None` when one of them is unknown."""
    known = 0.0
    for time in times:
        if time is None:
            return None
        known += time
    return known


class Speeds:
    """Seconds an epoch takes: from the store's own records first, then the task's stated reference."""

    def __init__(self, scan: Scan, tasks: Mapping[str, Any]) -> None:
        self._tasks = tasks
        seconds: dict[Contender | Workload, list[float]] = defaultdict(list)
        for record in scan.records:
            if record.cost is None or record.task is None or record.cost.steps == 0:
                continue
            epochs = record.cost.steps / record.task.steps_per_epoch
            for kin in _kin(record.spec):
                seconds[kin].append(record.cost.train_seconds / epochs)
        self._epoch = {kin: median(own) for kin, own in seconds.items()}

    def expected_seconds(self, run: RunSpec) -> float | None:
        """Training seconds of a run; `None` where nothing is known."""
        for kin in _kin(run):
            if kin in self._epoch:
                return self._epoch[kin] * run.budget.epochs
        reference = self._tasks[run.task].reference_epoch_seconds
        if reference is None or run.device is not Device.CPU:
            return None
        return float(reference) * run.budget.epochs


def _kin(run: RunSpec) -> tuple[Contender, Workload]:
    """Runs whose epochs may take as long, whatever their budget: of the same optimizer, then of any."""
    workload = Cell.of(run).workload._replace(epochs=1.0)
    return Contender(Conditions(workload, run.precision, compile=False), run.optimizer.name), workload
