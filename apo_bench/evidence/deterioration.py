r"""Has anything become worse than it was? Many cells, few seeds, one-sided.

With three seeds a side, a cell has four degrees of freedom of its own at most, and a drop of three standard deviations
in one of eight cells is found in one of eight checks. A baseline and its repetition are of the same competitors,
though, so that cells may lend each other their spread. How much, the cells say themselves (Smyth, Stat. Appl. Genet.
Mol. Biol. 3, 2004): the variances :math:`s_i^2`, each with :math:`d` degrees of freedom, are taken as drawn around a
common one with the strength :math:`d_0` degrees of freedom, and :math:`d_0` follows from how much :math:`\log s_i^2`
spreads beyond what is chance:

.. math:: \mathrm{Var}(\log s_i^2) = \psi'(d/2) + \psi'(d_0/2), \qquad
    \tilde s_i^2 = \frac{d_0 s_0^2 + d\,s_i^2}{d_0 + d}

Two changes make it err on the safe side, since a false alarm stops a merge: :math:`s_0^2` is the arithmetic mean of the
variances, which is no smaller than Smyth's, and a cell's variance is never taken as smaller than its own,
:math:`\max(s_i^2, \tilde s_i^2)`. Degrees of freedom are :math:`d_0` and Welch's together. docs/statistics.md has the
simulated rate of false alarms and what is found.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from apo_bench.evidence.estimates import CONFIDENCE, FEWEST_SEEDS, Estimate, Sample, Verdict, back, is_constant
from apo_bench.evidence.families import contrast, welch_degrees
from apo_bench.records.facts import Direction

_ALIKE = 1e6
"""Degrees of freedom of a prior under which the variances count as one."""

_LARGEST = 1e100
"""Beyond it, sums of squares come near to the largest number."""

Numbers = NDArray[np.float64]


def worse_than_before(
    before: Sequence[Sample],
    after: Sequence[Sample],
    directions: Sequence[Direction],
    *,
    family: int | None = None,
    tolerance: float = 0.0,
) -> list[Estimate]:
    """Compare cells with what they were, all at once.

    Args:
        before: A sample for each cell.
        after: Of the same cells, in the same order.
        directions: Whether more or less is better in each.
        family: Number of cells that were declared; as many as are given, without.
        tolerance: What may become worse before it is called so, on the scale of comparison, in the quantity's own unit.

    Returns:
        For each cell, after − before (or after / before) with a one-sided 95 % bound over the family: the other end is
        infinite, or 0 for a ratio. The verdict is "worse", "undecided" (not worse beyond doubt), or "not judged" with
        its reason. Cells that cannot be judged lend and borrow nothing.

    Raises:
        ValueError: The lists are not equally long, or a family is smaller than the number of its members.
    """
    if not len(before) == len(after) == len(directions):
        raise ValueError(f"cells must have both sides (got {len(before)}, {len(after)} and {len(directions)})")
    size = len(before) if family is None else family
    if size < len(before):
        raise ValueError(f"a family of {size} cannot have {len(before)} members")
    estimates = [
        contrast(now, was, direction, family=size)
        for was, now, direction in zip(before, after, directions, strict=True)
    ]
    for index, (was, now) in enumerate(zip(before, after, strict=True)):
        if estimates[index].verdict is not Verdict.UNJUDGED and _is_too_large(was, now):
            reason = "values are too large for a variance"
            estimates[index] = dataclasses.replace(estimates[index], verdict=Verdict.UNJUDGED, reason=reason)
    judged = [index for index, estimate in enumerate(estimates) if estimate.verdict is not Verdict.UNJUDGED]
    pairs = [(list(before[index].on_scale().values()), list(after[index].on_scale().values())) for index in judged]
    sizes = np.array([[len(was), len(now)] for was, now in pairs], dtype=np.float64).reshape(-1, 2)
    means = np.array([[np.mean(was), np.mean(now)] for was, now in pairs]).reshape(-1, 2)
    variances = np.array([[_variance(was), _variance(now)] for was, now in pairs]).reshape(-1, 2)
    errors, degrees = moderated_errors(variances[None], sizes)
    quantiles = -special.stdtrit(degrees[0], (1.0 - CONFIDENCE) / size) if judged else degrees[0]
    for place, index in enumerate(judged):
        sign = 1.0 if directions[index] is Direction.MAXIMIZE else -1.0
        change = means[place, 1] - means[place, 0]
        reach = quantiles[place] * errors[0, place]
        estimates[index] = _bounded(estimates[index], change, reach, sign, tolerance)
    return [
        dataclasses.replace(estimate, low=None, high=None) if estimate.verdict is Verdict.UNJUDGED else estimate
        for estimate in estimates
    ]


def _is_too_large(was: Sample, now: Sample) -> bool:
    return max(abs(value) for sample in (was, now) for value in sample.on_scale().values()) > _LARGEST


def _variance(values: Sequence[float]) -> float:
    return 0.0 if is_constant(values) else float(np.var(values, ddof=1))


def _bounded(plain: Estimate, change: float, reach: float, sign: float, tolerance: float) -> Estimate:
    """A one-sided estimate; `sign` is 1 where more is better."""
    worse = sign * change + reach < -tolerance
    ends = sorted([change + sign * reach, -sign * math.inf])
    low, high = (back(float(end), plain.scale) for end in ends)
    verdict = Verdict.WORSE if worse else Verdict.UNDECIDED
    return dataclasses.replace(plain, low=low, high=high, verdict=verdict, detectable=None, seeds_needed=None)


def moderated_errors(variances: Numbers, sizes: Numbers) -> tuple[Numbers, Numbers]:
    """Standard errors of differences, with the spread that cells lend each other, and their degrees of freedom.

    Args:
        variances: Unbiased, of both sides; families × cells × 2.
        sizes: Runs; cells × 2, at least two each.

    Returns:
        Errors and degrees of freedom; families × cells.
    """
    if not variances.shape[-2]:
        return np.zeros(variances.shape[:-1]), np.ones(variances.shape[:-1])
    freedom = sizes - 1.0
    total = freedom.sum(axis=-1)
    own = (freedom * variances).sum(axis=-1) / total
    means = variances / sizes
    welch = np.asarray(welch_degrees(means[..., 0], sizes[..., 0], means[..., 1], sizes[..., 1]))
    common = (total * own).sum(axis=-1, keepdims=True) / total.sum()
    prior = np.broadcast_to(_prior_degrees(own, total)[..., None], own.shape)
    shrunk = (np.minimum(prior, _ALIKE) * common + total * own) / (np.minimum(prior, _ALIKE) + total)
    factor = (1.0 / sizes).sum(axis=-1)
    errors = np.sqrt(np.maximum(np.maximum(own, shrunk) * factor, means.sum(axis=-1)))
    return errors, welch + np.minimum(prior, total.sum() - total)


def _prior_degrees(own: Numbers, total: Numbers) -> Numbers:
    """d₀ by the moments of log s², for each family; 0 where one cell has none to ask or a spread of zero."""
    cells = own.shape[-1]
    if cells < FEWEST_SEEDS:
        return np.zeros(own.shape[:-1])
    positive = np.all(own > 0.0, axis=-1)
    logs = np.log(np.where(own > 0.0, own, 1.0)) - special.digamma(total / 2.0) + np.log(total / 2.0)
    excess = logs.var(axis=-1, ddof=1) - special.polygamma(1, total / 2.0).mean()
    prior = 2.0 * _inverse_trigamma(np.maximum(excess, 1.0 / _ALIKE))
    return np.where(positive, np.where(excess > 1.0 / _ALIKE, prior, _ALIKE), 0.0)


def _inverse_trigamma(values: Numbers) -> Numbers:
    """Solve ψ′(x) = value by Newton's iteration on 1/ψ′, convex and nearly linear in x (Smyth 2004, appendix)."""
    x = 0.5 + 1.0 / values
    for _ in range(20):
        trigamma = special.polygamma(1, x)
        x = x + trigamma * (1.0 - trigamma / values) / special.polygamma(2, x)
    return np.asarray(x)
