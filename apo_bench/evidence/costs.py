"""What the runs of a cell cost: by the probe that fits them, by their own clocks, and counted."""

import dataclasses

from apo_bench.evidence.cells import Runs
from apo_bench.evidence.step_costs import Probes, StepCost
from apo_bench.records.facts import Cost


@dataclasses.dataclass(frozen=True)
class Costs:
    """What the runs of a cell cost, on one machine.

    Attributes:
        probed: What a step costs by the probe; `None` without one that fits.
        disagreeing: Runs whose mean step is not the one that was probed.
        costs: Of the others and of these; none where 16 bit is emulated.
        clocks: Of the others only, whose clock can be trusted.
        counted: Of all runs, on whatever machine: operations and bytes that an optimizer keeps need no clock.
    """

    probed: StepCost | None
    disagreeing: int
    costs: tuple[Cost, ...]
    clocks: tuple[Cost, ...]
    counted: tuple[Cost, ...]

    @classmethod
    def of(cls, runs: Runs, probes: Probes) -> "Costs":
        """The costs of a cell."""
        probed = probed_cost(runs, probes)
        trusted = [record for record in runs.timed if probed is None or not probed.disagrees(record)]
        return cls(
            probed=probed,
            disagreeing=len(runs.timed) - len(trusted),
            costs=tuple(record.cost for record in runs.timed if record.cost),
            clocks=tuple(record.cost for record in trusted if record.cost),
            counted=() if runs.is_emulated else tuple(record.cost for record in runs.results if record.cost),
        )


def probed_cost(runs: Runs, probes: Probes) -> StepCost | None:
    """What a step of a cell costs: the one rule that picks a probe.

    Its runs are of one fingerprint, and those whose times count of one machine: so one probe fits all of them, the
    newest without a doubt, else the newest (`Probes.find`). A cell whose 16 bit is emulated has none.
    """
    return probes.find(runs.timed[0]) if runs.timed else None
