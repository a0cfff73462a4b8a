"""Which runs belong together: a cell is a run without its seed, and whatever is grouped is grouped by it."""

from typing import NamedTuple

import msgspec

from apo_bench.records.schedules import Constant
from apo_bench.records.spec import Budget, Device, Frozen, OptimizerSpec, Precision, RunSpec

REFERENCE = "sgdm"
"""Every competitor is compared with it, under the same conditions, paired by seed."""


class Workload(NamedTuple):
    """A task on a kind of device with a budget: a table of a leaderboard, a figure.

    Attributes:
        task: Registered name.
        device: Kind of device.
        epochs: Passes over the training set.
    """

    task: str
    device: Device
    epochs: float


class Conditions(NamedTuple):
    """What competitors share that are compared with each other.

    Attributes:
        workload: Task, device and budget.
        precision: Number formats.
        compile: Whether models run through `torch.compile`.
    """

    workload: Workload
    precision: Precision
    compile: bool


class Contender(NamedTuple):
    """An optimizer under some conditions, whatever its setting.

    Attributes:
        conditions: What it shares with those it is compared with.
        optimizer: Registered name.
    """

    conditions: Conditions
    optimizer: str


class Cell(Frozen, frozen=True):
    """A task, an optimizer with its setting, a precision, a budget and a device: a `RunSpec` without its seed."""

    task: str
    optimizer: OptimizerSpec
    precision: Precision
    budget: Budget
    device: Device
    compile: bool = False

    @classmethod
    def of(cls, run: RunSpec) -> "Cell":
        """The cell of a run."""
        return cls(
            task=run.task,
            optimizer=run.optimizer,
            precision=run.precision,
            budget=run.budget,
            device=run.device,
            compile=run.compile,
        )

    def run(self, seed: int) -> RunSpec:
        """The cell's run with a seed."""
        return RunSpec(
            task=self.task,
            optimizer=self.optimizer,
            precision=self.precision,
            seed=seed,
            budget=self.budget,
            device=self.device,
            compile=self.compile,
        )

    @property
    def title(self) -> str:
        """One readable line."""
        return f"{self.task} {self.optimizer.name} {self.precision}"

    @property
    def workload(self) -> Workload:
        """Task, device and budget."""
        return Workload(self.task, self.device, self.budget.epochs)

    @property
    def conditions(self) -> Conditions:
        """What a comparison with another cell holds fixed."""
        return Conditions(self.workload, self.precision, self.compile)

    @property
    def contender(self) -> Contender:
        """The optimizer under these conditions: cells that differ in the setting only have the same."""
        return Contender(self.conditions, self.optimizer.name)

    @property
    def step(self) -> "Cell":
        """What determines the cost of a step: the cell with neither schedule nor budget, which change none."""
        optimizer = msgspec.structs.replace(self.optimizer, schedule=Constant())
        return msgspec.structs.replace(self, optimizer=optimizer, budget=Budget(epochs=1.0))
