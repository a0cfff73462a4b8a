r"""Cost until a target is reached, by runs of which some never reach it.

A run that ends at its budget without having reached the target is censored there: it would have taken longer. A run
that diverged or raised never reaches it: its cost is infinite. A mean exists for neither; quantiles do, as long as
enough runs reached the target. Cost is any axis: steps, seconds, FLOPs.

Costs are known to the distance between evaluations only: a target counts as reached at the first evaluation that sees
it.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from apo_bench.evidence.estimates import CONFIDENCE


@dataclasses.dataclass(frozen=True)
class Arrival:
    """When a run reached a target.

    Attributes:
        cost: Cost at the first evaluation that saw the target; where none did, the cost at which the run ended, or
            infinity where it diverged or raised.
        reached: Whether one did.

    Raises:
        ValueError: The cost is negative or no number, or the target was reached at an infinite cost.
    """

    cost: float
    reached: bool = True

    def __post_init__(self) -> None:
        if not self.cost >= 0.0 or (self.reached and math.isinf(self.cost)):
            raise ValueError(f"a cost must be a number that is not negative (got {self.cost})")

    @classmethod
    def never(cls) -> "Arrival":
        """Of a run that diverged or raised: no budget would have been enough."""
        return cls(math.inf, reached=False)


@dataclasses.dataclass(frozen=True)
class CensoredQuantile:
    """A quantile of the cost to a target.

    Attributes:
        value: Smallest cost at which that share of runs had reached it; infinite where so many did not.
        low: Lower end of the interval.
        high: Upper end; infinite where the runs do not bound it.
        coverage: With which probability the interval covers at least, whatever the distribution is: 95 % or more where
            there are enough runs, and otherwise what the fewest and the most that was seen cover.
        n: Number of runs.
        reached: How many of them reached the target.
    """

    value: float
    low: float
    high: float
    coverage: float
    n: int
    reached: int


def cost_quantile(arrivals: Sequence[Arrival], share: float = 0.5) -> CensoredQuantile:
    r"""A quantile of the cost to a target, with an interval that assumes nothing of the distribution.

    The value is that of Kaplan and Meier (JASA 53, 1958), :math:`\min\{t : \hat S(t) \le 1 - q\}`. With runs that all
    have one budget it is an order statistic, and the interval :math:`[x_{(l)}, x_{(u)}]` covers with the probability of
    :math:`l \le B < u`, where B is binomial with n and q (Conover, Practical Nonparametric Statistics, 3.2). With
    budgets that differ, the interval is that of Brookmeyer and Crowley (Biometrics 38, 1982), on the scale of log(−log
    S).

    With fewer than six runs no interval of a median covers 95 %: five runs cover 93.75 %, three 75 %.

    Args:
        arrivals: One a run.
        share: q, between 0 and 1; the median without.

    Raises:
        ValueError: There is no run, or q is not inside of (0, 1).

    >>> cost_quantile([Arrival(10), Arrival(30), Arrival(20), Arrival(50, reached=False), Arrival.never()])
    CensoredQuantile(value=30, low=10, high=inf, coverage=0.9375, n=5, reached=3)
    """
    if not arrivals or not 0.0 < share < 1.0:
        raise ValueError(f"a quantile needs runs, and a share between 0 and 1 (got {len(arrivals)} and {share})")
    times, surviving = kaplan_meier(arrivals)
    reached = sum(arrival.reached for arrival in arrivals)
    below = np.flatnonzero(surviving <= 1.0 - share + 1e-12)
    value = _plain(times[below[0]]) if below.size else math.inf
    if _one_budget(arrivals):
        ordered = sorted(arrival.cost if arrival.reached else math.inf for arrival in arrivals)
        first, last, coverage = _order_statistics(len(ordered), share)
        return CensoredQuantile(value, ordered[first], ordered[last], coverage, len(arrivals), reached)
    low, high = _brookmeyer_crowley(arrivals, times, surviving, share)
    return CensoredQuantile(value, low, high, CONFIDENCE, len(arrivals), reached)


def _plain(number: float) -> float:
    return int(number) if float(number).is_integer() else float(number)


def _one_budget(arrivals: Sequence[Arrival]) -> bool:
    """Whether no run was censored before another one reached the target."""
    censored = min((arrival.cost for arrival in arrivals if not arrival.reached), default=math.inf)
    return all(arrival.cost <= censored for arrival in arrivals if arrival.reached)


def kaplan_meier(arrivals: Sequence[Arrival]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Costs at which runs reached the target, and the estimated share that has not yet done so after each.

    `scipy.stats.ecdf` computes the same of finite costs; it is not used, since it takes most of a second to import.
    """
    costs = np.array([arrival.cost for arrival in arrivals], dtype=np.float64)
    reached = np.array([arrival.reached for arrival in arrivals])
    times = np.unique(costs[reached])
    at_risk = (costs[None, :] >= times[:, None]).sum(axis=1)
    events = ((costs[None, :] == times[:, None]) & reached[None, :]).sum(axis=1)
    return times, np.cumprod(1.0 - events / at_risk)


def _order_statistics(n: int, share: float) -> tuple[int, int, float]:
    """Places (from 0) of the ends of the narrowest symmetric interval that covers 95 %, and its coverage.

    Symmetric in probability: each end is moved in as long as its own tail stays within 2.5 %. Where even the outermost
    ones do not cover, these.
    """
    tail = (1.0 - CONFIDENCE) / 2.0
    counts = np.arange(n + 1)
    upto = special.bdtr(counts, n, share)  # P(B ≤ count)
    first = max(int((upto <= tail).sum()) - 1, 0)
    last = min(int(np.argmax(upto >= 1.0 - tail)), n - 1)
    return first, last, float(upto[last] - upto[first])


def _brookmeyer_crowley(
    arrivals: Sequence[Arrival], times: NDArray[np.float64], surviving: NDArray[np.float64], share: float
) -> tuple[float, float]:
    """All costs at which the hypothesis S = 1 − q is not rejected at 5 %, by Greenwood's variance of log(−log S)."""
    costs = np.array([arrival.cost for arrival in arrivals])
    at_risk = (costs[None, :] >= times[:, None]).sum(axis=1)
    events = np.array([sum(a.reached and a.cost == time for a in arrivals) for time in times])
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = np.cumsum(events / (at_risk * (at_risk - events)))
        spread = np.sqrt(greenwood) / np.abs(np.log(surviving))
        distance = (np.log(-np.log(surviving)) - math.log(-math.log(1.0 - share))) / spread
    z = float(special.ndtri(1.0 - (1.0 - CONFIDENCE) / 2.0))
    early = np.flatnonzero(~(distance < -z))  # the share is not surely above 1 − q from here on
    late = np.flatnonzero((distance > z) | (surviving == 0.0))  # surely below
    low = _plain(times[early[0]]) if early.size else (_plain(times[-1]) if times.size else math.inf)
    return low, _plain(times[late[0]]) if late.size else math.inf
