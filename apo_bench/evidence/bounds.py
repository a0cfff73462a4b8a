"""A declared contrast in one place, held against a bound that need not be "no difference".

A bound says by how much the left side is at least to be better, or may at most be worse. The left sample is made worse
by it, and then compared as any other (`apo_bench.evidence.families`): interval, verdict and seeds needed are those of
the bound, with the same error.
"""

import dataclasses
import math

from apo_bench.evidence import families
from apo_bench.evidence.cells import Runs
from apo_bench.evidence.contrasts import Resolved
from apo_bench.evidence.costs import probed_cost
from apo_bench.evidence.estimates import FEWEST_SEEDS, Estimate, Sample, ValueScale, Verdict
from apo_bench.evidence.judgements import samples, scale_of
from apo_bench.evidence.step_costs import Probes
from apo_bench.records.facts import Direction
from apo_bench.records.run import RunRecord

STATE, RATIO = "state_bytes", "step_ratio"
"""Compared in bytes of the parameters, and over the processes of a probe: all runs of a cell have one."""


@dataclasses.dataclass(frozen=True)
class Compared:
    """A contrast in one place, held against a bound that need not be "no difference".

    Attributes:
        place: The contrast with its cells.
        estimate: Left against right.
        beyond: Whether left is better than the bound beyond doubt (`Verdict.BETTER`), worse, or neither. Its
            ``seeds_needed`` are those that would tell.
        has_losses: Whether it has no value because some of three or more runs a side diverged or raised.
    """

    place: Resolved
    estimate: Estimate
    beyond: Estimate
    has_losses: bool = False

    @property
    def verdict(self) -> Verdict:
        """On which side of the bound left lies."""
        return self.beyond.verdict or Verdict.UNJUDGED


def direction_of(place: Resolved) -> Direction:
    """Which way of its quantity is better."""
    return place.quantity.direction or Direction.MINIMIZE


def compare(place: Resolved, probes: Probes, family: int, bound: float) -> Compared:
    """Hold a contrast against a bound: by how much left is to be better; below 0, by how much it may be worse."""
    scale = ValueScale.LINEAR if place.contrast.quantity == STATE else scale_of(place.quantity)
    plain = Estimate(None, None, None, 0, scale, family, Verdict.UNJUDGED)
    reason = place.missing or _why_no_samples(place, probes)
    if reason:
        plain = dataclasses.replace(plain, reason=reason)
        return Compared(place, plain, plain)
    left, right = _samples(place, probes)
    without = [one.name for one in (left, right) if not one.runs]
    if without:
        plain = dataclasses.replace(plain, reason=f"{' and '.join(without)}: not measured")
        return Compared(place, plain, plain)
    if left.scale is not scale and not (left.why_no_mean() or right.why_no_mean()):
        plain = dataclasses.replace(plain, reason="a value that is not positive has no ratio to hold a margin against")
        return Compared(place, plain, plain)
    direction, exact = direction_of(place), place.quantity.exact
    estimate = families.contrast(left, right, direction, family=family, exact=exact)
    shifted = _shifted(left, bound, direction)
    beyond = families.contrast(shifted, right, direction, family=family, exact=exact)
    doubt = "; ".join(filter(None, [estimate.doubt, *_flags(place, probes)]))
    estimate = dataclasses.replace(estimate, doubt=doubt)
    if min(left.runs, right.runs) < FEWEST_SEEDS or estimate.verdict is not Verdict.UNJUDGED:
        return Compared(place, estimate, beyond)
    decided = _by_divergence(left, right)
    if decided is not None:
        beyond = dataclasses.replace(beyond, verdict=decided)
    return Compared(place, estimate, beyond, has_losses=_lost(left) + _lost(right) > 0 and left.n + right.n > 0)


def _lost(sample: Sample) -> int:
    return sample.diverged + sample.failed


def _by_divergence(left: Sample, right: Sample) -> Verdict | None:
    """Which side is worse because most of its runs came to nothing, and none of the other's; `None` where neither."""
    if 2 * _lost(left) > left.runs and not _lost(right):
        return Verdict.WORSE
    if 2 * _lost(right) > right.runs and not _lost(left):
        return Verdict.BETTER
    return None


def _shifted(sample: Sample, bound: float, direction: Direction) -> Sample:
    """A sample made worse by a bound: what is then still better is better by more."""
    sign = 1.0 if direction is Direction.MAXIMIZE else -1.0
    if sample.scale is ValueScale.LINEAR:
        return dataclasses.replace(sample, values={seed: value - sign * bound for seed, value in sample.values.items()})
    factor = math.exp(-sign * math.copysign(math.log1p(abs(bound)), bound))
    return dataclasses.replace(sample, values={seed: value * factor for seed, value in sample.values.items()})


def _why_no_samples(place: Resolved, probes: Probes) -> str:
    if place.contrast.quantity != RATIO:
        return ""
    without = [
        side.words
        for runs, side in ((place.left, place.contrast.left), (place.right, place.contrast.right))
        if runs is not None and probed_cost(runs, probes) is None
    ]
    return f"no probe of {' and '.join(without)}" if without else ""


def _samples(place: Resolved, probes: Probes) -> tuple[Sample, Sample]:
    left, right = place.left, place.right
    if left is None or right is None or place.contrast.quantity not in {STATE, RATIO}:
        found = samples(place, probes)
        if not place.quantity.exact:
            return found
        one, other = (
            dataclasses.replace(sample, diverged=0, failed=0) for sample in found
        )  # a count is one all the same
        return one, other
    names = place.contrast.left.words, place.contrast.right.words
    if place.contrast.quantity == STATE:
        return _state(left, names[0]), _state(right, names[1])
    return _processes(left, probes, names[0]), _processes(right, probes, names[1])


def _state(runs: Runs, name: str) -> Sample:
    """Bytes of state in bytes of the parameters."""
    found = {seed: _state_share(record) for seed, record in runs.by_seed.items()}
    return Sample({seed: value for seed, value in found.items() if value is not None}, name=name)


def _state_share(record: RunRecord) -> float | None:
    if record.cost is None or record.cost.state_bytes is None:
        return None
    parameters = record.cost.bytes_by_purpose.get("parameters")
    return record.cost.state_bytes / parameters if parameters else None


def _processes(runs: Runs, probes: Probes, name: str) -> Sample:
    """The ratio of a step to the reference's, process by process."""
    cost = probed_cost(runs, probes)
    ratios = [] if cost is None else [math.exp(one) for one in cost.logarithms]
    return Sample.of(ratios, scale=ValueScale.LOG, name=name)


def _flags(place: Resolved, probes: Probes) -> tuple[str, ...]:
    """Doubts about the probes that a comparison rests on."""
    if place.contrast.quantity != RATIO:
        return ()
    costs = [probed_cost(runs, probes) for runs in (place.left, place.right) if runs is not None]
    return tuple(dict.fromkeys(flag for cost in costs if cost is not None for flag in cost.flags))
