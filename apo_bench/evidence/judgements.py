"""Declared contrasts, judged: each in its family, with its interval and what follows.

What a suite is run to find out (`apo_bench.records.contrast`) becomes an `Estimate` wherever both cells are there. The
samples are of one code version on both sides and, for times, of one machine (`apo_bench.evidence.cells`).
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from apo_bench.evidence import families
from apo_bench.evidence.cells import Cells, Runs
from apo_bench.evidence.collapse import Anchors, declared_collapses, detected_collapses
from apo_bench.evidence.contrasts import Resolved, family_size, resolve, values_by_seed
from apo_bench.evidence.estimates import Estimate, Sample, ValueScale, Verdict
from apo_bench.evidence.names import name_cells
from apo_bench.evidence.quantities import QUANTITIES, Quantity
from apo_bench.evidence.step_costs import Probes
from apo_bench.records.cell import Cell
from apo_bench.records.contrast import Contrast
from apo_bench.records.facts import Axis, Direction, TaskFacts
from apo_bench.records.schedules import kind_of
from apo_bench.records.suite import Suite


class Judgement(NamedTuple):
    """A contrast in one place, and what came out.

    Attributes:
        resolved: The contrast with its two cells.
        estimate: Left against right; without a value where a side is missing, with the reason.
    """

    resolved: Resolved
    estimate: Estimate

    @property
    def contrast(self) -> Contrast:
        """Which."""
        return self.resolved.contrast


def judged(
    suite: Suite,
    held: Cells,
    probes: Probes,
    *,
    planned: int | None = None,
    contrasts: Sequence[Contrast] | None = None,
) -> tuple[Judgement, ...]:
    """Judge the declared contrasts of a suite wherever one of their cells has a run.

    Args:
        suite: What was declared; sizes of families come from here.
        held: What counts of a store.
        probes: What steps cost.
        planned: Seeds after which the comparison was planned to be judged (`families.contrast`).
        contrasts: Only these of the suite's; all of them where it is not given.
    """
    return tuple(
        Judgement(place, _estimate(suite, place, probes, planned))
        for contrast in (suite.contrasts if contrasts is None else contrasts)
        for place in resolve(contrast, held)
    )


def _estimate(suite: Suite, place: Resolved, probes: Probes, planned: int | None) -> Estimate:
    quantity, contrast = place.quantity, place.contrast
    scale, size = scale_of(quantity), family_size(suite, contrast, place.workload.task)
    if (reason := place.missing) is not None:
        return Estimate(None, None, None, 0, scale, size, Verdict.UNJUDGED, reason=reason)
    left, right = samples(place, probes)
    margin = contrast.margin
    if margin is not None and left.scale is ValueScale.LOG:
        margin = 1.0 + margin
    return families.contrast(
        left,
        right,
        quantity.direction or Direction.MINIMIZE,
        family=size,
        margin=margin,
        planned=planned,
        exact=quantity.exact,
    )


def samples(place: Resolved, probes: Probes) -> tuple[Sample, Sample]:
    """The two samples of a contrast, on one scale: by differences also where a value has no logarithm.

    Raises:
        ValueError: A side is missing (`Resolved.missing`).
    """
    if place.left is None or place.right is None:
        raise ValueError(place.missing)
    left, right = (
        sample_of(runs, place.quantity, place.facts, probes, side.words)
        for runs, side in ((place.left, place.contrast.left), (place.right, place.contrast.right))
    )
    if not (left.has_logarithms and right.has_logarithms):  # an error of 0
        left, right = (dataclasses.replace(one, scale=ValueScale.LINEAR) for one in (left, right))
    return left, right


def scale_of(quantity: Quantity) -> ValueScale:
    """On which scale a quantity is compared."""
    return ValueScale.LOG if quantity.axis is Axis.LOG else ValueScale.LINEAR


def anchors_of(facts: TaskFacts | None) -> Anchors | None:
    """What scores of a task are normalized by; `None` where the task declares no target or no trivial predictor."""
    if facts is None or facts.target is None or facts.trivial is None:
        return None
    scale = scale_of(QUANTITIES["value"].on(facts))
    if facts.target == facts.trivial or (scale is ValueScale.LOG and min(facts.target, facts.trivial) <= 0):
        return None
    return Anchors(facts.trivial, facts.target, scale)


def sample_of(runs: Runs, quantity: Quantity, facts: TaskFacts | None, probes: Probes, name: str = "") -> Sample:
    """A quantity of the runs of a cell, with the runs that came to nothing.

    Args:
        runs: The cell.
        quantity: As it is on the task (`Quantity.on`).
        facts: What the task is, for what counts as collapsed.
        probes: What steps cost.
        name: Of the side, for reasons.
    """
    plain = Sample(
        values_by_seed(runs, quantity, probes),
        scale_of(quantity),
        diverged=runs.diverged,
        failed=runs.failed + runs.undefined,
        name=name,
    )
    if not quantity.is_metric or not plain.values:
        return plain
    anchors = anchors_of(facts)
    if anchors is not None:
        collapsed = declared_collapses(plain.values, anchors)
    elif plain.has_logarithms:
        collapsed = detected_collapses(plain, quantity.direction or Direction.MINIMIZE)
    else:
        collapsed = set()
    return dataclasses.replace(plain, collapsed=len(collapsed))


def labels(held: Cells) -> dict[Cell, str]:
    """What a competitor is called over several tasks: its optimizer, with its schedule where it has several.

    Settings that were chosen for each task go unsaid. A competitor with several settings on one task keeps them.
    """
    names: dict[Cell, str] = {}
    tables: dict[tuple[object, ...], list[Cell]] = {}
    for runs in held.cells:
        tables.setdefault(tuple(runs.cell.workload), []).append(runs.cell)
    kinds: dict[str, set[str]] = {}
    for runs in held.cells:
        kinds.setdefault(runs.cell.optimizer.name, set()).add(kind_of(runs.cell.optimizer.schedule))
    for own in tables.values():
        full = name_cells(own)
        short = {cell: _short(cell, kinds) for cell in own}
        for cell in own:
            rivals = [other for other in own if short[other] == short[cell] and other.precision == cell.precision]
            names[cell] = short[cell] if len(rivals) == 1 else full[cell]
    return names


def _short(cell: Cell, kinds: dict[str, set[str]]) -> str:
    name = cell.optimizer.name
    return f"{name} ({kind_of(cell.optimizer.schedule)})" if len(kinds[name]) > 1 else name
