"""Simulated truth for the statistics: family error, coverage, width and power, written to statistics.json and docs.

``python benchmarks/family_error.py`` simulates (a few minutes on one core), writes ``benchmarks/statistics.json``, and
fills the tables of ``docs/statistics.md`` from it; ``--tables`` only fills them. Every number follows from `SEED`.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, optimize, special, stats
from statistics_tables import filled

from apo_bench.evidence.deterioration import moderated_errors
from apo_bench.evidence.estimates import quantile
from apo_bench.evidence.families import degrees_of_freedom, family_bounds
from apo_bench.evidence.standings import standings

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = ROOT / "benchmarks" / "statistics.json"
PAGE = ROOT / "docs" / "statistics.md"
SEED = 18
RUNS = 20_000
FAMILY = 7
SEEDS = (3, 5, 10)
DEPTH = 10.0
"""How many standard deviations lower a collapsed run ends."""

Array = NDArray[np.float64]

CONDITIONS: dict[str, dict[str, Any]] = {
    "equal variances": {},
    "one contender 5 times": {"spread": [1, 5, 1, 1, 1, 1, 1, 1]},
    "all contenders 3 times": {"spread": [1, 3, 3, 3, 3, 3, 3, 3]},
    "all contenders 7 times": {"spread": [1, 7, 7, 7, 7, 7, 7, 7]},
    "reference 5 times": {"spread": [5, 1, 1, 1, 1, 1, 1, 1]},
    "from 1/4 to 4 times": {"spread": [1, 0.25, 0.5, 0.7, 1.4, 2, 3, 4]},
    "seed explains 30 %": {"shared": 0.3},
    "seed explains 60 %": {"shared": 0.6},
    "10 % collapse, everywhere": {"collapsing": [0.1] * 8},
    "10 % collapse, one contender": {"collapsing": [0, 0.1, 0, 0, 0, 0, 0, 0]},
}
"""A reference and seven contenders, by standard deviations, the variance that seeds explain, and collapsing runs."""


def sample(generator: np.random.Generator, n: int, runs: int, **condition: Any) -> Array:
    """Values of standard normal cells of equal means, but for what the condition says: runs × cells × seeds."""
    spread = np.asarray(condition.get("spread", np.ones(FAMILY + 1)), dtype=np.float64)
    shared = condition.get("shared", 0.0)
    collapsing = np.asarray(condition.get("collapsing", np.zeros(len(spread))))
    shape = (runs, len(spread), n)
    noise = np.sqrt(1.0 - shared) * generator.normal(size=shape) + np.sqrt(shared) * generator.normal(size=(runs, 1, n))
    values: Array = noise * spread[:, None] - DEPTH * (generator.random(shape) < collapsing[:, None])
    return values


def welch(values: Array) -> tuple[Array, Array]:
    """Differences and half-widths by Welch's degrees of freedom as they are, with Bonferroni."""
    error, degrees = _welch(values)
    return _differences(values), -special.stdtrit(degrees, 0.025 / (values.shape[1] - 1)) * error


def chosen(values: Array) -> tuple[Array, Array]:
    """What `apo_bench.evidence.families` does."""
    variances = values.var(axis=2, ddof=1)
    sizes = np.full(values.shape[1], float(values.shape[2]))
    value, low, high = family_bounds(values.mean(axis=2), variances, sizes, 0, family=values.shape[1] - 1)
    return value, (high - low) / 2.0


def _welch(values: Array) -> tuple[Array, Array]:
    """Standard errors of differences to the reference, and Welch's degrees of freedom."""
    n = values.shape[2]
    errors = values.var(axis=2, ddof=1) / n
    total = errors[:, 1:] + errors[:, :1]
    return np.sqrt(total), (n - 1) * total**2 / (errors[:, 1:] ** 2 + errors[:, :1] ** 2)


def _differences(values: Array) -> Array:
    means = values.mean(axis=2)
    return np.asarray(means[:, 1:] - means[:, :1])


def paired(values: Array) -> tuple[Array, Array]:
    """Paired t with Bonferroni."""
    differences = values[:, 1:] - values[:, :1]
    n = values.shape[2]
    return differences.mean(axis=2), quantile(n - 1, values.shape[1] - 1) * differences.std(axis=2, ddof=1) / np.sqrt(n)


def dunnett(values: Array) -> tuple[Array, Array]:
    """Dunnett's intervals (JASA 50, 1955): one variance, estimated from all cells."""
    cells, n = values.shape[1:]
    pooled = values.var(axis=2, ddof=1).mean(axis=1, keepdims=True)
    half = dunnett_quantile(FAMILY, cells * (n - 1)) * np.sqrt(2.0 * pooled / n)
    return _differences(values), np.broadcast_to(half, (len(values), FAMILY))


def dunnett_t3(values: Array) -> tuple[Array, Array]:
    """Dunnett's T3 (JASA 75, 1980): the studentized maximum modulus at Welch's degrees of freedom."""
    grid = np.array([1.9, 2.0, 2.3, 2.7, 3.2, 4.0, 5.0, 7.0, 9.0, 13.0, 18.5])
    table = np.array([modulus_quantile(FAMILY, degrees) for degrees in grid])
    error, degrees = _welch(values)
    critical = np.exp(np.interp(1.0 / degrees, 1.0 / grid[::-1], np.log(table[::-1])))
    return _differences(values), critical * error


def modulus_quantile(family: int, degrees: float) -> float:
    """The 95 % quantile of the largest of independent normal values in one common standard deviation."""

    def error(critical: float) -> float:
        def density(s: float) -> float:
            within = (2.0 * special.ndtr(critical * s) - 1.0) ** family
            return float(within * stats.chi.pdf(s * np.sqrt(degrees), degrees) * np.sqrt(degrees))

        return float(integrate.quad(density, 0.0, 8.0, limit=200)[0]) - 0.95

    return float(optimize.brentq(error, 1.0, 200.0))


def dunnett_quantile(family: int, degrees: float) -> float:
    """The 95 % quantile of the largest of t values that share their reference, by Gauss–Hermite and quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    weights = weights / weights.sum()

    def error(critical: float) -> float:
        def density(s: float) -> float:
            ends = [special.ndtr(nodes + sign * critical * s * np.sqrt(2.0)) for sign in (1, -1)]
            within = float(weights @ (ends[0] - ends[1]) ** family)
            return within * float(stats.chi.pdf(s * np.sqrt(degrees), degrees) * np.sqrt(degrees))

        return float(integrate.quad(density, 0.0, 4.0, limit=200)[0]) - 0.95

    return float(optimize.brentq(error, 1.0, 20.0))


CHOSEN = "cautious Welch (chosen)"
METHODS = {
    CHOSEN: chosen,
    "Welch": welch,
    "Dunnett T3": dunnett_t3,
    "paired t": paired,
    "pooled (Dunnett)": dunnett,
}


def comparisons() -> dict[str, Any]:
    """Family error, coverage, half-width and power of each method at each n under each condition."""
    result: dict[str, Any] = {}
    for n in SEEDS:
        for place, (condition, settings) in enumerate(CONDITIONS.items()):
            values = sample(np.random.default_rng([SEED, n, place]), n, RUNS, **settings)
            collapsing = np.asarray(settings.get("collapsing", np.zeros(FAMILY + 1)))
            spread = np.asarray(settings.get("spread", np.ones(FAMILY + 1)), dtype=np.float64)
            truth = -DEPTH * (collapsing[1:] - collapsing[0])
            scale = np.sqrt((spread[1:] ** 2 + spread[0] ** 2) / 2.0)
            for name, method in METHODS.items():
                difference, half = method(values)
                covered = np.abs(difference - truth) <= half
                # a claim is false where the means are equal, or where it is in the wrong direction
                false = np.where(truth == 0.0, np.abs(difference) > half, np.sign(truth) * difference < -half)
                result.setdefault(name, {}).setdefault(str(n), {})[condition] = {
                    "family_error": round(float(false.any(axis=1).mean()), 4),
                    "coverage": round(float(covered.mean()), 4),
                    "half_width": round(float(np.median(half / scale)), 3),
                    "power": round(float((difference + 4.0 * scale > half).mean()), 4),
                }
    return result


def holm() -> dict[str, Any]:
    """Power for a difference of 4 standard deviations, with that many others of 12, in one step and step-down."""
    result: dict[str, Any] = {}
    for n in SEEDS:
        values = sample(np.random.default_rng([SEED, n, 100]), n, RUNS)
        variances = values.var(axis=2, ddof=1)
        error, degrees = _welch(values)[0], degrees_of_freedom(variances[:, 1:], n, variances[:, :1], n)
        for large in (0, 3, 6):
            shift = np.where(np.arange(FAMILY) < FAMILY - 1 - large, 0.0, 12.0)
            shift[-1] = 4.0
            p = 2.0 * special.stdtr(degrees, -np.abs(_differences(values) + shift) / error)
            order = np.sort(p, axis=1)
            stays = np.cumprod(order <= 0.05 / np.arange(FAMILY, 0, -1), axis=1).sum(axis=1)
            rank = (p < p[:, -1:]).sum(axis=1)
            result.setdefault(str(n), {})[str(large)] = {
                "one_step": round(float((p[:, -1] <= 0.05 / FAMILY).mean()), 4),
                "holm": round(float((rank < stays).mean()), 4),
            }
    return result


def single_cells() -> dict[str, Any]:
    """Coverage of the t interval of one mean, normal, with 10 % of runs that collapse, and log-normal."""
    result: dict[str, Any] = {}
    for n in SEEDS:
        generator = np.random.default_rng([SEED, n, 200])
        normal = generator.normal(size=(RUNS, n))
        collapsing = normal - DEPTH * (generator.random(normal.shape) < 0.1)
        lognormal = np.exp(1.5 * generator.normal(size=(RUNS, n)))
        for name, values, truth in (
            ("normal", normal, 0.0),
            ("10 % collapse", collapsing, -0.1 * DEPTH),
            ("log-normal (σ = 1.5), not on logarithms", lognormal, float(np.exp(1.5**2 / 2.0))),
            ("log-normal (σ = 1.5), on logarithms", np.log(lognormal), 0.0),
        ):
            half = quantile(n - 1, 1) * values.std(axis=1, ddof=1) / np.sqrt(n)
            result.setdefault(name, {})[str(n)] = round(float((np.abs(values.mean(axis=1) - truth) <= half).mean()), 4)
    return result


def looking() -> dict[str, Any]:
    """How often equal competitors differ "significantly" at some n, looked at after every seed from the third on."""
    result: dict[str, Any] = {}
    generator = np.random.default_rng([SEED, 300])
    values = generator.normal(size=(RUNS, 2, 10))
    for name, method in (("cautious Welch", chosen), ("Welch", welch)):
        seen = np.zeros(RUNS, dtype=bool)
        for n in range(3, 11):
            difference, half = method(values[:, :, :n])
            found = np.abs(difference[:, 0]) > half[:, 0]
            seen |= found
            if n in SEEDS:
                result.setdefault(name, {})[str(n)] = {
                    "planned": round(float(found.mean()), 4),
                    "every_seed": round(float(seen.mean()), 4),
                }
    return result


def large_families() -> dict[str, Any]:
    """Family error of thirty contenders that all spread more than the reference, the hardest case."""
    result: dict[str, Any] = {}
    for n in (3, 4, 5, 10):
        for times in (1, 3, 7, 10):
            generator = np.random.default_rng([SEED, n, times, 600])
            values = sample(generator, n, RUNS, spread=[1, *[times] * 30])
            for name in (CHOSEN, "Welch", "paired t"):
                difference, half = METHODS[name](values)
                error = float((np.abs(difference) > half).any(axis=1).mean())
                result.setdefault(name, {}).setdefault(str(n), {})[str(times)] = round(error, 4)
    return result


CHECKS: dict[str, dict[str, Any]] = {
    "equal variances": {},
    "one cell 5 times": {"spread": [5, 1, 1, 1, 1, 1, 1, 1]},
    "half of the cells 3 times": {"spread": [3, 3, 3, 3, 1, 1, 1, 1]},
    "one cell a fifth": {"spread": [0.2, 1, 1, 1, 1, 1, 1, 1]},
    "after: all 5 times": {"after": 5.0},
    "10 % collapse": {"collapsing": [0.1] * 8},
}


def false_alarms() -> dict[str, Any]:
    """`worse_than_before` over eight cells: false alarms, and drops of 3 standard deviations that are found."""
    result: dict[str, Any] = {}
    for n in SEEDS:
        for place, (condition, settings) in enumerate(CHECKS.items()):
            generator = np.random.default_rng([SEED, n, 400 + place])
            before, after = (sample(generator, n, RUNS, **settings) for _ in range(2))
            after = after * settings.get("after", 1.0)
            sizes = np.full((8, 2), float(n))
            variances = np.stack([before.var(axis=2, ddof=1), after.var(axis=2, ddof=1)], axis=2)
            errors, degrees = moderated_errors(variances, sizes)
            reach = -special.stdtrit(degrees, 0.05 / 8) * errors
            worse = before.mean(axis=2) - after.mean(axis=2)
            spread = np.asarray(settings.get("spread", np.ones(8)), dtype=np.float64)
            found = (worse + 3.0 * spread > reach).mean(axis=0)
            result.setdefault(condition, {})[str(n)] = {
                "false_alarms": round(float((worse > reach).any(axis=1).mean()), 4),
                "found_in_a_noisy_cell": round(float(found[int(np.argmax(spread))]), 4),
                "found_in_a_quiet_cell": round(float(found[int(np.argmin(spread))]), 4),
            }
    return result


def ranks(runs: int = 400) -> dict[str, Any]:
    """Share of standings in which the interval of every rank holds, for six competitors."""
    result: dict[str, Any] = {}
    conditions: dict[str, tuple[Array, Array, float]] = {
        "equal competitors": (np.zeros(6), np.ones(6), 0.0),
        "equal, unequal variances": (np.zeros(6), np.array([1, 1, 0.2, 5, 3, 1]), 0.0),
        "equal, 10 % collapse": (np.zeros(6), np.ones(6), 0.1),
        "1 standard deviation apart": (np.arange(6.0), np.ones(6), 0.0),
    }
    for place, (name, (means, spread, collapsing)) in enumerate(conditions.items()):
        best = 1 + (means[:, None] < means).sum(axis=1)
        worst = (means[:, None] <= means).sum(axis=1)
        for n in SEEDS:
            for tasks in (1, 3, 8):
                generator = np.random.default_rng([SEED, n, tasks, 500 + place])
                held, width = 0, 0.0
                for _ in range(runs):
                    values = means[:, None, None] + spread[:, None, None] * generator.normal(size=(6, tasks, n))
                    values -= DEPTH * (generator.random(values.shape) < collapsing)
                    scores = {
                        str(i): {str(t): (1.0 + 0.05 * row).tolist() for t, row in enumerate(own)}
                        for i, own in enumerate(values)
                    }
                    rows = {int(row.name): row for row in standings(scores, draws=500).rows}
                    held += all(rows[i].best_rank <= best[i] and worst[i] <= rows[i].worst_rank for i in range(6))
                    width += sum(row.worst_rank - row.best_rank + 1 for row in rows.values()) / 6
                result.setdefault(name, {}).setdefault(str(n), {})[str(tasks)] = {
                    "held": round(held / runs, 4),
                    "ranks": round(width / runs, 2),
                }
    return result


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "comparisons": comparisons,
    "large_families": large_families,
    "holm": holm,
    "single_cells": single_cells,
    "looking": looking,
    "false_alarms": false_alarms,
    "ranks": ranks,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", action="store_true", help="fill the page's tables from the numbers that are there")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to simulate, separated by commas")
    options = parser.parse_args()
    known = json.loads(NUMBERS.read_text(encoding="utf-8")) if NUMBERS.is_file() else {}
    if not options.tables:
        known |= {part: PARTS[part]() for part in options.parts.split(",")}
        NUMBERS.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), known), encoding="utf-8")
