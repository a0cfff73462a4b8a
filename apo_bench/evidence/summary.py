"""What the runs of a cell come to: a centre and its interval, on the axis of the quantity."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from statistics import median

from apo_bench.evidence.intervals import Interval, mean_interval
from apo_bench.evidence.quantities import Pool, Quantity
from apo_bench.numbers import mean
from apo_bench.records.facts import Axis


@dataclasses.dataclass(frozen=True)
class Summary:
    """A mean with its interval; on a logarithmic axis the geometric mean, and a factor in place of a half-width.

    Attributes:
        interval: On the axis: of the values, or of their logarithms.
        axis: Which.
    """

    interval: Interval
    axis: Axis

    @property
    def mean(self) -> float:
        """Arithmetic mean; on a logarithmic axis the geometric one."""
        return self.interval.mean if self.axis is Axis.LINEAR else _exp(self.interval.mean)

    @property
    def half_width(self) -> float | None:
        """Half the interval's width; `None` at n = 1, and on a logarithmic axis."""
        return self.interval.half_width if self.axis is Axis.LINEAR else None

    @property
    def factor(self) -> float | None:
        """By what the mean is multiplied and divided at the ends of its interval; `None` on a linear axis."""
        half = self.interval.half_width
        return None if half is None or self.axis is Axis.LINEAR else _exp(half)

    @property
    def n(self) -> int:
        """Number of values."""
        return self.interval.n

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside, of a ratio 1; never at n = 1, nor where equal values show no spread to judge by."""
        return self.interval.excludes_zero


def summary(values: Sequence[float], axis: Axis) -> Summary | None:
    """Summarize values; by their logarithms only where all are above zero. `None` of none.

    >>> summary([1e-10, 1e-8], Axis.LOG).mean
    1e-09
    """
    if not values:
        return None
    if axis is Axis.LOG and min(values) > 0:
        return Summary(mean_interval(list(map(math.log, values))), Axis.LOG)
    return Summary(mean_interval(values), Axis.LINEAR)


def contrast(left: Sequence[float], right: Sequence[float], axis: Axis, *, comparisons: int = 1) -> Summary | None:
    """Left against right, paired: a mean difference, or on a logarithmic axis a mean ratio.

    Args:
        left: Values.
        right: Their partners.
        axis: On which they are compared; a logarithm of what is not above zero leaves the linear one.
        comparisons: How many such intervals are to hold together.

    Returns:
        `None` without a pair, and where a difference is larger than any number.
    """
    if not left:
        return None
    if axis is Axis.LOG and min(*left, *right) > 0:
        pairs = [(math.log(one), math.log(other)) for one, other in zip(left, right, strict=True)]
    else:
        axis = Axis.LINEAR
        pairs = list(zip(left, right, strict=True))
    differences = [one - other for one, other in pairs]
    if not all(map(math.isfinite, differences)):  # one of two extremes may be larger than any
        return None
    return Summary(mean_interval(differences, comparisons=comparisons), axis)


def pooled(quantity: Quantity, values: Iterable[float | None]) -> float | None:
    """One number of the runs of a cell, as the quantity says; `None` where none is known."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    match quantity.pool:
        case Pool.LARGEST:
            return max(known)
        case Pool.MEDIAN:
            return median(known)
        case Pool.MEAN:
            return mean(known)


def _exp(logarithm: float) -> float:
    try:
        return math.exp(logarithm)
    except OverflowError:
        return math.inf
