"""The runs of a cell, and what they cost."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

from apo_bench.evidence.intervals import Interval, mean_interval
from apo_bench.evidence.quantities import is_emulated
from apo_bench.evidence.step_costs import Probes, StepCost
from apo_bench.records.cell import Cell
from apo_bench.records.facts import Cost
from apo_bench.records.outcome import Diverged, Failed, Undefined
from apo_bench.records.run import RunRecord
from apo_bench.records.spec import RunSpec


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of a cell.

    Attributes:
        cell: What they are runs of.
        records: Those that have a record.
        planned: How many a plan holds; `None` without a plan.
    """

    cell: Cell
    records: tuple[RunRecord, ...]
    planned: int | None

    @cached_property
    def results(self) -> tuple[RunRecord, ...]:
        """Those that say something about the competitor."""
        return tuple(record for record in self.records if record.is_result)

    @cached_property
    def diverged(self) -> int:
        """How many of them diverged."""
        return sum(isinstance(record.outcome, Diverged) for record in self.results)

    @cached_property
    def failed(self) -> int:
        """In how many the optimizer raised."""
        return sum(isinstance(record.outcome, Failed) for record in self.records)

    @cached_property
    def undefined(self) -> int:
        """How many have no score because their metric is undefined."""
        return sum(isinstance(record.outcome, Undefined) for record in self.records)

    @property
    def has_mean(self) -> bool:
        """Whether a mean over those with a score would not flatter.

        It would where some diverged, are undefined, or the optimizer raised in some.
        """
        return not (self.diverged or self.undefined or self.failed)

    @cached_property
    def tests(self) -> dict[int, float]:
        """Test scores by seed."""
        return {record.spec.seed: record.scores.test for record in self.results if record.scores.test is not None}

    @property
    def is_emulated(self) -> bool:
        """Whether 16-bit arithmetic was emulated."""
        return any(map(is_emulated, self.results))

    def minus(self, other: "Runs", comparisons: int) -> Interval | None:
        """Mean difference of test scores over the seeds that both have; `None` unless both have means, and such a seed.

        Args:
            other: What is subtracted.
            comparisons: How many such intervals are to hold together.
        """
        if not (self.has_mean and other.has_mean):
            return None
        common = sorted(self.tests.keys() & other.tests.keys())
        differences = [self.tests[seed] - other.tests[seed] for seed in common]
        are_numbers = all(map(math.isfinite, differences))  # one of two extremes may be larger than any
        return mean_interval(differences, comparisons=comparisons) if differences and are_numbers else None


def gathered(records: Iterable[RunRecord], planned: Sequence[RunSpec] | None = None) -> list[Runs]:
    """Runs by cell, in the order in which the cells are planned or first have a record."""
    by_cell: dict[Cell, list[RunRecord]] = {Cell.of(run): [] for run in planned or ()}
    for record in records:
        by_cell.setdefault(Cell.of(record.spec), []).append(record)
    sizes = Counter(map(Cell.of, planned or ()))
    return [Runs(cell, tuple(own), None if planned is None else sizes[cell]) for cell, own in by_cell.items()]


@dataclasses.dataclass(frozen=True)
class Costs:
    """What the runs of a cell cost.

    Attributes:
        probed: What a step costs by the probe; `None` without one that fits.
        disagreeing: Runs whose mean step is not the one that was probed.
        costs: Of the others and of these; none where 16 bit is emulated.
        clocks: Of the others only, whose clock can be trusted.
    """

    probed: StepCost | None
    disagreeing: int
    costs: tuple[Cost, ...]
    clocks: tuple[Cost, ...]

    @classmethod
    def of(cls, runs: Runs, probes: Probes) -> "Costs":
        """The costs of a cell."""
        probed = next((cost for record in reversed(runs.results) if (cost := probes.find(record))), None)
        trusted = [record for record in runs.results if probed is None or not probed.disagrees(record)]
        return cls(
            probed=probed,
            disagreeing=len(runs.results) - len(trusted),
            costs=() if runs.is_emulated else tuple(record.cost for record in runs.results if record.cost),
            clocks=() if runs.is_emulated else tuple(record.cost for record in trusted if record.cost),
        )
