"""What the cells of a plan would cost, counted from the networks: an estimate made before anything has run."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from apo_bench.grid import tuning_points
from apo_bench.plan import Plan
from apo_bench.spec import Budget, Precision
from apo_bench.units import quantity

_NOTE = (
    "Estimate: {tflops:g} TFLOP/s sustained is assumed (--gpu-tflops), not measured. Counted are the network's own\n"
    "forward and backward passes, 2 FLOPs a multiply-add; what an optimizer adds to them is not in it."
)


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

    @property
    def total_flops(self) -> int | None:
        """Operations of one run."""
        return None if self.steps is None or self.flops_per_step is None else self.steps * self.flops_per_step

    def gpu_hours(self, tflops: float) -> float | None:
        """Hours of all runs of the cell at a rate of ``tflops`` × 10¹² operations a second."""
        return None if self.total_flops is None else self.runs * self.total_flops / (tflops * 1e12) / 3600


def cell_costs(plan: Plan) -> tuple[CellCost, ...]:
    """Cost of every cell that the plan was asked for, those without data included, in the suite's order."""
    from apo_bench.measure.flops import step_flops

    available = {entry.task for entry in plan.suite.tasks}
    flops = {name: step_flops(task) for name, task in plan.tasks.items()}
    cells = []
    for entry in plan.asked.tasks:
        task = plan.tasks[entry.task]
        sizes = task.dataset.sizes
        steps = Budget(epochs=entry.epochs).steps(max(1, sizes[0] // task.batch_size)) if sizes else None
        competitors = plan.asked.competitors(entry)
        settings = Counter(declared.optimizer for declared in competitors)
        tried = tuning_points(entry, competitors)
        cells += [
            CellCost(
                task=entry.task,
                optimizer=optimizer,
                precision=precision,
                epochs=entry.epochs,
                runs=runs,
                steps=steps,
                flops_per_step=flops[entry.task],
                data_missing=entry.task not in available,
                tuning=tuning,
            )
            for precision in plan.asked.formats(entry)
            for optimizer, count in settings.items()
            for runs, tuning in ((tried.get(optimizer, 0), True), (count * len(entry.seeds), False))
            if runs
        ]
    return tuple(cells)


def cost_table(cells: Sequence[CellCost], tflops: float) -> str:
    """One row a cell, the sum, and what the numbers are not.

    Args:
        cells: From `cell_costs`.
        tflops: Rate that is assumed, in 10¹² operations a second.
    """
    from tabulate import tabulate

    rows = [
        [
            cell.task,
            cell.optimizer,
            str(cell.precision),
            str(cell.runs),
            "?" if cell.steps is None else f"{cell.steps:,}",
            quantity(cell.flops_per_step),
            quantity(cell.total_flops),
            _hours(cell.gpu_hours(tflops)),
            ", ".join(note for note, holds in (("tuning", cell.tuning), ("data missing", cell.data_missing)) if holds),
        ]
        for cell in cells
    ]
    headers = ["task", "optimizer", "precision", "runs", "steps", "FLOPs/step", "FLOPs/run", "GPU hours", ""]
    align = ["left"] * 3 + ["right"] * 5 + ["left"]
    table = tabulate(rows, headers=headers, disable_numparse=True, colalign=align)
    known = [hours for cell in cells if (hours := cell.gpu_hours(tflops)) is not None]
    partly = f" ({len(cells) - len(known)} of {len(cells)} cells are not known)" if len(known) < len(cells) else ""
    total = f"All {sum(cell.runs for cell in cells)} runs: {_hours(sum(known))} GPU hours{partly}."
    return f"{table}\n\n{total if known else 'GPU hours are not known.'}\n{_NOTE.format(tflops=tflops)}"


def _hours(hours: float | None) -> str:
    if hours is None:
        return "?"
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.2g}"  # noqa: PLR2004
