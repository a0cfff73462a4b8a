r"""Who is ahead over several tasks, and who cannot be told apart.

**Score.** The interquartile mean of normalized scores (0 the trivial predictor, 1 the target) over tasks and seeds, in
which each task weighs the same (Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice,
2021).

**Uncertainty.** A bootstrap stratified by task: the seeds of each task are drawn again, n − 1 of n with replacement, so
that the variance of a mean comes out unbiased (Rao and Wu, JASA 83, 1988; n of n is too narrow by a third at n = 3).
The statement is about these tasks; `new_tasks=True` draws the tasks again too, T − 1 of T, for a statement about tasks
of their kind. Two competitors are told apart where their difference is more than a Student quantile of bootstrap
standard errors, with Bonferroni over all pairs.

**Ranks.** The ranks of a competitor reach from 1 + the number of those that are surely better to the number of all −
those that are surely worse: simultaneous intervals for all ranks (Mogstad, Romano, Shaikh and Wilhelm, Review of
Economic Studies 91, 2024), which are valid where scores are equal, as percentiles of bootstrapped ranks are not.
docs/statistics.md has the simulated coverage.

**Failures.** Where a run of a competitor diverged or raised, all of its runs on that task count as the worst that any
competitor, or the trivial predictor, did there: it ranks last on that task.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from apo_bench.evidence.collapse import interquartile_mean
from apo_bench.evidence.estimates import FEWEST_SEEDS, Estimate, Verdict, quantile
from apo_bench.evidence.families import MOST_SEEDS, degrees_of_freedom

DRAWS = 2_000
"""A bootstrap standard error is then known to 1.6 %."""
_POWER_QUANTILE = 0.8416
"""Normal quantile of a power of 80 %."""

Scores = Mapping[str, Mapping[str, Sequence[float]]]


@dataclasses.dataclass(frozen=True)
class Standing:
    """One competitor.

    Attributes:
        name: Which.
        score: Interquartile mean of its normalized scores.
        best_rank: Lower end of the interval of its rank; all with the same one are a tie group.
        worst_rank: Upper end.
        tied_with: All that it cannot be told apart from.
        last_on: Tasks on which it ranks last because runs diverged or raised.
    """

    name: str
    score: float
    best_rank: int
    worst_rank: int
    tied_with: tuple[str, ...]
    last_on: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Standings:
    """All competitors.

    Attributes:
        rows: Those that can be ranked, the best score first.
        unranked: The others, with the reason.
        neighbours: Of each two that follow each other, the difference of their scores with its interval; where it is
            undecided, with the seeds that would be needed (none where the tasks differ too much for any number of
            seeds).
        without: By task, the order of the rows were that task left out; empty with one task.
    """

    rows: tuple[Standing, ...]
    unranked: Mapping[str, str]
    neighbours: tuple[Estimate, ...]
    without: Mapping[str, tuple[str, ...]]

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Tie groups: those with the same number of surely better ones, the best first."""
        ordered = sorted(self.rows, key=lambda row: row.best_rank)
        return tuple(
            tuple(row.name for row in rows) for _, rows in itertools.groupby(ordered, key=lambda row: row.best_rank)
        )

    @property
    def leader(self) -> str | None:
        """The one that is first beyond doubt; `None` where it is tied."""
        first = [row for row in self.rows if row.worst_rank == 1]
        return first[0].name if first and len(self.rows) > 1 else None


def standings(
    scores: Scores,
    lost: Mapping[str, Mapping[str, int]] | None = None,
    *,
    new_tasks: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
) -> Standings:
    """Rank competitors over tasks.

    Args:
        scores: Normalized scores (`Anchors.normalized`) of runs with a value, by competitor and task; finite.
        lost: Numbers of runs that diverged or raised, by competitor and task.
        new_tasks: Whether the statement is about tasks like these, and not about these.
        draws: Of the bootstrap.
        seed: Of its generator: equal input, equal output.

    Raises:
        ValueError: A score is not finite.
    """
    lost = lost or {}
    tasks = sorted({task for own in (*scores.values(), *lost.values()) for task in own})
    unranked = {name: why for name in scores if (why := _why_unranked(scores[name], lost.get(name, {}), tasks))}
    ranked = [name for name in scores if name not in unranked]
    if not ranked:
        return Standings((), unranked, (), {})
    cells = _cells(scores, lost, ranked, tasks)
    points = np.array([_score(own) for own in cells])
    order = sorted(range(len(ranked)), key=lambda index: -points[index])
    ranked, cells, points = [ranked[i] for i in order], [cells[i] for i in order], points[order]
    pairs = max(len(ranked) * (len(ranked) - 1) // 2, 1)
    generator = np.random.default_rng(seed)
    errors, degrees = difference_errors(cells, generator, draws=draws, new_tasks=new_tasks)
    critical = np.array([[quantile(float(one), pairs) for one in row] for row in degrees])
    differences = points[:, None] - points[None, :]
    better = (errors > 0.0) & (differences > critical * errors)
    rows = tuple(
        Standing(
            name,
            float(points[i]),
            1 + int(better[:, i].sum()),
            len(ranked) - int(better[i].sum()),
            tuple(other for j, other in enumerate(ranked) if j != i and not (better[i, j] or better[j, i])),
            tuple(task for task in tasks if lost.get(name, {}).get(task)),
        )
        for i, name in enumerate(ranked)
    )
    seed_errors = errors
    if new_tasks:
        seed_errors, _ = difference_errors(cells, np.random.default_rng(seed), draws=draws, new_tasks=False)
    fewest = min(len(values) for own in cells for values in own)
    neighbours = tuple(
        _neighbour(differences[i, i + 1], errors[i, i + 1], seed_errors[i, i + 1], critical[i, i + 1], fewest, pairs)
        for i in range(len(ranked) - 1)
    )
    without = {}
    if len(tasks) > 1:
        for left_out, task in enumerate(tasks):
            kept = [_score([*own[:left_out], *own[left_out + 1 :]]) for own in cells]
            places = sorted(range(len(ranked)), key=lambda index: -kept[index])
            without[task] = tuple(ranked[index] for index in places)
    return Standings(rows, unranked, neighbours, without)


def _why_unranked(own: Mapping[str, Sequence[float]], lost: Mapping[str, int], tasks: Sequence[str]) -> str:
    missing = [task for task in tasks if not own.get(task) and not lost.get(task)]
    if missing:
        return f"no run on {', '.join(missing)}"
    few = {task: len(own.get(task, ())) + lost.get(task, 0) for task in tasks}
    worst = min(few, key=lambda task: few[task])
    return f"n = {few[worst]} on {worst}; ranks need {FEWEST_SEEDS} seeds" if few[worst] < FEWEST_SEEDS else ""


def _cells(
    scores: Scores, lost: Mapping[str, Mapping[str, int]], ranked: Sequence[str], tasks: Sequence[str]
) -> list[list[NDArray[np.float64]]]:
    """Scores by competitor and task, with the floor where a run was lost."""
    cells: list[list[NDArray[np.float64]]] = [[] for _ in ranked]
    for task in tasks:
        found = [value for name in ranked for value in scores[name].get(task, ())]
        if not all(map(math.isfinite, found)):
            raise ValueError(f"scores on {task} must be finite; count lost runs in `lost`")
        floor = min([0.0, *found])
        for name, own in zip(ranked, cells, strict=True):
            gone = lost.get(name, {}).get(task, 0)
            values = scores[name].get(task, ())
            own.append(np.full(len(values) + gone, floor) if gone else np.array(values, dtype=np.float64))
    return cells


def _score(own: Sequence[NDArray[np.float64]]) -> float:
    weights = np.concatenate([np.full(len(values), 1.0 / len(values)) for values in own])
    return float(interquartile_mean(np.concatenate(own), weights))


def difference_errors(
    cells: Sequence[Sequence[NDArray[np.float64]]],
    generator: np.random.Generator,
    *,
    draws: int,
    new_tasks: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bootstrap standard errors of all differences of scores, with degrees of freedom.

    A score has as many degrees of freedom as half of its runs have, since it is a mean of the middle half; of one task,
    as that task; where tasks are drawn, as these.

    Args:
        cells: Scores by competitor and task.
        generator: Of the draws.
        draws: How many.
        new_tasks: Whether tasks are drawn, too, the same for all competitors.

    Returns:
        Errors and degrees of freedom; competitors × competitors.
    """
    count = len(cells[0])
    kept = max(count - 1, 1)
    chosen = generator.integers(0, count, (draws, kept)) if new_tasks and count > 1 else None
    drawn = np.stack([_drawn(own, chosen, generator, draws) for own in cells])
    if chosen is None:
        variances = drawn.var(axis=1, ddof=1)
        free = np.array([max(sum(len(v) - 1 for v in own) / 2, min(len(v) for v in own) - 1) for own in cells])
        errors = np.sqrt(variances[:, None] + variances[None, :])
        sizes = free + 1.0
        degrees = degrees_of_freedom(variances[:, None], sizes[:, None], variances[None, :], sizes[None, :])
        return errors, np.asarray(degrees)
    errors = np.stack([(one[None, :] - drawn).std(axis=1, ddof=1) for one in drawn])
    return errors, np.full(errors.shape, float(kept))


def _drawn(
    own: Sequence[NDArray[np.float64]],
    chosen: NDArray[np.int64] | None,
    generator: np.random.Generator,
    draws: int,
) -> NDArray[np.float64]:
    """Bootstrapped scores of one competitor."""
    parts, weights = [], []
    slots: Sequence[int] = range(len(own)) if chosen is None else range(chosen.shape[1])
    largest = max(len(values) for values in own)
    padded = np.full((len(own), largest), np.nan)
    sizes = np.array([len(values) for values in own])
    for index, values in enumerate(own):
        padded[index, : len(values)] = values
    for slot in slots:
        task = np.full(draws, slot) if chosen is None else chosen[:, slot]
        taken = largest - 1
        places = (generator.random((draws, taken)) * sizes[task][:, None]).astype(np.int64)
        inside = np.arange(taken) < sizes[task][:, None] - 1
        parts.append(np.where(inside, padded[task[:, None], places], 0.0))
        weights.append(np.where(inside, 1.0 / (sizes[task][:, None] - 1.0), 0.0))
    return interquartile_mean(np.concatenate(parts, axis=1), np.concatenate(weights, axis=1))


def _neighbour(difference: float, error: float, seed_error: float, critical: float, n: int, pairs: int) -> Estimate:
    """The difference of two scores that follow each other, the better one first."""
    plain = Estimate(float(difference), None, None, n, family=pairs, verdict=Verdict.UNJUDGED)
    if error == 0.0:
        return dataclasses.replace(plain, reason="equal values in all seeds show no spread to judge by")
    half = critical * error
    plain = dataclasses.replace(plain, low=float(difference - half), high=float(difference + half))
    if difference > half:
        return dataclasses.replace(plain, verdict=Verdict.BETTER)
    wanted = critical + _POWER_QUANTILE
    left = (difference / wanted) ** 2 - max(error**2 - seed_error**2, 0.0)
    needed = math.ceil(n * seed_error**2 / left) if left > 0.0 else None
    return dataclasses.replace(
        plain,
        verdict=Verdict.UNDECIDED,
        detectable=float(wanted * error),
        seeds_needed=None if needed is None or needed > MOST_SEEDS else max(needed, n + 1),
    )
