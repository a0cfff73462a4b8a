"""Estimates with intervals: the one type behind every number that has an uncertainty, and what was made of it.

A `Sample` holds what the runs of a cell gave, seed by seed. An `Estimate` is a number that was computed from one sample
or two, with its interval and, where it is a comparison, its verdict. Nothing here knows of records or of pages.

Quantities that are positive and vary by factors (squared errors, times) are compared on logarithms: the mean is then
the geometric mean, a difference is a ratio, and an interval is one of ratios.

>>> estimate = mean_estimate(Sample.of([1.0, 2.0, 3.0]))
>>> round(estimate.value, 3), round(estimate.low, 3), round(estimate.high, 3)
(2.0, -0.484, 4.484)
>>> ratios = mean_estimate(Sample.of([1.0, 10.0, 100.0], scale=ValueScale.LOG))
>>> round(ratios.value, 3), round(ratios.low, 4), round(ratios.high, 1)
(10.0, 0.0328, 3048.9)
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum

from scipy import special  # not `stats`, which takes most of a second to import

from apo_bench.numbers import deviation, mean

CONFIDENCE = 0.95
"""Of an interval, and of all intervals of a family together."""
FEWEST_SEEDS = 3
"""With one value nothing is known of the spread, and with two almost nothing: t with one degree of freedom."""
_ROUNDING = 1e-9
"""Relative range under which values differ by rounding only."""


class ValueScale(StrEnum):
    """How values are compared."""

    LINEAR = "linear"
    LOG = "log"


class Verdict(StrEnum):
    """What a comparison says of the left side."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"
    UNJUDGED = "not judged"


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the runs of a cell gave.

    Failures of the machine are not in it: they say nothing about the competitor.

    Attributes:
        values: By seed, of the runs that have a value; finite.
        scale: On which scale they are compared.
        diverged: Runs that diverged, and have no value.
        failed: Runs in which the competitor raised, and that have no value.
        collapsed: How many of the values come from runs that collapsed (`apo_bench.evidence.collapse`).
        name: For reasons; may be empty.

    Raises:
        ValueError: A value is not finite, or a count is negative or larger than the number of values.
    """

    values: Mapping[int, float]
    scale: ValueScale = ValueScale.LINEAR
    diverged: int = 0
    failed: int = 0
    collapsed: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.values.values())):
            raise ValueError(f"values must be finite (got {dict(self.values)}); count diverged runs in `diverged`")
        if min(self.diverged, self.failed, self.collapsed) < 0 or self.collapsed > len(self.values):
            raise ValueError("counts of runs must be neither negative nor larger than the number of runs")

    @classmethod
    def of(
        cls,
        values: Sequence[float],
        *,
        scale: ValueScale = ValueScale.LINEAR,
        diverged: int = 0,
        failed: int = 0,
        collapsed: int = 0,
        name: str = "",
    ) -> "Sample":
        """A sample whose seeds do not matter: they are numbered from 0."""
        return cls(dict(enumerate(values)), scale, diverged, failed, collapsed, name)

    @property
    def n(self) -> int:
        """Number of values."""
        return len(self.values)

    @property
    def runs(self) -> int:
        """Number of runs, with those that have no value."""
        return self.n + self.diverged + self.failed

    @property
    def has_logarithms(self) -> bool:
        """Whether the values can be put on the scale on which they are compared."""
        return self.scale is ValueScale.LINEAR or all(value > 0.0 for value in self.values.values())

    def on_scale(self) -> dict[int, float]:
        """The values by seed, as logarithms where they are compared on these.

        Raises:
            ValueError: A value has no logarithm.
        """
        if self.scale is ValueScale.LINEAR:
            return dict(self.values)
        return {seed: math.log(value) for seed, value in self.values.items()}

    def why_no_mean(self) -> str:
        """Why a mean over the runs with a value says nothing of the competitor, or there is none; empty otherwise.

        A mean over the survivors flatters: a divergence is a result, and the worst one.
        """
        said = [f"{count} of {self.runs} {what}" for count, what in self._lost() if count]
        if said and not self.n:
            return f"no run has a value: {', '.join(said)}"
        if said:
            return f"{', '.join(said)}: a mean over the others would flatter"
        if not self.n:
            return "no runs"
        return "" if self.has_logarithms else "a value that is not positive has no logarithm"

    def _lost(self) -> list[tuple[int, str]]:
        return [(self.diverged, "diverged"), (self.failed, "raised")]

    @property
    def doubt(self) -> str:
        """Why its intervals may cover less often than they say; empty where nothing is known against them."""
        if not self.collapsed:
            return ""
        return (
            f"{self.collapsed} of {self.n} runs collapsed: heavy tails, of which a t interval covers less than it says"
        )


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number, its interval, and what follows.

    Attributes:
        value: On the quantity's own scale; of a comparison, left − right, or left / right where the scale is
            logarithmic. `None` where there is none, with the reason.
        low: Lower end of the interval; `None` without one.
        high: Upper end.
        n: Number of values behind it; of a comparison, on the side with fewer.
        scale: Whether value and bounds are differences (linear) or ratios (log).
        family: Number of intervals that hold together at the confidence of 95 %, as declared.
        verdict: On the left side of a comparison; `None` where the number is no comparison.
        reason: Why there is no verdict, no interval or no value; empty otherwise.
        doubt: Why the interval may cover less often than it says; empty where nothing is known against it.
        detectable: Of an undecided comparison, the smallest difference (or ratio above 1) that would have been found
            with a probability of about 80 %, were the spread the one that was seen.
        seeds_needed: Of an undecided comparison, seeds a side with which the difference that was seen would be found
            with a probability of 80 %, were difference and spread as they were seen; `None` where it is more than can
            be said. Like all that is computed from few runs, it is an order of magnitude.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    scale: ValueScale = ValueScale.LINEAR
    family: int = 1
    verdict: Verdict | None = None
    reason: str = ""
    doubt: str = ""
    detectable: float | None = None
    seeds_needed: int | None = None

    @property
    def half_width(self) -> float | None:
        """Half the width of an interval of differences; infinite where it has one end; `None` without an interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2.0

    @property
    def null(self) -> float:
        """The value that means "no difference"."""
        return 1.0 if self.scale is ValueScale.LOG else 0.0

    @property
    def excludes_null(self) -> bool:
        """Whether "no difference" lies outside of the interval."""
        return self.low is not None and self.high is not None and not self.low <= self.null <= self.high

    @property
    def seeds_missing(self) -> int | None:
        """Seeds a side still to be run before the difference that was seen would be found."""
        return None if self.seeds_needed is None else max(self.seeds_needed - self.n, 0)


def mean_estimate(sample: Sample, *, family: int = 1) -> Estimate:
    r"""Mean of a sample with its two-sided t interval (Student, Biometrika 6, 1908).

    .. math:: \bar x \pm t_{n-1,\,1-\alpha/2m}\; s/\sqrt n

    On a logarithmic scale, the geometric mean. The interval is exact for normal values. It is not for heavy tails,
    which `Estimate.doubt` says where a collapsed run was seen; where none was seen, n values cannot tell
    (docs/statistics.md).

    Args:
        sample: Its runs.
        family: m, number of intervals that hold together at 95 % (Bonferroni).

    Returns:
        No value where runs diverged or raised, no interval at n = 1 nor from equal values, always with the reason.
    """
    plain = Estimate(None, None, None, sample.n, sample.scale, family)
    reason = sample.why_no_mean()
    if reason:
        return dataclasses.replace(plain, reason=reason)
    numbers = list(sample.on_scale().values())
    centre = mean(numbers)
    value = back(centre, sample.scale)
    plain = dataclasses.replace(plain, value=value, doubt=sample.doubt)
    if sample.n == 1:
        return dataclasses.replace(plain, reason="n = 1 shows no spread")
    if is_constant(numbers):
        return dataclasses.replace(plain, reason="equal values show no spread")
    half = quantile(sample.n - 1, family) * deviation(numbers) / math.sqrt(sample.n)
    low, high = back(centre - half, sample.scale), back(centre + half, sample.scale)
    if not (math.isfinite(low) and math.isfinite(high)):
        return dataclasses.replace(plain, reason="its interval ends beyond the largest number")
    return dataclasses.replace(plain, low=low, high=high)


def quantile(degrees: float, family: int, *, sides: int = 2) -> float:
    """Student's quantile for one of a family of intervals (Bonferroni): t with the error of 5 % / family / sides.

    >>> round(quantile(4, 1), 3), round(quantile(4, 7), 3)
    (2.776, 5.068)
    """
    return -float(special.stdtrit(degrees, (1.0 - CONFIDENCE) / (sides * family)))


def is_constant(values: Sequence[float]) -> bool:
    """Whether values differ by rounding only.

    >>> is_constant([0.1 + 0.2, 0.3]), is_constant([0.3, 0.300001]), is_constant([1.0])
    (True, False, True)
    """
    return max(values) - min(values) <= _ROUNDING * max(map(abs, values))


def back(number: float, scale: ValueScale) -> float:
    """From the scale of comparison to the quantity's own; infinite where it is larger than any number."""
    if scale is ValueScale.LINEAR:
        return number
    try:
        return math.exp(number)
    except OverflowError:
        return math.inf
