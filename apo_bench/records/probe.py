"""The record of a probe: what a step costs, measured side by side; raw times, so that statistics can be done again.

A probe takes one task, precision and device. In each of several processes, one after the other and with nothing beside
them, all competitors are set up; then every kind of step of every competitor is timed in rounds.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from apo_bench.records.cell import Cell
from apo_bench.records.digest import NO_DIGEST, strictly, verified
from apo_bench.records.facts import Environment
from apo_bench.records.ranges import Amount, Count, Message, Milliseconds, Name, Share, moment
from apo_bench.records.run import Fingerprint, checked_schema
from apo_bench.records.spec import Budget, Device, Frozen, OptimizerSpec, Precision

SCHEMA = 2
READABLE = (1, 2)
"""Schemas that this version reads. From 2 on a probe bears a digest (`apo_bench.records.digest`)."""
_SEALED_SINCE = 2
_NOTHING = 1e-6
"""Shares of kinds add up to 1; what adds up to less has no cost to be computed from."""


class ProbeSpec(Frozen, frozen=True):
    """What is probed, and how.

    Attributes:
        task: Registered name.
        precision: Number formats.
        device: Kind of device.
        compile: Whether models run through `torch.compile`.
        threads: CPU threads of torch.
        processes: Processes, one after the other.
        rounds: Rounds in each.
        competitors: Whose steps are timed, the reference first; schedules are left out, they cost nothing.
    """

    task: Name
    precision: Precision
    device: Device
    compile: bool
    threads: Count
    processes: Count
    rounds: Count
    competitors: tuple[OptimizerSpec, ...]

    def cell(self, optimizer: OptimizerSpec) -> Cell:
        """What is measured of one of the competitors, as a cell; its budget says nothing."""
        return Cell(
            task=self.task,
            optimizer=optimizer,
            precision=self.precision,
            budget=Budget(epochs=1.0),
            device=self.device,
            compile=self.compile,
        )

    @property
    def probe_id(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the canonical JSON form."""
        read = msgspec.json.decode(msgspec.json.encode(self), type=ProbeSpec)
        return hashlib.sha256(msgspec.json.encode(read, order="deterministic")).hexdigest()[:16]

    @property
    def title(self) -> str:
        """One readable line."""
        return f"{self.task} {self.precision} on {self.device}"


class KindTimes(Frozen, frozen=True):
    """Times of one kind of step of one competitor.

    Attributes:
        name: What is due in such a step (`apo_bench.measure.kinds`).
        share: Share of all steps that are of this kind.
        milliseconds: Of one step, by process and round.
    """

    name: Name
    share: Share
    milliseconds: tuple[tuple[Milliseconds, ...], ...]


class Probed(Frozen, frozen=True):
    """One competitor of a probe.

    Attributes:
        optimizer: Which.
        fingerprint: Code and data that were measured.
        kinds: Times by kind of step.
        skipped: Timed steps that loss scaling skipped; a skipped step is cheaper than others.
    """

    optimizer: OptimizerSpec
    fingerprint: Fingerprint
    kinds: tuple[KindTimes, ...]
    skipped: Count = 0


class Omitted(Frozen, frozen=True):
    """A competitor that could not be measured, and why."""

    optimizer: OptimizerSpec
    message: Message


class ProbeRecord(Frozen, frozen=True):
    """One finished probe.

    Attributes:
        schema: Version of this form.
        spec: What was probed.
        started_at: Time in UTC.
        finished_at: Time in UTC.
        environment: Where.
        competitors: Who was measured, the reference first.
        omitted: Who was not.
        foreign_cores: By process, CPU cores that other processes kept busy meanwhile; `None` where it is not known.
        foreign_processes: By process, the most other processes seen on the card; `None` where it is not known.
        throttle_reasons: Reasons that the driver gave for lowered clocks in any process.
        follows: As of a run's record: a later time of the same probe's records that were there before.
    """

    sealed: ClassVar[bool] = True

    schema: int
    spec: ProbeSpec
    started_at: str
    finished_at: str
    environment: Environment
    competitors: tuple[Probed, ...]
    omitted: tuple[Omitted, ...] = ()
    foreign_cores: tuple[Amount | None, ...] = ()
    foreign_processes: tuple[Count | None, ...] = ()
    throttle_reasons: tuple[Name, ...] = ()
    follows: str | None = None

    @property
    def probe_id(self) -> str:
        """Identity of the probe's spec."""
        return self.spec.probe_id


def decode_probe(data: bytes) -> ProbeRecord:
    """Read a probe's record back strictly.

    Raises:
        ValueError: Damaged, or of a schema that never was.
        NewerSchemaError: Of a schema that a later version made.
    """
    with strictly():
        content = verified(data)
        schema = checked_schema(content, READABLE)
        if schema >= _SEALED_SINCE and content is data:
            raise ValueError(NO_DIGEST)
        record = msgspec.json.decode(content, type=ProbeRecord)
        _check(record)
        return record if record.schema == SCHEMA else msgspec.structs.replace(record, schema=SCHEMA)


def _check(record: ProbeRecord) -> None:
    """See that there is a time for every competitor, kind of step, process and round, and who is the reference.

    Raises:
        ValueError: There is not.
    """
    for time in (record.started_at, record.finished_at, record.follows):
        if time is not None:
            moment(time)
    if not record.spec.competitors:
        raise ValueError("it names no competitor")
    shapes = {
        tuple(len(rounds) for rounds in kind.milliseconds) for probed in record.competitors for kind in probed.kinds
    }
    if len(shapes) > 1 or any(not shape or not all(shape) for shape in shapes):
        raise ValueError("its competitors were not timed in the same processes and rounds")
    if any(sum(kind.share for kind in probed.kinds) <= _NOTHING for probed in record.competitors):
        raise ValueError("a competitor has no kind of step")


class KindSample(Frozen, frozen=True):
    """Milliseconds of one kind of step, by round."""

    name: Name
    share: Share
    milliseconds: tuple[float, ...]


class CompetitorSample(Frozen, frozen=True):
    """One competitor in one process."""

    optimizer: OptimizerSpec
    kinds: tuple[KindSample, ...]
    skipped: int


class Sample(Frozen, frozen=True):
    """What one process measured."""

    competitors: tuple[CompetitorSample, ...]
    omitted: tuple[Omitted, ...]
    foreign_cores: float | None
    foreign_processes: int | None = None
    throttle_reasons: tuple[str, ...] = ()


def assemble(
    spec: ProbeSpec,
    samples: Sequence[Sample],
    fingerprints: Mapping[str, Fingerprint],
    environment: Environment,
    times: tuple[str, str],
) -> ProbeRecord:
    """Make a probe's record of the samples of its processes.

    Args:
        spec: What was probed.
        samples: One a process.
        fingerprints: Code and data by name of the optimizer.
        environment: Where.
        times: When it began and ended.

    Returns:
        The record; a competitor that any process left out is left out.
    """
    omitted: list[Omitted] = []
    for left in (left for sample in samples for left in sample.omitted):
        if left.optimizer not in [known.optimizer for known in omitted]:
            omitted.append(left)
    gone = [left.optimizer for left in omitted]
    measured = []
    for first in samples[0].competitors if samples else ():
        if first.optimizer in gone:
            continue
        own = [found for sample in samples for found in sample.competitors if found.optimizer == first.optimizer]
        measured.append(
            Probed(
                optimizer=first.optimizer,
                fingerprint=fingerprints[first.optimizer.name],
                kinds=tuple(
                    KindTimes(
                        name=kind.name,
                        share=kind.share,
                        milliseconds=tuple(found.kinds[number].milliseconds for found in own),
                    )
                    for number, kind in enumerate(first.kinds)
                ),
                skipped=sum(found.skipped for found in own),
            )
        )
    return ProbeRecord(
        schema=SCHEMA,
        spec=spec,
        started_at=times[0],
        finished_at=times[1],
        environment=environment,
        competitors=tuple(measured),
        omitted=tuple(omitted),
        foreign_cores=tuple(sample.foreign_cores for sample in samples),
        foreign_processes=tuple(sample.foreign_processes for sample in samples),
        throttle_reasons=tuple(sorted({reason for sample in samples for reason in sample.throttle_reasons})),
    )
