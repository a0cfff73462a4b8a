"""Interval estimates over seeds, by Student's t."""

import dataclasses
import math
from collections.abc import Sequence

from scipy import special  # not `stats`, which takes most of a second to import

from apo_bench.numbers import deviation, mean

CONFIDENCE = 0.95
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with its two-sided interval.

    Attributes:
        mean: Sample mean.
        half_width: Half the interval's width; `None` at n = 1, where nothing is known of the spread.
        n: Number of values.
    """

    mean: float
    half_width: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside; never at n = 1, nor where equal values show no spread to judge by."""
        return self.half_width is not None and 0.0 < self.half_width < abs(self.mean)


def mean_interval(values: Sequence[float], *, comparisons: int = 1) -> Interval:
    """Two-sided t interval of the mean.

    Args:
        values: One a seed, at least one.
        comparisons: Number of intervals of a family that are to hold together at the confidence of 95 %
            (Bonferroni); 1 for a single interval.

    >>> mean_interval([1.0, 2.0, 3.0])
    Interval(mean=2.0, half_width=2.484..., n=3)
    >>> mean_interval([1.0])
    Interval(mean=1.0, half_width=None, n=1)
    """
    n = len(values)
    centre = mean(values)
    if n == 1:
        return Interval(centre, None, 1)
    quantile = float(special.stdtrit(n - 1, 1.0 - (1.0 - CONFIDENCE) / (2 * comparisons)))
    return Interval(centre, quantile * standard_error(values), n)


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of at least two values; 0 where they differ by rounding only."""
    if max(values) - min(values) <= _ROUNDING * max(map(abs, values)):
        return 0.0
    return deviation(values) / math.sqrt(len(values))
