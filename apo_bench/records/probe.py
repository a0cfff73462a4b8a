"""The record of a probe: what a step costs, measured side by side; raw times, so that statistics can be done again.

A probe takes one task, precision and device. In each of several processes, one after the other and with nothing beside
them, all competitors are set up; then every kind of step of every competitor is timed in rounds.
"""

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from apo_bench.records.cell import Cell
from apo_bench.records.facts import Environment
from apo_bench.records.run import Fingerprint, checked_schema
from apo_bench.records.spec import Budget, Device, Frozen, OptimizerSpec, Precision

SCHEMA = 1


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

    task: str
    precision: Precision
    device: Device
    compile: bool
    threads: int
    processes: int
    rounds: int
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

    name: str
    share: float
    milliseconds: tuple[tuple[float, ...], ...]


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
    skipped: int = 0


class Omitted(Frozen, frozen=True):
    """A competitor that could not be measured, and why."""

    optimizer: OptimizerSpec
    message: str


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
    """

    schema: int
    spec: ProbeSpec
    started_at: str
    finished_at: str
    environment: Environment
    competitors: tuple[Probed, ...]
    omitted: tuple[Omitted, ...] = ()
    foreign_cores: tuple[float | None, ...] = ()
    foreign_processes: tuple[int | None, ...] = ()
    throttle_reasons: tuple[str, ...] = ()

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
    checked_schema(data, (SCHEMA,))
    return msgspec.json.decode(data, type=ProbeRecord)


class KindSample(Frozen, frozen=True):
    """Milliseconds of one kind of step, by round."""

    name: str
    share: float
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
