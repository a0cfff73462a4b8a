"""With which code a run would be made now, as far as it can be told without importing a plugin, or torch."""

from apo_bench.evidence.cells import ANY_DATA
from apo_bench.planning.fingerprint import fingerprint
from apo_bench.plugins.registry import Registry
from apo_bench.records.run import Fingerprint
from apo_bench.records.spec import RunSpec


class InstalledCode:
    """The fingerprint of the installed code, for commands that read; the data is not looked at.

    Args:
        tasks: Registered tasks.
        optimizers: Registered optimizers.
    """

    def __init__(self, tasks: Registry, optimizers: Registry) -> None:
        self._tasks = tasks
        self._optimizers = optimizers
        self._found: dict[tuple[str, str], Fingerprint | None] = {}

    def __call__(self, run: RunSpec) -> Fingerprint | None:
        """Of a run; `None` where its task or its optimizer is not installed, or its source cannot be read."""
        key = run.task, run.optimizer.name
        if key not in self._found:
            self._found[key] = self._fingerprint(*key)
        return self._found[key]

    def _fingerprint(self, task: str, optimizer: str) -> Fingerprint | None:
        if task not in self._tasks.names() or optimizer not in self._optimizers.names():
            return None
        try:
            return fingerprint(self._tasks[task], self._optimizers[optimizer], ANY_DATA)
        except Exception:  # noqa: BLE001 - a plugin's source may be anything; the records can be read without it
            return None
