r"""Comparisons of two samples, of which a whole family holds together.

**The interval.** Runs of two competitors on the same seeds share initial weights and batches. In the project's own
records that explains next to nothing, the standard deviations of cells
differ by factors of 3 to 200, and at n = 3 a paired interval has two degrees of freedom. So the default is unpaired and
does not pool variances (Welch, Biometrika 34, 1947):

.. math:: \bar x_l - \bar x_r \pm t_{\nu,\,1-\alpha/2m}\,\sqrt{s_l^2/n_l + s_r^2/n_r}

with m the declared size of the family (Bonferroni; Dunn, JASA 56, 1961). Welch's degrees of freedom

.. math:: \nu_W = 1 \Big/ \Big( \frac{c^2}{n_l-1} + \frac{(1-c)^2}{n_r-1} \Big), \qquad
    c = \frac{s_l^2/n_l}{s_l^2/n_l + s_r^2/n_r}

are an approximation for the middle of the distribution. A family looks at its far tail, where with three seeds and
standard deviations that differ tenfold the error of one of seven comparisons is 1.9 times the nominal one. Here

.. math:: \nu = \max\Big( 1 \Big/ \max\Big(\frac{c}{n_l-1}, \frac{1-c}{n_r-1}\Big) - \frac12,\;
    \min(n_l, n_r) - 1 \Big)

whose first term is smaller than Welch's (a mean of weights is at most the largest) and whose second is the bound that
is conservative whatever the variances are (Mickey and Brown, Ann. Math. Stat. 37, 1966). It was chosen by simulation:
docs/statistics.md has error, coverage, width and power of this and of the alternatives, in families of 7 and of 30.

**The family.** Its size is declared and does not depend on what lies in a store: missing members change no width. One
step, no step-down (Holm, Scand. J. Stat. 6, 1979): a verdict is read off its own interval and does not change when
another cell gets a seed.

**Equivalence.** Two one-sided tests (Schuirmann, J. Pharmacokin. Biopharm. 15, 1987) at the error of 5 % / m each: the
interval at 1 − 2α/m lies within the margin. Claiming a difference in the wrong direction implies the event of a false
equivalence, so that both verdicts together keep α/m.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from apo_bench.evidence.estimates import (
    CONFIDENCE,
    FEWEST_SEEDS,
    Estimate,
    Sample,
    ValueScale,
    Verdict,
    back,
    is_constant,
    quantile,
)
from apo_bench.numbers import deviation, mean
from apo_bench.records.facts import Direction

POWER = 0.8
"""With which a difference "would have been found"."""
MOST_SEEDS = 1000
"""Beyond this many seeds a side, "how many more" is no advice."""

Numbers = NDArray[np.float64]


def degrees_of_freedom(left: Any, n_left: Any, right: Any, n_right: Any) -> Any:
    r"""Cautious degrees of freedom of a difference: ν above.

    Args:
        left: :math:`s_l^2/n_l`, a number or an array.
        n_left: :math:`n_l`.
        right: :math:`s_r^2/n_r`.
        n_right: :math:`n_r`.

    Returns:
        ν, shaped as the arguments are together.

    >>> float(degrees_of_freedom(1.0, 10, 1.0, 10)), float(degrees_of_freedom(1.0, 3, 0.0, 3))
    (17.5, 2.0)
    """
    share = _share(left, right)
    largest = np.maximum(share / (np.asarray(n_left) - 1.0), (1.0 - share) / (np.asarray(n_right) - 1.0))
    return np.maximum(1.0 / largest - 0.5, np.minimum(n_left, n_right) - 1.0)


def welch_degrees(left: Any, n_left: Any, right: Any, n_right: Any) -> Any:
    """Welch's degrees of freedom as they are; of a side without spread, those of the other."""
    share = _share(left, right)
    return 1.0 / (share**2 / (np.asarray(n_left) - 1.0) + (1.0 - share) ** 2 / (np.asarray(n_right) - 1.0))


def _share(left: Any, right: Any) -> Any:
    total = np.add(left, right)
    return np.divide(left, np.where(total > 0.0, total, 1.0))  # scale-free, so that no square overflows


def contrast(
    left: Sample,
    right: Sample,
    direction: Direction,
    *,
    family: int = 1,
    margin: float | None = None,
    planned: int | None = None,
    exact: bool = False,
    paired: bool = False,
) -> Estimate:
    """Compare two samples: left − right, or left / right on a logarithmic scale.

    Args:
        left: Of whom the verdict speaks.
        right: With whom it is compared; on the same scale.
        direction: Whether more or less is better.
        family: Number of comparisons that hold together at 95 %, as declared before the runs.
        margin: What makes no difference in practice: in the quantity's own unit, a ratio above 1 on a logarithmic
            scale. With it a comparison may come out as equivalent, also where its interval excludes "no difference".
        planned: Seeds after which the comparison was planned to be judged. Whoever looks after every seed, and stops as
            soon as there is a difference, finds one too often where there is none (docs/statistics.md); with fewer
            seeds than planned there is no verdict.
        exact: The quantity is a count without noise: where neither side shows a spread, any difference is one.
        paired: Compare seed by seed, over the seeds that both have (Student's paired t). Declared before the runs, for
            two versions of one thing; the default does not pair.

    Raises:
        ValueError: The samples are on different scales, or family or margin are out of range.
    """
    if left.scale is not right.scale:
        raise ValueError(f"samples must be on one scale (got {left.scale} and {right.scale})")
    if family < 1:
        raise ValueError(f"a family must have a member (got {family})")
    width = None if margin is None else _on_scale(margin, left.scale)
    n = len(left.values.keys() & right.values.keys()) if paired else min(left.n, right.n)
    plain = Estimate(None, None, None, n, left.scale, family, Verdict.UNJUDGED, doubt=_doubt(left, right, planned))
    reason = _why_no_difference(left, right) or ("no seed in common" if paired and not n else "")
    if reason:
        return dataclasses.replace(plain, reason=reason)
    spread = _paired(left, right) if paired else _unpaired(left, right)
    value = back(spread.value, left.scale)
    if not (math.isfinite(value) and math.isfinite(spread.error)):
        return dataclasses.replace(plain, reason="the difference is larger than any number")
    plain = dataclasses.replace(plain, value=value)
    if spread.error == 0.0:
        return _without_spread(plain, spread.value, direction, exact=exact)
    return _with_interval(plain, spread, direction, width, planned)


def _with_interval(
    plain: Estimate, spread: "_Spread", direction: Direction, width: float | None, planned: int | None
) -> Estimate:
    if not spread.degrees:
        return dataclasses.replace(plain, reason=_too_few(plain.n))
    half = quantile(spread.degrees, plain.family) * spread.error
    low, high = back(spread.value - half, plain.scale), back(spread.value + half, plain.scale)
    if not (math.isfinite(low) and math.isfinite(high)):
        return dataclasses.replace(plain, reason="its interval ends beyond the largest number")
    plain = dataclasses.replace(plain, low=low, high=high)
    if plain.n < FEWEST_SEEDS:
        return dataclasses.replace(plain, reason=_too_few(plain.n))
    if planned is not None and plain.n < planned:
        return dataclasses.replace(plain, reason=f"{plain.n} of {planned} planned seeds")
    return _judged(plain, spread, half, width, direction)


@dataclasses.dataclass(frozen=True)
class _Spread:
    """A difference on the scale of comparison, its standard error, and what the error was estimated from."""

    value: float
    error: float
    degrees: float
    deviations: tuple[float, float]
    paired: bool

    def error_at(self, n: int) -> tuple[float, float]:
        """Standard error and degrees of freedom with n seeds a side, were the spreads these."""
        left, right = (spread / math.sqrt(n) for spread in self.deviations)
        error = math.hypot(left, right)
        shares = (left / error) ** 2, (right / error) ** 2
        degrees = n - 1.0 if self.paired else float(degrees_of_freedom(shares[0], n, shares[1], n))
        return error, degrees


def _unpaired(left: Sample, right: Sample) -> _Spread:
    one, other = list(left.on_scale().values()), list(right.on_scale().values())
    value = mean(one) - mean(other)
    deviations = [0.0 if is_constant(numbers) else deviation(numbers) for numbers in (one, other)]
    error = math.hypot(deviations[0] / math.sqrt(len(one)), deviations[1] / math.sqrt(len(other)))
    if not 0.0 < error < math.inf or min(len(one), len(other)) == 1:  # nothing to judge by
        return _Spread(value, error, 0.0, (0.0, 0.0), paired=False)
    shares = [(spread / error) ** 2 / len(numbers) for spread, numbers in zip(deviations, (one, other), strict=True)]
    degrees = float(degrees_of_freedom(shares[0], len(one), shares[1], len(other)))
    return _Spread(value, error, degrees, (deviations[0], deviations[1]), paired=False)


def _paired(left: Sample, right: Sample) -> _Spread:
    one, other = left.on_scale(), right.on_scale()
    differences = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    n = len(differences)
    if not all(map(math.isfinite, differences)):
        return _Spread(math.inf, math.inf, 0.0, (0.0, 0.0), paired=True)
    largest = max(abs(number) for numbers in (one, other) for number in numbers.values())
    if max(differences) - min(differences) <= 1e-9 * largest:  # equal but for the rounding of what was subtracted
        return _Spread(mean(differences), 0.0, 0.0, (0.0, 0.0), paired=True)
    spread = deviation(differences)
    return _Spread(mean(differences), spread / math.sqrt(n), n - 1.0, (spread, 0.0), paired=True)


def _on_scale(margin: float, scale: ValueScale) -> float:
    width = margin if scale is ValueScale.LINEAR else math.log(max(margin, 1.0))
    if not 0.0 < width < math.inf:
        bound = "a positive difference" if scale is ValueScale.LINEAR else "a ratio above 1"
        raise ValueError(f"a margin must be {bound} (got {margin})")
    return width


def _too_few(n: int) -> str:
    return f"n = {n}; a difference is judged from {FEWEST_SEEDS} seeds on"


def _why_no_difference(left: Sample, right: Sample) -> str:
    reasons = [
        f"{sample.name or side}: {reason}"
        for sample, side in ((left, "left"), (right, "right"))
        if (reason := sample.why_no_mean())
    ]
    return "; ".join(reasons)


def _doubt(left: Sample, right: Sample, planned: int | None) -> str:
    doubts = [f"{one.name or side}: {one.doubt}" for one, side in ((left, "left"), (right, "right")) if one.doubt]
    if planned is not None and max(left.n, right.n) > planned:
        doubts.append(f"{max(left.n, right.n)} seeds, {planned} planned: runs added after a look raise the error")
    return "; ".join(doubts)


def _without_spread(plain: Estimate, value: float, direction: Direction, *, exact: bool) -> Estimate:
    """Equal values in all seeds say something only where the quantity has no noise."""
    if not exact:
        reason = _too_few(plain.n) if plain.n < FEWEST_SEEDS else "equal values in all seeds show no spread to judge by"
        return dataclasses.replace(plain, reason=reason)
    bound = back(value, plain.scale)
    verdict = Verdict.EQUIVALENT if math.isclose(bound, plain.null, rel_tol=1e-12) else _side(value, direction)
    return dataclasses.replace(plain, low=bound, high=bound, verdict=verdict)


def _side(value: float, direction: Direction) -> Verdict:
    return Verdict.BETTER if (value > 0.0) == (direction is Direction.MAXIMIZE) else Verdict.WORSE


def _judged(plain: Estimate, spread: _Spread, half: float, width: float | None, direction: Direction) -> Estimate:
    one_sided = quantile(spread.degrees, plain.family, sides=1) * spread.error
    if width is not None and abs(spread.value) + one_sided < width:
        return dataclasses.replace(plain, verdict=Verdict.EQUIVALENT)
    if abs(spread.value) > half:
        return dataclasses.replace(plain, verdict=_side(spread.value, direction))
    smallest = _noncentrality(spread.degrees, plain.family) * spread.error
    return dataclasses.replace(
        plain,
        verdict=Verdict.UNDECIDED,
        detectable=back(smallest, plain.scale),
        seeds_needed=_seeds_needed(spread, plain),
    )


def _noncentrality(degrees: float, family: int) -> float:
    """Differences in standard errors that a two-sided test of a family finds with a probability of 80 %.

    By the noncentral t distribution; the other side's share is left out, it is below 1e-6 of this power.
    """
    return float(special.nctdtrinc(degrees, 1.0 - POWER, quantile(degrees, family)))


def _seeds_needed(spread: _Spread, plain: Estimate) -> int | None:
    def finds(n: int) -> bool:
        error, degrees = spread.error_at(n)
        return abs(spread.value) >= _noncentrality(degrees, plain.family) * error

    low, high = plain.n, MOST_SEEDS
    if not finds(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if finds(middle) else (middle, high)
    return high


def family_bounds(
    means: Numbers, variances: Numbers, sizes: Numbers, reference: int, *, family: int
) -> tuple[Numbers, Numbers, Numbers]:
    """Differences to a reference, with simultaneous intervals, of many families at once (for simulations).

    Args:
        means: Of cells; families × cells.
        variances: Unbiased; families × cells.
        sizes: Runs of each cell; cells, or families × cells.
        reference: Which cell is compared with; it has no contrast with itself.
        family: Number of intervals that hold together.

    Returns:
        Values, lower and upper ends; families × (cells − 1). Each is what `contrast` gives.
    """
    others = np.arange(means.shape[-1]) != reference
    errors = variances / sizes
    sizes = np.broadcast_to(sizes, means.shape)
    degrees = degrees_of_freedom(errors[:, others], sizes[:, others], errors[:, [reference]], sizes[:, [reference]])
    half = -special.stdtrit(degrees, (1.0 - CONFIDENCE) / (2 * family))
    half = half * np.sqrt(errors[:, others] + errors[:, [reference]])
    values = means[:, others] - means[:, [reference]]
    return values, values - half, values + half
