"""The rows, sections and pages of a leaderboard, as values: what renderers are given."""

import dataclasses
from collections.abc import Mapping

from apo_bench.evidence.answer import Answer
from apo_bench.evidence.estimates import Estimate
from apo_bench.evidence.step_costs import StepCost
from apo_bench.evidence.summary import Summary
from apo_bench.evidence.tuning import Tuned
from apo_bench.records.cell import Cell
from apo_bench.records.facts import TaskFacts
from apo_bench.records.spec import Device, Precision, Scale


@dataclasses.dataclass(frozen=True)
class Row:
    """One cell.

    Attributes:
        cell: What its runs are runs of.
        competitor: Name, with the hyperparameters that tell it from other settings of the same optimizer.
        precision: Number formats.
        emulated: Whether 16-bit arithmetic was emulated; its costs then say nothing and are `None`.
        score: Test score over seeds; `None` when a run diverged, its metric is undefined or the optimizer raised in it,
            or when none is finished.
        versus_reference: Difference to the reference in the same precision, or ratio to it on a logarithmic axis;
            simultaneous within the task. `None` where there is none to compare.
        results: Runs with a result, diverged ones included.
        diverged: Runs that diverged.
        raised: Runs in which the optimizer raised.
        failed: Runs without a result, those included.
        skipped_steps: Steps skipped because a scaled gradient overflowed, over all runs.
        planned: Runs that the plan holds, `None` when no plan is known.
        best_validation: Mean of each run's best validation value.
        train_loss: Last point of the training curve (a mean over the steps since the point before), over seeds; `None`
            where ``score`` is, and when none has a curve.
        epochs: Budget.
        step_ms: Median over runs of the run's median step, in milliseconds; runs that disagree with the probe left out.
        train_seconds: Median over runs, likewise.
        disagreeing: Runs whose mean step is not the one that was probed: something else ran beside them.
        step: What a step costs by the probe; `None` without one that fits.
        reached: Runs that reached the validation target.
        steps_to_target: Median over runs, of which those that did not reach it are censored; `None` where more than
            half did not.
        target_seconds: The same in seconds of the runs' own clock.
        composed_target_seconds: Steps to the target times the probed step.
        peak_memory_bytes: Largest over runs.
        state_bytes: Largest over runs.
        overhead: Share of the training clock that curvature, inverses and meta-updates took; median over runs.
        flops_per_step: Median over runs, the optimizer's own operations included.
        reported: What the paper prints for this cell; only at scale ``paper``, and only where the optimizer has one
            setting: which of several the paper's would be is not known.
        undefined: Runs whose metric is undefined; they are among the failed.
        is_outdated: Whether it has no result of the installed code, and is of another version.
        seeds: Of its runs.
        tried: By hyperparameter that a grid search chose, how many values were tried.
    """

    cell: Cell
    competitor: str
    precision: Precision
    emulated: bool
    score: Summary | None
    versus_reference: Estimate | None
    results: int
    diverged: int
    raised: int
    failed: int
    skipped_steps: int
    planned: int | None
    best_validation: float | None
    train_loss: Summary | None
    epochs: float
    step_ms: float | None
    train_seconds: float | None
    disagreeing: int
    step: StepCost | None
    reached: int
    steps_to_target: float | None
    target_seconds: float | None
    composed_target_seconds: float | None
    peak_memory_bytes: float | None
    state_bytes: float | None
    overhead: float | None
    flops_per_step: float | None
    reported: float | None = None
    undefined: int = 0
    is_outdated: bool = False
    seeds: tuple[int, ...] = ()
    tried: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Section:
    """One task on one kind of device with one budget; rows best first, diverged cells last.

    Attributes:
        task: Name.
        device: Kind of device.
        facts: What the task was; `None` before its first run.
        rows: One a cell.
        epochs: The budget, where the leaderboard has the task with several.
    """

    task: str
    device: Device
    facts: TaskFacts | None
    rows: tuple[Row, ...]
    epochs: float | None = None

    @property
    def budget(self) -> str:
        """What a title says of the budget."""
        return "" if self.epochs is None else f", {self.epochs:g} epochs"


@dataclasses.dataclass(frozen=True)
class Leaderboard:
    """All tasks of a suite at one scale.

    Attributes:
        suite: Name.
        scale: Scale.
        sections: One a task.
        machines: Distinct machines and versions the records come from.
        failures: Runs without a result, tuning runs included: title and message.
        diverged: Diverged runs: title, and at which step what stopped being finite and where that began.
        tuned: What the grid searches chose.
        not_counted: Runs whose steps were not counted: title, and the reason.
        provenance: What was left out, or counts in part, for the code or the machine that it is of; one line each.
        doubts: Reasons to doubt a probe's numbers, each once on a task, with the rows that it concerns.
        answer: What can be said of all of it.
    """

    suite: str
    scale: Scale
    sections: tuple[Section, ...]
    machines: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]
    diverged: tuple[tuple[str, str], ...] = ()
    tuned: tuple[Tuned, ...] = ()
    not_counted: tuple[tuple[str, str], ...] = ()
    provenance: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    answer: Answer = dataclasses.field(default_factory=Answer)
