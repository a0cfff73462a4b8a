"""What may be told of runs while they are made."""

from collections.abc import Sequence

from apo_bench.records.events import Event
from apo_bench.records.outcome import Outcome
from apo_bench.records.spec import RunSpec


class Watcher:
    """What anybody may learn of the runs; every method may be overridden."""

    def started(self, run: RunSpec) -> None:
        """A run's process has begun."""

    def event(self, run: RunSpec, event: Event) -> None:
        """A run has written an event."""

    def finished(self, run: RunSpec, outcome: Outcome) -> None:
        """A run's record is in the store."""

    def elsewhere(self, runs: int, who: str, waited: float) -> None:
        """Only runs are left that another process is running; waiting for it, for some seconds so far."""

    def warn(self, message: str) -> None:
        """Something went wrong that does not stop the runs."""

    def draining(self, runs: int) -> None:
        """Ctrl-C came; waiting for the runs in flight."""


class Watchers(Watcher):
    """Several watchers as one: each is told of everything, in their order."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = tuple(watchers)

    def started(self, run: RunSpec) -> None:
        """Tell all watchers."""
        for watcher in self._watchers:
            watcher.started(run)

    def event(self, run: RunSpec, event: Event) -> None:
        """Tell all watchers."""
        for watcher in self._watchers:
            watcher.event(run, event)

    def finished(self, run: RunSpec, outcome: Outcome) -> None:
        """Tell all watchers."""
        for watcher in self._watchers:
            watcher.finished(run, outcome)

    def elsewhere(self, runs: int, who: str, waited: float) -> None:
        """Tell all watchers."""
        for watcher in self._watchers:
            watcher.elsewhere(runs, who, waited)

    def warn(self, message: str) -> None:
        """Tell all watchers."""
        for watcher in self._watchers:
            watcher.warn(message)

    def draining(self, runs: int) -> None:
        """Tell all watchers."""
        for watcher in self._watchers:
            watcher.draining(runs)
