"""What a store says before any table: who can be told from whom, and what it would take to tell the rest apart."""

import dataclasses
from collections.abc import Mapping, Sequence

from apo_bench.evidence.cells import Cells, Runs
from apo_bench.evidence.estimates import FEWEST_SEEDS, Estimate, ValueScale, Verdict
from apo_bench.evidence.judgements import Judgement, anchors_of, judged, labels, sample_of
from apo_bench.evidence.quantities import QUANTITIES
from apo_bench.evidence.standings import Standings, standings
from apo_bench.evidence.step_costs import Probes
from apo_bench.records.cell import Cell
from apo_bench.records.facts import TaskFacts
from apo_bench.records.spec import Device, Precision
from apo_bench.records.suite import Suite

_FEWEST = 2
"""Competitors that make an order."""
_LARGEST = 1e100
"""Of a normalized score: far beyond any, and its square is a number."""


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The standings of one precision on one kind of device.

    Attributes:
        device: Kind of device.
        precision: Number formats.
        tasks: Over which tasks.
        seeds: Fewest runs of a cell among these.
        standings: What came out.
        left_out: The other tasks, with the reason.
    """

    device: Device
    precision: Precision
    tasks: tuple[str, ...]
    seeds: int
    standings: Standings
    left_out: Mapping[str, str]

    @property
    def beaten(self) -> dict[str, tuple[str, ...]]:
        """Of each competitor, those that it is surely better than; none that is better than nobody."""
        found = {}
        rows = self.standings.rows
        for place, row in enumerate(rows):
            others = tuple(other.name for other in rows[place + 1 :] if other.name not in row.tied_with)
            if others:
                found[row.name] = others
        return found

    @property
    def undecided(self) -> tuple[tuple[str, str, Estimate], ...]:
        """Neighbours that cannot be told apart, the better score first."""
        rows = self.standings.rows
        return tuple(
            (rows[place].name, rows[place + 1].name, estimate)
            for place, estimate in enumerate(self.standings.neighbours)
            if estimate.verdict is not Verdict.BETTER
        )


@dataclasses.dataclass(frozen=True)
class Answer:
    """What can be said.

    Attributes:
        rankings: Standings over tasks.
        judgements: The declared contrasts.
    """

    rankings: tuple[Ranking, ...] = ()
    judgements: tuple[Judgement, ...] = ()


def answer(held: Cells, probes: Probes, suite: Suite | None = None, *, planned: int | None = None) -> Answer:
    """Rank and judge.

    Args:
        held: What counts of a store.
        probes: What steps cost.
        suite: What was declared; without it there are no declared comparisons.
        planned: Seeds after which comparisons were planned to be judged (`families.contrast`).
    """
    return Answer(rankings(held, planned), () if suite is None else judged(suite, held, probes, planned=planned))


def rankings(held: Cells, planned: int | None = None) -> tuple[Ranking, ...]:
    """Standings of each precision on each kind of device.

    Ranked are tasks that declare a target and a trivial predictor, and on which at least two competitors have three
    runs; a competitor that has fewer there is not ranked, with the reason.

    Args:
        held: What counts of a store.
        planned: Seeds after which competitors were planned to be ranked: a task on which one has fewer is left out.
    """
    names = labels(held)
    groups: dict[tuple[Device, Precision], dict[str, list[Runs]]] = {}
    budgets: dict[tuple[Device, str], set[float]] = {}
    for runs in held.cells:
        budgets.setdefault((runs.cell.device, runs.cell.task), set()).add(runs.cell.budget.epochs)
    for runs in held.cells:
        cell = runs.cell
        several = len(budgets[cell.device, cell.task]) > 1
        title = f"{cell.task}, {cell.budget.epochs:g} epochs" if several else cell.task
        groups.setdefault((cell.device, cell.precision), {}).setdefault(title, []).append(runs)
    found = []
    for (device, precision), tables in groups.items():
        left_out: dict[str, str] = {}
        scores: dict[str, dict[str, list[float]]] = {}
        lost: dict[str, dict[str, int]] = {}
        counts = []
        for task, cells in tables.items():
            reason = _why_not(cells, planned)
            if reason:
                left_out[task] = reason
                continue
            counts.append(_take(task, cells, names, scores, lost))
        if counts:
            tasks = tuple(task for task in tables if task not in left_out)
            made = standings(scores, lost)
            found.append(Ranking(device, precision, tasks, min(counts), made, left_out))
    return tuple(found)


def _take(
    task: str,
    cells: Sequence[Runs],
    names: Mapping[Cell, str],
    scores: dict[str, dict[str, list[float]]],
    lost: dict[str, dict[str, int]],
) -> int:
    """Add the normalized scores of a task; returns the fewest runs of a cell that can be ranked."""
    facts = _facts(cells)
    anchors = anchors_of(facts)
    quantity = QUANTITIES["value"].on(facts)
    fewest = []
    for runs in cells:
        name = names[runs.cell]
        sample = sample_of(runs, quantity, facts, Probes(()))
        own = scores.setdefault(name, {})
        if anchors is not None and sample.has_logarithms:
            own[task] = [anchors.normalized(value) for value in sample.values.values()]
        gone = sample.diverged + sample.failed
        if gone:
            lost.setdefault(name, {})[task] = gone
        if sample.runs >= FEWEST_SEEDS:
            fewest.append(sample.runs)
    return min(fewest)


def _why_not(cells: Sequence[Runs], planned: int | None) -> str:
    """Why a task is in no standings; empty where it is."""
    anchors = anchors_of(_facts(cells))
    if anchors is None:
        return "no target, or no trivial predictor, to normalize scores by"
    counts = sorted((len(runs.results) + runs.failed for runs in cells), reverse=True)
    enough = sum(count >= FEWEST_SEEDS for count in counts)
    if enough < _FEWEST:
        return f"n = {counts[0]}; an order needs {FEWEST_SEEDS} seeds"
    if planned is not None and counts[-1] < planned:
        return f"n = {counts[-1]} of {planned} planned seeds"
    values = [value for runs in cells for value in runs.tests.values()]
    if not all(
        abs(anchors.normalized(value)) < _LARGEST for value in values if value > 0 or anchors.scale is ValueScale.LINEAR
    ):
        return "a score beyond all bounds"
    return ""


def _facts(cells: Sequence[Runs]) -> TaskFacts | None:
    return next((record.task for runs in cells for record in runs.records if record.task), None)
