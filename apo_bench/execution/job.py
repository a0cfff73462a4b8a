"""What passes between the command and a run's process; cheap to import."""

from apo_bench.records.outcome import Outcome
from apo_bench.records.run import Intent
from apo_bench.records.spec import Frozen, RunSpec


class Job(Frozen, frozen=True):
    """What a worker is told.

    Attributes:
        intent: The run.
        store: Folder of the store.
        threads: CPU threads for torch.
        threads_from: What said how many (`apo_bench.measure.cores`).
        checkpoint_seconds: Shortest time between two checkpoints.
        co_scheduled: How many other runs the same command may have in flight meanwhile.
    """

    intent: Intent
    store: str
    threads: int
    checkpoint_seconds: float
    co_scheduled: int
    threads_from: str | None = None

    @property
    def run(self) -> RunSpec:
        """The run's spec."""
        return self.intent.spec


class Begun(Frozen, frozen=True, tag=True):
    """The worker holds the claim and writes its events to ``folder``, whose owner is known by ``token``."""

    folder: str
    token: str


class Busy(Frozen, frozen=True, tag=True):
    """Another process holds the claim."""


class Refused(Frozen, frozen=True, tag=True):
    """The store did not take the run; ``message`` says why."""

    message: str


class Left(Frozen, frozen=True, tag=True):
    """The worker was asked to end, and left a checkpoint from which the run is continued."""


class Finished(Frozen, frozen=True, tag=True):
    """The record is in the store."""

    outcome: Outcome


Report = Begun | Busy | Refused | Left | Finished
