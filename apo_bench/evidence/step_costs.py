"""What a step costs, from the raw times of probes: composed, as a ratio to the reference, with its doubts.

In each round the kinds of step of a competitor are composed by their shares, and divided by the reference's; a process
is worth the mean of the logarithms over its rounds, and the interval is Student's t over processes: rounds of one
process share its memory layout and are no independent measurements.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean, median, quantiles
from typing import NamedTuple

from apo_bench.evidence.intervals import mean_interval, standard_error
from apo_bench.records.cell import Cell
from apo_bench.records.probe import Probed, ProbeRecord
from apo_bench.records.run import RunRecord

FOREIGN_CORES = 0.2
"""Others' use of the processors above which a probe is noisy; on a large machine two hundredths of its cores."""
IMPRECISE = 0.10
"""Half-width of a ratio's interval, as a share of it, above which it is flagged."""
UNSTEADY = 0.25
"""Spread of the reference's step, between quartiles over all rounds, above which the machine's speed was not one."""
DRIFT = 0.10
"""Change of a ratio from the first half of a process's rounds to the second above which it is flagged, if clear."""
_CLEAR = 4.0
"""Standard errors that such a change must have."""
_SLOWED = {"hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_thermal_slowdown"}
"""Reasons for lowered clocks that come and go; the others are idleness, settings, and the limit of a card at work."""
DISAGREES = 0.25
"""Share by which a run's own mean step may differ from the probe's."""
_FEWEST = 2


@dataclasses.dataclass(frozen=True)
class StepCost:
    """What a step of one competitor costs.

    Attributes:
        milliseconds: A step, composed of its kinds: the median over processes of the median over rounds.
        ratio: To the reference's step; the geometric mean over processes.
        low: Lower end of its 95 % interval; `None` with one process.
        high: Upper end.
        processes: Their number.
        kinds: Name, share and milliseconds of each kind of step.
        logarithms: Of the ratio, one a process.
        flags: Reasons to doubt the measurement.
    """

    milliseconds: float
    ratio: float
    low: float | None
    high: float | None
    processes: int
    kinds: tuple[tuple[str, float, float], ...]
    logarithms: tuple[float, ...]
    flags: tuple[str, ...]

    @property
    def periodic_overhead(self) -> float | None:
        """What periodic work adds to a plain step, as a share of it; `None` where no step is plain."""
        plain = next((milliseconds for name, _, milliseconds in self.kinds if name == "plain"), None)
        return None if plain is None else self.milliseconds / plain - 1.0

    @property
    def half_width(self) -> float | None:
        """Half the width of the ratio's interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def disagrees(self, run: RunRecord) -> bool:
        """Whether a run's own mean step is not the one that was probed."""
        cost = run.cost
        if cost is None or not cost.steps or cost.train_seconds <= 0:
            return False
        own = math.log(1000.0 * cost.train_seconds) - math.log(cost.steps)
        return abs(own - math.log(self.milliseconds)) > math.log1p(DISAGREES)


def step_costs(record: ProbeRecord) -> list[tuple[Probed, StepCost]]:
    """Compose the costs of a probe; the reference comes first. Empty where the reference was not measured."""
    if not record.competitors or record.competitors[0].optimizer != record.spec.competitors[0]:
        return []
    reference = _composed(record.competitors[0])
    machine = _machine_flags(record, reference)
    return [(probed, _cost(probed, reference, machine)) for probed in record.competitors]


def flagged(record: ProbeRecord) -> bool:
    """Whether any number of a probe is doubtful, or an optimizer is missing from it."""
    costs = step_costs(record)
    return not costs or bool(record.omitted) or any(cost.flags for _, cost in costs)


def doubts(costs: Iterable[tuple[str, StepCost]]) -> dict[str, list[str]]:
    """Reasons to doubt measurements, each once, with the names of those that it concerns."""
    found: dict[str, list[str]] = {}
    for name, cost in costs:
        for flag in cost.flags:
            found.setdefault(flag, []).append(name)
    return found


class _Measured(NamedTuple):
    """What a cost of a step is a cost of."""

    step: Cell
    device_name: str
    threads: int


class Probes:
    """Probes of a store, to be asked for the cost of a run's step.

    Args:
        records: Oldest first. Of several that fit the newest without a flag is taken, else the newest.
    """

    def __init__(self, records: Iterable[ProbeRecord] = ()) -> None:
        self._found: dict[_Measured, list[tuple[Probed, StepCost]]] = defaultdict(list)
        for record in records:
            for probed, cost in step_costs(record):
                cell = record.spec.cell(probed.optimizer)
                key = _Measured(cell.step, record.environment.device_name, record.spec.threads)
                self._found[key].append((probed, cost))

    def find(self, run: RunRecord) -> StepCost | None:
        """The cost of a step of a run: of the same code and data, on the same processor or card, with as many threads.

        Schedules do not count: they change no cost.
        """
        made = run.environment
        if made is None:
            return None
        key = _Measured(Cell.of(run.spec).step, made.device_name, made.threads)
        fitting = [cost for probed, cost in self._found.get(key, []) if probed.fingerprint == run.fingerprint]
        sound = [cost for cost in fitting if not cost.flags]
        return (sound or fitting)[-1] if fitting else None


def _composed(probed: Probed) -> list[list[float]]:
    """Milliseconds of a step by process and round."""
    by_process = zip(*(kind.milliseconds for kind in probed.kinds), strict=True)
    shares = [kind.share for kind in probed.kinds]
    return [
        [sum(share * time for share, time in zip(shares, times, strict=True)) for times in zip(*rounds, strict=True)]
        for rounds in by_process
    ]


def _cost(probed: Probed, reference: Sequence[Sequence[float]], machine: tuple[str, ...]) -> StepCost:
    own = _composed(probed)
    logs = [
        [math.log(time / other) for time, other in zip(times, others, strict=True)]
        for times, others in zip(own, reference, strict=True)
    ]
    logarithms = tuple(fmean(rounds) for rounds in logs)
    interval = mean_interval(logarithms)
    low, high = (
        (math.exp(interval.mean - interval.half_width), math.exp(interval.mean + interval.half_width))
        if interval.half_width is not None
        else (None, None)
    )
    return StepCost(
        milliseconds=median(median(times) for times in own),
        ratio=math.exp(interval.mean),
        low=low,
        high=high,
        processes=len(own),
        kinds=tuple(
            (kind.name, kind.share, median(median(times) for times in kind.milliseconds)) for kind in probed.kinds
        ),
        logarithms=logarithms,
        flags=(*machine, *_own_flags(probed, logs, interval.half_width)),
    )


def _machine_flags(record: ProbeRecord, reference: Sequence[Sequence[float]]) -> tuple[str, ...]:
    """Doubts that hold for all optimizers of a probe."""
    flags = []
    foreign = max((cores for cores in record.foreign_cores if cores is not None), default=0.0)
    if foreign > max(FOREIGN_CORES, 0.02 * record.environment.cpu_count):
        flags.append(f"other processes kept {foreign:.1f} CPU cores busy")
    others = max((count for count in record.foreign_processes if count is not None), default=0)
    if others:
        flags.append(f"{others} other processes were on the card")
    lowered = sorted(_SLOWED.intersection(record.throttle_reasons))
    if lowered:
        flags.append(f"the card's clocks were lowered ({', '.join(lowered)})")
    times = [time for rounds in reference for time in rounds]
    if len(times) >= _FEWEST:
        first, middle, third = quantiles(times, n=4)
        if (third - first) / middle > UNSTEADY:
            flags.append(
                f"the machine's speed was not steady: quartiles of the reference's step {first:.3g} to {third:.3g} ms"
            )
    return tuple(flags)


def _own_flags(probed: Probed, logs: Sequence[Sequence[float]], half_width: float | None) -> tuple[str, ...]:
    flags = []
    changes = [change for rounds in logs if (change := _drift(rounds)) is not None]
    if changes:
        largest = max(changes, key=abs)
        flags.append(f"its ratio changed by {100 * math.expm1(largest):+.0f} % half-way")
    if half_width is not None and math.expm1(half_width) > IMPRECISE:
        flags.append(f"imprecise: ±{100 * math.expm1(half_width):.0f} % over processes")
    if probed.skipped:
        flags.append(f"{probed.skipped} timed steps overflowed and were skipped")
    return tuple(flags)


def _drift(rounds: Sequence[float]) -> float | None:
    """Change of the logarithm from the first half to the second; `None` where it is small or not clear."""
    half = len(rounds) // 2
    if half < _FEWEST:
        return None
    first, second = rounds[:half], rounds[-half:]
    change = median(second) - median(first)
    error = math.hypot(standard_error(first), standard_error(second))
    return change if abs(change) > max(math.log1p(DRIFT), _CLEAR * error) else None
