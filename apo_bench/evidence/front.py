"""Quality against cost: who is beaten in both beyond doubt, and who may be on the Pareto front.

A competitor is *dominated* where another one is better in both quality and cost beyond doubt, or better in one and
equal in the other where the other is exact (FLOPs, bytes) or equivalent within a declared margin. All others may be on
the
front: the set that is left contains the front of the true means with at least 95 %.

One domination is claimed only where both of its comparisons come out, so each of them may use the error of the whole
pair (an intersection–union test: Berger, Technometrics 24, 1982), and Bonferroni is over pairs, not over pairs and
axes.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from enum import StrEnum

from apo_bench.evidence.estimates import Estimate, Sample, Verdict
from apo_bench.evidence.families import contrast
from apo_bench.records.facts import Direction


class Place(StrEnum):
    """Where a competitor is."""

    FRONT = "may be on the front"
    DOMINATED = "dominated"
    UNJUDGED = "not judged"


@dataclasses.dataclass(frozen=True)
class Point:
    """One competitor.

    Attributes:
        name: Which.
        place: Where it is.
        dominated_by: All that beat it beyond doubt.
        reason: Why it is not judged; empty otherwise.
    """

    name: str
    place: Place
    dominated_by: tuple[str, ...] = ()
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class AxisRule:
    """How one axis is compared.

    Attributes:
        direction: Whether more or less is better.
        exact: Whether it is a count without noise.
        margin: What makes no difference, as of `contrast`; none without.
    """

    direction: Direction
    exact: bool = False
    margin: float | None = None


def pareto_front(
    quality: Mapping[str, Sample],
    cost: Mapping[str, Sample],
    quality_rule: AxisRule,
    cost_rule: AxisRule,
    *,
    family: int | None = None,
) -> list[Point]:
    """Place competitors.

    Args:
        quality: By competitor.
        cost: By competitor. One that lacks either is not judged.
        quality_rule: How quality is compared.
        cost_rule: How cost is compared.
        family: Number of pairs that was declared; all pairs of those given, without.

    Returns:
        In the order of `quality`, then those that have a cost only. A competitor that cannot be compared (diverged, too
        few seeds) is not judged and dominates no other.

    Raises:
        ValueError: A family is smaller than the number of pairs.
    """
    names = list(dict.fromkeys([*quality, *cost]))
    size = len(names) * (len(names) - 1) // 2
    if family is not None and family < size:
        raise ValueError(f"a family of {family} cannot have {size} pairs")
    size = max(size if family is None else family, 1)
    both = [name for name in names if name in quality and name in cost]
    reasons = {name: "no quality" if name not in quality else "no cost" for name in names if name not in both}
    for name in both:
        if reason := _why_not(quality[name], quality_rule) or _why_not(cost[name], cost_rule):
            reasons[name] = reason
    beaten: dict[str, list[str]] = {name: [] for name in names}
    for one, other in itertools.combinations([name for name in both if name not in reasons], 2):
        verdicts = {
            _compared(quality[one], quality[other], quality_rule, size).verdict,
            _compared(cost[one], cost[other], cost_rule, size).verdict,
        }
        if Verdict.BETTER in verdicts and verdicts <= {Verdict.BETTER, Verdict.EQUIVALENT}:
            beaten[other].append(one)
        if Verdict.WORSE in verdicts and verdicts <= {Verdict.WORSE, Verdict.EQUIVALENT}:
            beaten[one].append(other)
    return [
        Point(
            name,
            Place.UNJUDGED if name in reasons else Place.DOMINATED if beaten[name] else Place.FRONT,
            tuple(beaten[name]),
            reasons.get(name, ""),
        )
        for name in names
    ]


def _compared(left: Sample, right: Sample, rule: AxisRule, family: int) -> Estimate:
    return contrast(left, right, rule.direction, family=family, margin=rule.margin, exact=rule.exact)


def _why_not(sample: Sample, rule: AxisRule) -> str:
    """Why a sample can be compared with none; empty where it can."""
    estimate = _compared(sample, sample, rule, 1)
    if estimate.verdict is not Verdict.UNJUDGED:
        return ""
    constant = estimate.reason.startswith("equal values")  # against another one there may be a spread
    return sample.why_no_mean() or ("" if constant else estimate.reason)
