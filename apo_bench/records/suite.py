"""What is compared: which competitors meet on which tasks, in which precisions, with which budget."""

from collections import Counter

import msgspec

from apo_bench.errors import UsageError
from apo_bench.records.contrast import Contrast
from apo_bench.records.schedules import Constant, Schedule
from apo_bench.records.spec import Device, Frozen, Precision, Scalar, Scale

TUNING_SEED = 100
"""Where settings are tried, unless a suite says other seeds; nothing is ever reported on it."""


class OptimizerEntry(Frozen, frozen=True):
    """A competitor as a suite declares it: only what differs from the optimizer's own defaults.

    Attributes:
        optimizer: Registered name.
        overrides: Hyperparameters that the suite sets for all tasks.
        schedule: Factor on the learning rate over the run.
        grid: Values to try of further hyperparameters; the setting that validates best on the suite's tuning seeds, at
            a constant schedule, is the one whose runs are reported.
    """

    optimizer: str
    overrides: dict[str, Scalar] = {}  # noqa: RUF012 - msgspec copies it
    schedule: Schedule = Constant()
    grid: dict[str, tuple[Scalar, ...]] = {}  # noqa: RUF012 - msgspec copies it

    def __post_init__(self) -> None:
        """Refuse a grid without a choice.

        Raises:
            ValueError: Fewer than two values of a hyperparameter, or one that ``overrides`` sets too.
        """
        for name, values in self.grid.items():
            if len(set(values)) < 2:  # noqa: PLR2004 - a choice is between two
                raise ValueError(f"{self.optimizer}.{name}: a grid needs two values or more, not {values}")
            if name in self.overrides:
                raise ValueError(f"{self.optimizer}.{name} is set to {self.overrides[name]} and has a grid; drop one")


class TaskEntry(Frozen, frozen=True):
    """One task of a suite with the budget that every competitor gets there.

    Attributes:
        task: Registered name.
        epochs: Passes over the training set.
        seeds: Reporting seeds, in the order in which they are run.
        overrides: Hyperparameters by optimizer name that hold on this task only.
        optimizers: Competitors on this task; the suite's where empty.
        precisions: Number formats on this task; the suite's where empty.
        on_cuda: Registered name of the task in its place on CUDA, where the ratios of a small network say nothing; the
            same task where empty.
    """

    task: str
    epochs: float
    seeds: tuple[int, ...] = (0,)
    overrides: dict[str, dict[str, Scalar]] = {}  # noqa: RUF012 - msgspec copies it
    optimizers: tuple[OptimizerEntry, ...] = ()
    precisions: tuple[Precision, ...] = ()
    on_cuda: str = ""


class Suite(Frozen, frozen=True):
    """Which competitors meet on which tasks and in which precisions, at one scale.

    ``tuning_seeds`` are where the grids of competitors are tried; no task may report on them. ``contrasts`` are the
    questions that the suite is run for.
    """

    name: str
    scale: Scale
    title: str
    tasks: tuple[TaskEntry, ...]
    optimizers: tuple[OptimizerEntry, ...]
    precisions: tuple[Precision, ...]
    tuning_seeds: tuple[int, ...] = (TUNING_SEED,)
    contrasts: tuple[Contrast, ...] = ()

    def __post_init__(self) -> None:
        """Refuse to report where settings are chosen, and two questions of one name.

        Raises:
            UsageError: A tuning seed is among the seeds of a task, or two contrasts have one name.
        """
        repeated = [name for name, count in Counter(one.name for one in self.contrasts).items() if count > 1]
        if repeated:
            raise UsageError(f"suite {self.name!r} declares two contrasts {repeated[0]!r}; give each its own name")
        reported = {seed for entry in self.tasks for seed in entry.seeds}
        for seed in self.tuning_seeds:
            if seed in reported:
                raise UsageError(
                    f"seed {seed} is a tuning seed of suite {self.name!r}, on which settings are chosen and nothing is "
                    "reported; leave it out of --seeds"
                )

    def on(self, device: Device) -> "Suite":
        """The suite with the tasks that it has on a kind of device."""
        if device is not Device.CUDA:
            return self
        tasks = [
            msgspec.structs.replace(entry, task=entry.on_cuda, on_cuda="") if entry.on_cuda else entry
            for entry in self.tasks
        ]
        return msgspec.structs.replace(self, tasks=tuple(tasks))

    def competitors(self, entry: TaskEntry) -> tuple[OptimizerEntry, ...]:
        """Who meets on one of the tasks."""
        return entry.optimizers or self.optimizers

    def formats(self, entry: TaskEntry) -> tuple[Precision, ...]:
        """In which precisions they meet there."""
        return entry.precisions or self.precisions

    def all_competitors(self) -> tuple[OptimizerEntry, ...]:
        """Everyone who meets on any of the tasks."""
        return tuple(declared for entry in self.tasks for declared in self.competitors(entry))
