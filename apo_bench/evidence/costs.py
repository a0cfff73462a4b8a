"""What the runs of a cell cost: by the probe that fits them, and by their own clocks."""

import dataclasses

from apo_bench.evidence.cells import Runs
from apo_bench.evidence.step_costs import Probes, StepCost
from apo_bench.records.run import RunRecord


@dataclasses.dataclass(frozen=True)
class Costs:
    """What the runs of a cell cost, on one machine.

    Attributes:
        probed: What a step costs by the probe; `None` without one that fits.
        clocked: Runs on that machine whose clock can be trusted: their mean step is the one that was probed.
        disagreeing: How many others there are on it.
    """

    probed: StepCost | None
    clocked: tuple[RunRecord, ...]
    disagreeing: int

    @classmethod
    def of(cls, runs: Runs, probes: Probes) -> "Costs":
        """The costs of a cell."""
        probed = probed_cost(runs, probes)
        trusted = tuple(record for record in runs.timed if probed is None or not probed.disagrees(record))
        return cls(probed=probed, clocked=trusted, disagreeing=len(runs.timed) - len(trusted))


def probed_cost(runs: Runs, probes: Probes) -> StepCost | None:
    """What a step of a cell costs: the one rule that picks a probe.

    Its runs are of one fingerprint, and those whose times count of one machine: so one probe fits all of them, the
    newest without a doubt, else the newest (`Probes.find`). A cell whose 16 bit is emulated has none.
    """
    return probes.find(runs.timed[0]) if runs.timed else None
