"""What follows from two cells in one quantity: how much B differs from A, and whether that is claimed."""

import dataclasses
import math
from collections.abc import Mapping
from enum import StrEnum

from apo_bench.evidence import families
from apo_bench.evidence.estimates import Estimate, Sample, ValueScale, Verdict, back
from apo_bench.evidence.judgements import scale_of
from apo_bench.evidence.quantities import Quantity
from apo_bench.evidence.sides import EXACT, STEP, Entry
from apo_bench.numbers import mean
from apo_bench.records.facts import Direction


class Finding(StrEnum):
    """What a comparison says of B."""

    WORSE = "worse"
    BETTER = "better"
    UNDECIDED = "undecided"
    UNJUDGED = "not judged"
    IDENTICAL = "identical"


_FINDINGS = {
    Verdict.WORSE: Finding.WORSE,
    Verdict.BETTER: Finding.BETTER,
    Verdict.UNDECIDED: Finding.UNDECIDED,
    Verdict.EQUIVALENT: Finding.IDENTICAL,  # without a margin only counts come out so
    Verdict.UNJUDGED: Finding.UNJUDGED,
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two cells that are compared."""

    name: str
    left: Entry
    right: Entry

    def on_common_seeds(self) -> "Pair":
        """The same with the runs of those seeds only that both sides have."""
        seeds = self.left.seeds & self.right.seeds
        return Pair(self.name, self.left.on(seeds), self.right.on(seeds))


@dataclasses.dataclass(frozen=True)
class Row:
    """One quantity of one pair.

    Attributes:
        name: Of the pair.
        quantity: What is compared.
        before: In A, a mean over what is compared (a geometric one of what is compared by ratios); `None` without one.
        after: The same in B.
        estimate: B − A, or B / A.
        finding: What follows.
        reason: Why it is not judged, or worse without an interval; empty otherwise.
    """

    name: str
    quantity: Quantity
    before: float | None
    after: float | None
    estimate: Estimate
    finding: Finding
    reason: str = ""


def row_of(pair: Pair, name: str, family: int, *, paired: bool) -> Row | None:
    """One comparison; `None` where neither side has the quantity, or one cannot know it.

    Args:
        pair: Of two versions, with the seeds that both have.
        name: Of the quantity.
        family: How many intervals hold together.
        paired: Whether the two are versions of one thing, and are compared seed by seed.
    """
    left, right = pair.left, pair.right
    if name not in left.quantities or name not in right.quantities:
        return None
    quantity = right.quantities[name]
    if name == STEP:
        return _step_row(pair, quantity, family)
    one, other = left.samples[name], right.samples[name]
    if not one.n and not other.n and (name != "value" or not (left.lost or right.lost)):
        return None
    if paired and (lost := _newly_lost(pair)) and name == "value":
        return _lost_row(pair, quantity, lost, family)
    if one.scale is not other.scale:
        one, other = (dataclasses.replace(sample, scale=ValueScale.LINEAR) for sample in (one, other))
    common = one.values.keys() & other.values.keys()
    reason = _obstacle(pair, name, quantity)
    if reason:
        estimate = Estimate(None, None, None, len(common), one.scale, family, Verdict.UNJUDGED, reason=reason)
    else:
        estimate = families.contrast(
            dataclasses.replace(other, name="B"),
            dataclasses.replace(one, name="A"),
            quantity.direction or Direction.MINIMIZE,
            family=family,
            exact=quantity.exact,
            paired=paired,
        )
    finding, reason = _FINDINGS[estimate.verdict or Verdict.UNJUDGED], estimate.reason
    if paired and common and left.samples[name].values == right.samples[name].values:
        finding, reason = Finding.IDENTICAL, ""
    elif name in EXACT and paired and common:
        counted = _counted(one, other, quantity)
        finding, reason = (counted, "") if counted is not None else (finding, reason)
    return Row(pair.name, quantity, _centre(one), _centre(other), estimate, finding, reason)


def _counted(one: Sample, other: Sample, quantity: Quantity) -> Finding | None:
    """What counts say: no seed in which B differs is chance; `None` where seeds disagree."""
    changes = (other.values[seed] - one.values[seed] for seed in one.values.keys() & other.values.keys())
    signs = {math.copysign(1.0, change) for change in changes if change}
    if not signs:
        return Finding.IDENTICAL
    if len(signs) > 1:
        return None
    more = signs == {1.0}
    return Finding.BETTER if more == (quantity.direction is Direction.MAXIMIZE) else Finding.WORSE


def _obstacle(pair: Pair, name: str, quantity: Quantity) -> str:
    """Why values of two sides cannot be compared; empty where they can."""
    left, right = pair.left, pair.right
    if left.code and right.code and left.code.data != right.code.data:
        return "the data differ"
    if quantity.is_metric and (left.metric, left.quantities[name].direction) != (right.metric, quantity.direction):
        return f"the metric differs ({left.metric} and {right.metric})"
    for side, entry in (("A", left), ("B", right)):
        if name in EXACT and entry.is_emulated:
            return f"16-bit arithmetic was emulated in {side}"
        if name in EXACT and not entry.samples[name].n:
            return f"not measured in {side}"
        if name == "steps_to_target" and entry.unreached:
            return f"{side}: {entry.unreached} of {len(entry.seeds)} did not reach the target"
    return ""


def _newly_lost(pair: Pair) -> dict[int, bool]:
    """Seeds that came to a score on one side only: whether it is B that lost them."""
    left, right = pair.left, pair.right
    found = {}
    for seed in sorted(left.lost.keys() ^ right.lost.keys()):
        other = left if seed in right.lost else right
        if seed in other.samples["value"].values:
            found[seed] = seed in right.lost
    return found


def _lost_row(pair: Pair, quantity: Quantity, lost: Mapping[int, bool], family: int) -> Row:
    """A run of one seed that came to a score in one version and not in the other: no statistics are needed."""
    said = [
        f"seed {seed} {pair.right.lost[seed]} in B and not in A"
        if in_b
        else f"seed {seed} {pair.left.lost[seed]} in A and not in B"
        for seed, in_b in lost.items()
    ]
    finding = Finding.WORSE if all(lost.values()) else Finding.BETTER if not any(lost.values()) else Finding.UNJUDGED
    samples = pair.left.samples["value"], pair.right.samples["value"]
    n = len(samples[0].values.keys() & samples[1].values.keys())
    reason = "; ".join(said)
    estimate = Estimate(None, None, None, n, samples[0].scale, family, Verdict.UNJUDGED, reason=reason)
    return Row(pair.name, quantity, _centre(samples[0]), _centre(samples[1]), estimate, finding, reason)


def _step_row(pair: Pair, quantity: Quantity, family: int) -> Row | None:
    one, other = pair.left.step, pair.right.step
    if one is None or other is None:
        return None
    left, right = (
        Sample.of(step.ratios, scale=scale_of(quantity), name=side) for step, side in ((one, "A"), (other, "B"))
    )
    reason = ""
    if pair.left.machine != pair.right.machine:
        reason = "probed on different machines"
    elif one.flags or other.flags:
        reason = f"a doubtful probe: {next(iter((*one.flags, *other.flags)))}"
    elif not (one.ratios and other.ratios):
        reason = "a published table does not hold the processes of a probe"
    if reason:
        n = min(left.n, right.n)
        estimate = Estimate(other.ratio / one.ratio, None, None, n, left.scale, family, Verdict.UNJUDGED, reason=reason)
    else:
        estimate = families.contrast(right, left, Direction.MINIMIZE, family=family)
    finding, reason = _FINDINGS[estimate.verdict or Verdict.UNJUDGED], estimate.reason
    if one.ratio == other.ratio and one.ratios == other.ratios and pair.left.cell == pair.right.cell:
        finding, reason = Finding.IDENTICAL, ""
    return Row(pair.name, quantity, one.ratio, other.ratio, estimate, finding, reason)


def _centre(sample: Sample) -> float | None:
    """The mean that a difference is one of; `None` where it would flatter, or there is none."""
    if sample.why_no_mean():
        return None
    value = back(mean(list(sample.on_scale().values())), sample.scale)
    return value if math.isfinite(value) else None
