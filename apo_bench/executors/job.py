"""What passes between the command and a run's process; cheap to import."""

from datetime import UTC, datetime

from apo_bench.record import SCHEMA, Fingerprint, Outcome, RunRecord
from apo_bench.spec import Frozen, RunSpec, Scale


class Job(Frozen, frozen=True):
    """What a worker is told.

    Attributes:
        run: The run.
        suite: Suite under which it is run.
        scale: Scale of that suite.
        fingerprint: Code and data it depends on.
        store: Folder of the store.
        threads: CPU threads for torch.
    """

    run: RunSpec
    suite: str
    scale: Scale
    fingerprint: Fingerprint
    store: str
    threads: int


class Begun(Frozen, frozen=True, tag=True):
    """The worker holds the claim and writes its events to ``folder``."""

    folder: str


class Busy(Frozen, frozen=True, tag=True):
    """Another process holds the claim."""


class Finished(Frozen, frozen=True, tag=True):
    """The record is in the store."""

    outcome: Outcome


Report = Begun | Busy | Finished


def failed(job: Job, outcome: Outcome, started_at: str) -> RunRecord:
    """Make the record of a run that came to no result."""
    return RunRecord(
        schema=SCHEMA,
        spec=job.run,
        suite=job.suite,
        scale=job.scale,
        started_at=started_at,
        finished_at=now(),
        outcome=outcome,
        fingerprint=job.fingerprint,
    )


def now() -> str:
    """The time in UTC, as records hold it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
