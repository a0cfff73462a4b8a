"""Statistics of numbers of any size: a mean of large ones is no error because their sum is none."""

import math
from collections.abc import Sequence
from statistics import stdev


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean.

    Args:
        values: At least one; finite.

    >>> mean([1.0, 2.0]), mean([1.5e308, 1.7e308])
    (1.5, 1.6e+308)
    """
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        small = _small(values)
        return math.fsum(value * small for value in values) / len(values) / small


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample; infinite where it is larger than any number.

    Args:
        values: At least two; finite.

    >>> deviation([1.0, 3.0]), deviation([-1.7e308, 1.7e308])
    (1.4142135623730951, inf)
    """
    try:
        return stdev(values)
    except OverflowError:
        small = _small(values)
        return stdev([value * small for value in values]) / small


def _small(values: Sequence[float]) -> float:
    """A power of two, so that nothing is rounded, by which the sum of such values comes to be a number."""
    return 0.5 ** (2 + len(values).bit_length())
