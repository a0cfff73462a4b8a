"""What one process of a probe measured; passes between processes, cheap to import."""

from collections.abc import Mapping, Sequence

from apo_bench.probe_record import SCHEMA, KindTimes, Omitted, Probed, ProbeRecord, ProbeSpec
from apo_bench.record import Environment, Fingerprint
from apo_bench.spec import Frozen, OptimizerSpec


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
