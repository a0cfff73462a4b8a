r"""Who reaches how many targets at which cost: profiles over tasks, targets and seeds.

Two curves answer two questions. The *runtime distribution* says which share of all (task, target, seed) is reached at a
cost of at most c: absolute costs, as in COCO (Hansen et al., COCO: a platform for comparing continuous optimizers in a
black-box setting, Optimization Methods and Software 36, 2021), without its simulated restarts. The *performance
profile* says which share of all (task, target) is reached at no more than τ times the cost of the best competitor there
(Dolan and Moré, Mathematical Programming 91, 2002): at τ = 1, how often it is the fastest; at its right end, how much
it reaches at all. A profile compares each competitor with the best; it does not rank the others among each other (Gould
and Scott, ACM Transactions on Mathematical Software 43, 2016).

Every (task, target) weighs the same within a task, and every task the same. Targets of one run depend on each other, so
the bands come from a bootstrap of runs, stratified by task; they are pointwise.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from apo_bench.evidence.estimates import CONFIDENCE, FEWEST_SEEDS

DRAWS = 1_000

Numbers = NDArray[np.float64]
Costs = Mapping[str, Sequence[Sequence[float]]]
"""Of one competitor, by task: a row a run, with the cost to each target of the task; infinite where it was not
reached."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """A share of targets against cost.

    Attributes:
        at: Costs, or ratios to the best, ascending.
        share: Share of targets that are reached there.
        low: Lower end of the pointwise 95 % band; empty below three runs on some task.
        high: Upper end.
    """

    at: tuple[float, ...]
    share: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


def runtime_distribution(costs: Costs, at: Sequence[float], *, draws: int = DRAWS, seed: int = 0) -> Curve:
    """Share of (task, target, seed) that one competitor reaches at a cost of at most each of the given ones.

    Args:
        costs: By task, runs × targets. A run that diverged has reached what it had reached before.
        at: Costs at which the curve is wanted.
        draws: Of the bootstrap.
        seed: Of its generator.

    Raises:
        ValueError: There is no task, or a task without runs or targets, or with rows of different length.
    """
    tasks = [_matrix(rows, task) for task, rows in costs.items()]
    if not tasks:
        raise ValueError("a runtime distribution needs a task")
    grid = np.asarray(at, dtype=np.float64)
    hits = [(rows[:, :, None] <= grid).mean(axis=1) for rows in tasks]  # a run's share of targets, runs × grid
    share = np.mean([task.mean(axis=0) for task in hits], axis=0)
    if min(len(task) for task in hits) < FEWEST_SEEDS:
        return Curve(_tuple(grid), _tuple(share))
    generator = np.random.default_rng(seed)
    drawn = np.mean([task[_again(len(task), draws, generator)].mean(axis=1) for task in hits], axis=0)
    low, high = _band(drawn)
    return Curve(_tuple(grid), _tuple(share), low, high)


def performance_profiles(
    costs: Mapping[str, Costs], at: Sequence[float], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Curve]:
    r"""Performance profiles of several competitors.

    .. math:: \rho_s(\tau) = \operatorname{mean}_p\; [\, t_{p,s} \le \tau \min_{s'} t_{p,s'} \,]

    with p a (task, target) and :math:`t_{p,s}` the median over runs, the smallest cost at which half of them reached
    it. A target that no competitor reaches counts as missed by all.

    Args:
        costs: By competitor and task, runs × targets. A competitor without a task has reached nothing there.
        at: Ratios τ ≥ 1.
        draws: Of the bootstrap.
        seed: Of its generator.

    Raises:
        ValueError: Competitors have different numbers of targets on a task, or a task has no runs or targets.
    """
    tasks = sorted({task for own in costs.values() for task in own})
    matrices = {name: {task: _matrix(rows, task) for task, rows in own.items()} for name, own in costs.items()}
    for task in tasks:
        if len(widths := {own[task].shape[1] for own in matrices.values() if task in own}) > 1:
            raise ValueError(f"competitors must have the same targets on {task} (got {sorted(widths)} targets)")
    if not tasks:
        raise ValueError("a performance profile needs a task")
    taus = np.asarray(at, dtype=np.float64)
    generator = np.random.default_rng(seed)
    points, drawn = [], []
    for task in tasks:
        width = next(own[task].shape[1] for own in matrices.values() if task in own)
        medians, again = [], []
        for own in matrices.values():
            rows = own.get(task, np.full((1, width), math.inf))
            medians.append(_median(rows[None])[0])
            again.append(_median(rows[_again(len(rows), draws, generator)]))
        points.append(_within(np.stack(medians)[:, None], taus)[:, 0])
        drawn.append(_within(np.stack(again), taus))
    share, shares = np.mean(points, axis=0), np.mean(drawn, axis=0)
    banded = all(len(rows) >= FEWEST_SEEDS for own in matrices.values() for rows in own.values())
    bands = [_band(one) if banded else ((), ()) for one in shares]
    return {name: Curve(_tuple(taus), _tuple(own), *band) for name, own, band in zip(costs, share, bands, strict=True)}


def _matrix(rows: Sequence[Sequence[float]], task: str) -> Numbers:
    if not rows or not rows[0] or len({len(row) for row in rows}) > 1:
        raise ValueError(f"{task} must have runs with equally many targets, at least one")
    matrix = np.asarray(rows, dtype=np.float64)
    if not np.all(matrix > 0.0):
        raise ValueError(f"costs on {task} must be positive, or infinite where a target was not reached")
    return matrix


def _median(runs: Numbers) -> Numbers:
    """Smallest cost at which half of the runs have reached a target; draws × runs × targets → draws × targets."""
    place = (runs.shape[1] - 1) // 2
    return np.asarray(np.sort(runs, axis=1)[:, place])


def _within(medians: Numbers, taus: Numbers) -> Numbers:
    """Competitors × draws × targets → competitors × draws × ratios: share of targets within τ of the best."""
    best = medians.min(axis=0)
    reached = np.isfinite(medians)
    bounds = np.where(np.isfinite(best), best, 1.0)[..., None] * taus * (1.0 + 1e-12)
    return np.asarray((reached[..., None] & (medians[..., None] <= bounds)).mean(axis=2))


def _again(n: int, draws: int, generator: np.random.Generator) -> NDArray[np.int64]:
    return generator.integers(0, n, (draws, n))


def _band(drawn: Numbers) -> tuple[tuple[float, ...], tuple[float, ...]]:
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail], axis=0)
    return _tuple(low), _tuple(high)


def _tuple(numbers: Numbers) -> tuple[float, ...]:
    return tuple(numbers.tolist())
