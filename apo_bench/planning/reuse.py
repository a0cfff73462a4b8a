"""Is a finished run still valid? It is while the code and the data that it depends on are the ones that are here."""

import dataclasses
from typing import TYPE_CHECKING

from apo_bench.errors import DataError
from apo_bench.planning.fingerprint import fingerprint
from apo_bench.plugins.datasets import digest_of
from apo_bench.plugins.registry import BrokenPluginError, Registry
from apo_bench.records.run import Fingerprint, RunRecord
from apo_bench.records.spec import RunSpec
from apo_bench.store.scan import Scan

if TYPE_CHECKING:
    from apo_bench.plugins.task import Task


class Sources:
    """The code and the data that are here now. Tasks are imported, and their data digested, when they are asked for.

    Args:
        tasks: Registered tasks.
        optimizers: Registered optimizers.

    Attributes:
        missing: What is wrong with a task or its data, by its name, as far as tasks have been asked for.
    """

    def __init__(self, tasks: Registry, optimizers: Registry) -> None:
        self.tasks = tasks
        self.optimizers = optimizers
        self.missing: dict[str, str] = {}
        self._loaded: dict[str, Task] = {}
        self._digests: dict[str, str] = {}
        self._fingerprints: dict[tuple[str, str], Fingerprint | None] = {}

    def task(self, name: str) -> "Task":
        """A task, imported once.

        Raises:
            UsageError: Unknown.
            BrokenPluginError: Its plugin fails to import.
        """
        if name not in self._loaded:
            self._loaded[name] = self.tasks[name].task()
        return self._loaded[name]

    def has_data(self, task: str) -> bool:
        """Whether the data of a task can be had; `missing` says what is wrong where they cannot."""
        if task not in self._digests and task not in self.missing:
            try:
                self._digests[task] = digest_of(self.task(task).dataset)
            except (DataError, BrokenPluginError) as error:
                self.missing[task] = str(error)
        return task in self._digests

    def fingerprint(self, run: RunSpec) -> Fingerprint | None:
        """What a run would depend on now; `None` where its task, its optimizer or its data cannot be had here."""
        key = run.task, run.optimizer.name
        if key not in self._fingerprints:
            self._fingerprints[key] = self._fingerprint(*key)
        return self._fingerprints[key]

    def _fingerprint(self, task: str, optimizer: str) -> Fingerprint | None:
        if task not in self.tasks.names() or optimizer not in self.optimizers.names() or not self.has_data(task):
            return None
        return fingerprint(self.tasks[task], self.optimizers[optimizer], self._digests[task])


@dataclasses.dataclass(frozen=True)
class Reuse:
    """What a store holds of a run, beside what is here now.

    Attributes:
        present: Code and data that the run would depend on now.
        record: The newest result that was made with them; `None` where there is none.
        changed: Parts of the fingerprint in which the newest result differs; empty where it can be reused, or is none.
    """

    present: Fingerprint
    record: RunRecord | None
    changed: tuple[str, ...]

    @classmethod
    def of(cls, run: RunSpec, sources: Sources, scan: Scan) -> "Reuse":
        """Look a run up.

        Raises:
            ValueError: Its task, its optimizer or its data are not here.
        """
        present = sources.fingerprint(run)
        if present is None:
            raise ValueError(f"{run.title} cannot be run here")
        record = scan.find_result(run.run_id, present)
        results = scan.results(run.run_id)
        changed = results[-1].fingerprint.changes(present) if results and record is None else ()
        return cls(present, record, changed)
