r"""Runs that collapsed, and what to say of a cell that has some.

A run that ends near the trivial predictor, or far below its siblings, did not diverge: it has a finite score. A mean
over it and its siblings is a mean of a mixture, with a t interval that covers too little: at a share of 10 % with 3 to
10 seeds, most samples contain no collapse at all, and their intervals know nothing of it. So a cell says its median and
interquartile mean beside the mean, and its share of collapsed runs.

Whether a run collapsed is *declared* where the task has anchors: it is less than half of the way from the trivial
predictor to the target. Without anchors it is *detected* as an outlier on the bad side.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from apo_bench.evidence.estimates import CONFIDENCE, Sample, ValueScale
from apo_bench.numbers import mean
from apo_bench.records.facts import Direction

COLLAPSED_BELOW = 0.5
"""Normalized score under which a run has collapsed."""
FALSE_ALARMS = 0.01
"""Nominal probability that a sample of normal values has a run that is called collapsed."""


@dataclasses.dataclass(frozen=True)
class Anchors:
    """What a score is normalized by, as a task declares it.

    Attributes:
        trivial: Metric of the trivial predictor: normalized score 0.
        target: Metric that a run is to reach: normalized score 1.
        scale: On which scale the metric is compared.

    Raises:
        ValueError: They are equal, not finite, or have no logarithm.
    """

    trivial: float
    target: float
    scale: ValueScale = ValueScale.LINEAR

    def __post_init__(self) -> None:
        if not (math.isfinite(self.trivial) and math.isfinite(self.target)) or self.trivial == self.target:
            raise ValueError(f"anchors must be two finite numbers (got {self.trivial} and {self.target})")
        if self.scale is ValueScale.LOG and min(self.trivial, self.target) <= 0.0:
            raise ValueError(f"anchors on a logarithmic scale must be positive (got {self.trivial} and {self.target})")

    def normalized(self, value: float) -> float:
        r""":math:`(x - x_0) / (x_1 - x_0)`; lower is better needs no sign, since the target lies on the good side.

        Of an error of 0 on a logarithmic scale it is infinite.

        >>> Anchors(10.0, 90.0).normalized(70.0), round(Anchors(1.0, 0.01, ValueScale.LOG).normalized(0.1), 3)
        (0.75, 0.5)
        """
        if self.scale is ValueScale.LINEAR:
            return (value - self.trivial) / (self.target - self.trivial)
        if value <= 0.0:
            return math.copysign(math.inf, math.log(self.trivial) - math.log(self.target))
        whole = math.log(self.target) - math.log(self.trivial)
        return (math.log(value) - math.log(self.trivial)) / whole


def declared_collapses(values: Mapping[int, float], anchors: Anchors) -> set[int]:
    """Seeds of runs that are less than half of the way from the trivial predictor to the target.

    >>> declared_collapses({0: 88.0, 1: 10.0, 2: 86.0}, Anchors(trivial=10.0, target=86.0))
    {1}
    """
    return {seed for seed, value in values.items() if anchors.normalized(value) < COLLAPSED_BELOW}


def detected_collapses(sample: Sample, direction: Direction) -> set[int]:
    r"""Seeds of runs that are outliers on the bad side: the generalized extreme studentized deviate, one-sided.

    For i = 1, …, k the worst value is taken out that is left, with :math:`R_i` its distance from the mean of those
    left, in their standard deviations. The largest i counts for which (Rosner, Technometrics 25, 1983; i = 1 is
    Grubbs's test)

    .. math:: R_i > \lambda_i = \frac{(n-i)\,t_p}{\sqrt{(n-i-1+t_p^2)(n-i+1)}}, \quad
        p = 1 - \frac{0.01}{n-i+1}, \quad t_p \text{ with } n-i-1 \text{ degrees of freedom}

    so that several collapsed runs do not mask each other. At most k = ⌊(n − 1)/2⌋ are looked for: where more than half
    collapsed, nothing but declared anchors can tell which half. Of three normal values one is called collapsed in less
    than 1 % of all samples, but its distance must be a hundredfold of that of the others: only declared anchors are
    sharp at n = 3.
    """
    numbers = sample.on_scale()
    sign = 1.0 if direction is Direction.MAXIMIZE else -1.0
    largest = max(map(abs, numbers.values()), default=0.0)
    if largest > 0.0:  # scale-free, so that no square overflows
        numbers = {seed: number / largest for seed, number in numbers.items()}
    left = sorted(numbers, key=lambda seed: sign * numbers[seed])  # the worst first
    found = 0
    for taken in range(1, (len(left) - 1) // 2 + 1):
        rest = sign * np.array([numbers[seed] for seed in left[taken - 1 :]])
        spread = rest.std(ddof=1)
        if spread <= 1e-9 * np.abs(rest).max():  # equal values but for rounding
            break
        n = len(rest)
        t = -special.stdtrit(n - 2, FALSE_ALARMS / n)
        if (rest.mean() - rest[0]) / spread > (n - 1) * t / math.sqrt((n - 2 + t**2) * n):
            found = taken
    return set(left[:found])


@dataclasses.dataclass(frozen=True)
class RobustSummary:
    """What a cell that can collapse says beside its mean.

    Attributes:
        mean: Arithmetic mean; the geometric one on a logarithmic scale. `None` where it would flatter.
        median: Of all runs, those without a value as the worst; `None` where it falls on one of these.
        interquartile_mean: Likewise.
        collapsed: Runs that collapsed, diverged or raised.
        runs: All of them.
        share: Their share.
        share_low: Lower end of its exact 95 % interval (Clopper and Pearson, Biometrika 26, 1934).
        share_high: Upper end.
    """

    mean: float | None
    median: float | None
    interquartile_mean: float | None
    collapsed: int
    runs: int
    share: float
    share_low: float
    share_high: float


def robust_summary(sample: Sample, direction: Direction) -> RobustSummary:
    """Summarize a cell so that a collapse neither hides nor carries the rest away.

    Raises:
        ValueError: There are no runs.
    """
    if not sample.runs:
        raise ValueError("no runs to summarize")
    sign = 1.0 if direction is Direction.MAXIMIZE else -1.0
    lost = sample.diverged + sample.failed
    numbers = [-math.inf] * lost + [sign * value for value in sample.values.values()]
    collapsed = lost + sample.collapsed
    low, high = share_interval(collapsed, sample.runs)
    whole = np.array(numbers)
    return RobustSummary(
        mean=None if sample.why_no_mean() else _mean(sample),
        median=_finite(sign * float(np.median(whole))) if lost < sample.runs else None,
        interquartile_mean=_finite(sign * float(interquartile_mean(whole))),
        collapsed=collapsed,
        runs=sample.runs,
        share=collapsed / sample.runs,
        share_low=low,
        share_high=high,
    )


def _mean(sample: Sample) -> float:
    centre = mean(list(sample.on_scale().values()))
    return centre if sample.scale is ValueScale.LINEAR else math.exp(centre)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def share_interval(count: int, runs: int) -> tuple[float, float]:
    """Exact two-sided interval of a share (Clopper and Pearson 1934); it covers at least as often as it says.

    >>> [round(end, 3) for end in share_interval(1, 5)], [round(end, 3) for end in share_interval(0, 3)]
    ([0.005, 0.716], [0.0, 0.708])
    """
    tail = (1.0 - CONFIDENCE) / 2.0
    low = 0.0 if count == 0 else float(special.betaincinv(count, runs - count + 1, tail))
    high = 1.0 if count == runs else float(special.betaincinv(count + 1, runs - count, 1.0 - tail))
    return low, high


def interquartile_mean(
    values: NDArray[np.float64] | Sequence[float], weights: NDArray[np.float64] | Sequence[float] | None = None
) -> NDArray[np.float64]:
    """Mean of the middle half along the last axis; values at the quartiles count in part.

    Where a quarter of the values is a whole number, this is the mean trimmed by 25 % at either side
    (`scipy.stats.trim_mean`, the aggregate of Agarwal et al., Deep Reinforcement Learning at the Edge of the
    Statistical Precipice, 2021). Where it is not, that one trims less: nothing at all of three values.

    Args:
        values: … × n; may be infinite.
        weights: n, positive; equal without.

    >>> float(interquartile_mean([0.0, 1.0, 2.0, 9.0])), round(float(interquartile_mean([0.0, 3.0, 300.0])), 6)
    (1.5, 52.0)
    """
    array = np.asarray(values, dtype=np.float64)
    shares = np.broadcast_to(np.ones(array.shape[-1]) if weights is None else np.asarray(weights), array.shape)
    order = np.argsort(array, axis=-1)
    ordered = np.take_along_axis(array, order, axis=-1)
    upto = np.cumsum(np.take_along_axis(shares, order, axis=-1), axis=-1)
    upto = upto / upto[..., -1:]
    after = np.concatenate([np.zeros((*array.shape[:-1], 1)), upto[..., :-1]], axis=-1)
    inside = np.clip(upto, 0.25, 0.75) - np.clip(after, 0.25, 0.75)
    inside = np.where(inside < 1e-12, 0.0, inside)  # rounding of the sum  # noqa: PLR2004
    return np.asarray(np.where(inside > 0.0, inside * np.where(inside > 0.0, ordered, 0.0), 0.0).sum(axis=-1) * 2.0)
