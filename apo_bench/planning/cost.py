"""What the cells of a plan would cost, counted from the networks: an estimate made before anything has run."""

import contextlib
import dataclasses
import functools
from collections import Counter
from typing import TYPE_CHECKING

from apo_bench.errors import ApoBenchError
from apo_bench.planning.grid import tuning_points
from apo_bench.planning.plan import Plan
from apo_bench.plugins.guard import PluginRaisedError, guarded
from apo_bench.records.spec import Budget, Precision

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from apo_bench.data.examples import Batch
    from apo_bench.plugins.task import Task


@dataclasses.dataclass(frozen=True)
class CellCost:
    """A task, an optimizer and a precision, with all seeds; or the runs that try settings there.

    Attributes:
        task: Registered name.
        optimizer: Registered name.
        precision: Number formats.
        epochs: Budget of a run.
        runs: Seeds times the settings of the optimizer, or the settings to be tried; finished runs included.
        steps: Optimizer steps of a run; `None` where the dataset does not state its size.
        flops_per_step: Floating-point operations of the network's passes over a batch; `None` where they are not known.
        data_missing: Whether the task's data cannot be had here.
        tuning: Whether these are the runs that try settings.
        not_counted: Why ``flops_per_step`` is not known, in one line.
    """

    task: str
    optimizer: str
    precision: Precision
    epochs: float
    runs: int
    steps: int | None
    flops_per_step: int | None
    data_missing: bool
    tuning: bool = False
    not_counted: str | None = None

    @property
    def total_flops(self) -> int | None:
        """Operations of one run."""
        return None if self.steps is None or self.flops_per_step is None else self.steps * self.flops_per_step

    def gpu_hours(self, tflops: float) -> float | None:
        """Hours of all runs of the cell at a rate of ``tflops`` × 10¹² operations a second."""
        return None if self.total_flops is None else self.runs * self.total_flops / (tflops * 1e12) / 3600


def cell_costs(plan: Plan) -> tuple[CellCost, ...]:
    """Cost of every cell that the plan was asked for, those without data included, in the suite's order."""
    available = {entry.task for entry in plan.suite.tasks}
    passes = {name: passes_cost(task) for name, task in plan.tasks.items()}
    cells = []
    for entry in plan.asked.tasks:
        task = plan.tasks[entry.task]
        sizes = task.dataset.sizes
        steps = Budget(epochs=entry.epochs).steps(max(1, sizes[0] // task.batch_size)) if sizes else None
        competitors = plan.asked.competitors(entry)
        settings = Counter(declared.optimizer for declared in competitors)
        tried = tuning_points(plan.asked, entry)
        cells += [
            CellCost(
                task=entry.task,
                optimizer=optimizer,
                precision=precision,
                epochs=entry.epochs,
                runs=runs,
                steps=steps,
                flops_per_step=passes[entry.task].flops,
                data_missing=entry.task not in available,
                tuning=tuning,
                not_counted=passes[entry.task].reason,
            )
            for precision in plan.asked.formats(entry)
            for optimizer, count in settings.items()
            for runs, tuning in ((tried.get(optimizer, 0), True), (count * len(entry.seeds), False))
            if runs
        ]
    return tuple(cells)


_META, _CPU = "meta", "cpu"
"""Devices on which a network is made: in shapes only, or with its numbers."""


def make_model(task: "Task") -> "nn.Module":
    """The task's network in shapes only, on the meta device; on the CPU where it cannot be made there."""
    import torch

    try:
        with torch.device(_META):
            return task.model()
    except Exception:  # noqa: BLE001 - a plugin's network may look at its numbers, and fail in any way
        return task.model()


@dataclasses.dataclass(frozen=True)
class PassesCost:
    """What a network's own passes over a batch cost.

    Attributes:
        flops: Floating-point operations; `None` where they are not known.
        reason: Why not, in one line.
    """

    flops: int | None
    reason: str | None = None


def step_flops(task: "Task") -> int | None:
    """Floating-point operations of a forward and a backward pass over one batch; `None` where they are not known."""
    return passes_cost(task).flops


def passes_cost(task: "Task") -> PassesCost:
    """Count a forward and a backward pass over one batch: 2 FLOPs for each multiply-add.

    Counted is as in records (`apo_bench.measure.flops`), but neither the loss nor anything that an optimizer adds. The
    gradient by the inputs is not needed and not in it. Padded sequences count at the length that the dataset's blank
    batch has. The network is made without memory for its numbers, where it does not look at them.

    Returns:
        The count; without one where an operator has no formula, where the dataset does not say how its batches look, or
        where the network takes no such batch: an estimate is no reason to stop a run, which will say what is wrong.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    if task.dataset.blank is None:
        return PassesCost(None, f"dataset {task.dataset.name} does not say how its batches look (`Dataset.blank`)")
    error = ""
    for numbers in (FakeTensorMode(allow_non_fake_inputs=True), contextlib.nullcontext()):
        try:
            return guarded(functools.partial(_count, task, task.dataset.blank, numbers))
        except (ApoBenchError, PluginRaisedError) as raised:  # without numbers anything that looks at one fails
            error = str(raised)
    return PassesCost(None, f"the network takes no blank batch ({error})")


def _count(
    task: "Task", blank: "Callable[[int], Batch]", numbers: contextlib.AbstractContextManager[object]
) -> PassesCost:
    """Count both passes; the sum of the outputs stands for the loss, whose gradient has the same shape."""
    import torch

    from apo_bench.measure.counter import FlopCounter
    from apo_bench.measure.flops import nothing_compiled

    with numbers:
        model, batch = task.model(), blank(task.batch_size)
        with torch.enable_grad(), nothing_compiled(), FlopCounter() as counter:
            model.train()(*batch.inputs).sum().backward()
    return PassesCost(counter.flops, counter.reason)
