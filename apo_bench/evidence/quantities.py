"""The one table of what is read from a record: name, unit, which way is better, and how it is compared.

Markdown, export, W&B and `check` show numbers of `QUANTITIES`, and of nothing else. A quantity of the task's metric has
the metric's unit, direction and axis (`Quantity.on`). Losses, squared errors and times are compared by their ratios.
"""

import dataclasses
import re
from collections.abc import Callable
from enum import StrEnum

from apo_bench.evidence.step_costs import StepCost
from apo_bench.records.facts import Axis, Cost, Direction, PrecisionBackend, TaskFacts
from apo_bench.records.outcome import Reached
from apo_bench.records.run import RunRecord

PERIODIC_PHASES = ("curvature", "inverse", "meta")
"""Phases of the ledger that only some steps have."""
PHASES = ("forward", "backward", "update", *PERIODIC_PHASES)
"""All phases of the training clock that the harness marks."""
MODEL_PURPOSES = ("parameters", "gradients", "buffers")
"""Of the bytes by purpose, those that belong to the model and not to the optimizer."""
_BY_RATIO = re.compile(r"\b(squared error|mse|loss|cross-entropy|perplexity|nats|bits)\b", re.IGNORECASE)
"""What metrics are called that are compared by their ratios, where they do not say so."""

Extract = Callable[[RunRecord, StepCost | None], float | None]


class Pool(StrEnum):
    """How the runs of a cell become one number."""

    MEAN = "mean"
    MEDIAN = "median"
    LARGEST = "largest"


@dataclasses.dataclass(frozen=True)
class Quantity:
    """What can be read from a record, and be compared.

    Attributes:
        name: Of the column of an export, and of the summary of a run in W&B.
        title: For a reader.
        unit: Its unit; empty for a bare number.
        direction: Which way is better; `None` where it is the metric's, or neither.
        axis: By differences or by ratios; `None` where it is the metric's.
        extract: Reads it from a record and what the probe says of its step; `None` where it was not measured.
        exact: Whether it is counted, so that two runs of one code have the same.
        pool: How the runs of a cell become one number.
        is_of_machine: Whether it is another on another machine.
        is_metric: Whether it is a value of the task's metric.
    """

    name: str
    title: str
    unit: str
    direction: Direction | None
    axis: Axis | None
    extract: Extract
    exact: bool = False
    pool: Pool = Pool.MEAN
    is_of_machine: bool = False
    is_metric: bool = False

    def on(self, facts: TaskFacts | None) -> "Quantity":
        """The same on a task: with the metric's unit, direction and axis, where it is a value of the metric."""
        if not self.is_metric or facts is None:
            return self if self.axis is not None else dataclasses.replace(self, axis=Axis.LINEAR)
        return dataclasses.replace(self, unit=facts.metric, direction=facts.direction, axis=axis_of(facts))


def axis_of(facts: TaskFacts) -> Axis:
    """How values of a task's metric are compared: as the metric says, else as its name says."""
    return facts.metric_axis or axis_of_name(facts.metric)


def axis_of_name(metric: str) -> Axis:
    """How values of a metric of this name are compared.

    >>> [str(axis_of_name(name)) for name in ("accuracy (%)", "mean squared error", "BLEU", "cross-entropy (nats)")]
    ['linear', 'log', 'linear', 'log']
    """
    return Axis.LOG if _BY_RATIO.search(metric) else Axis.LINEAR


def is_emulated(record: RunRecord) -> bool:
    """Whether a run's 16-bit arithmetic was emulated, so that its costs are not those of 16 bit."""
    return record.precision is not None and record.precision.backend is PrecisionBackend.EMULATED


def phase_share(cost: Cost, *phases: str) -> float | None:
    """Share of the training clock that some phases took; `None` without a ledger."""
    if not cost.phases or cost.train_seconds <= 0:
        return None
    return sum(cost.phases.get(phase, 0.0) for phase in phases) / cost.train_seconds


def state_by_purpose(cost: Cost) -> dict[str, int]:
    """Bytes that an optimizer keeps between steps, by what they are for."""
    return {purpose: count for purpose, count in cost.bytes_by_purpose.items() if purpose not in MODEL_PURPOSES}


def steps_to_target(record: RunRecord) -> int | None:
    """Steps to the first point of the curve at the validation target; `None` where it was not reached."""
    return record.outcome.step if isinstance(record.outcome, Reached) else None


def seconds_to_target(record: RunRecord) -> float | None:
    """The same in seconds of the run's own clock; `None` also where the curve has no point there."""
    step = steps_to_target(record)
    return next((point.seconds for point in record.curve if point.step == step), None)


def _composed_seconds(record: RunRecord, step: StepCost | None) -> float | None:
    steps = steps_to_target(record)
    return None if steps is None or step is None else steps * step.milliseconds / 1000.0


def _of_cost(read: Callable[[Cost], float | None]) -> Extract:
    return lambda record, _: None if record.cost is None else read(record.cost)


def _of_probe(read: Callable[[StepCost], float | None]) -> Extract:
    return lambda _, step: None if step is None else read(step)


_LESS = Direction.MINIMIZE
_LIST = (
    Quantity("value", "test", "", None, None, lambda record, _: record.scores.test, is_metric=True),
    Quantity(
        "validation_value", "validation", "", None, None, lambda record, _: record.scores.validation, is_metric=True
    ),
    Quantity(
        "best_validation_value", "best validation", "", None, None, lambda record, _: record.scores.best_validation,
        is_metric=True,
    ),
    Quantity(
        "train_loss", "training loss", "", _LESS, Axis.LOG,
        lambda record, _: record.curve[-1].train_loss if record.curve else None,
    ),
    Quantity(
        "steps_to_target", "steps to target", "steps", _LESS, Axis.LOG, lambda record, _: steps_to_target(record),
        pool=Pool.MEDIAN,
    ),
    Quantity(
        "seconds_to_target", "seconds to target", "s", _LESS, Axis.LOG, lambda record, _: seconds_to_target(record),
        pool=Pool.MEDIAN, is_of_machine=True,
    ),
    Quantity(
        "composed_seconds_to_target", "seconds to target by probe", "s", _LESS, Axis.LOG, _composed_seconds,
        pool=Pool.MEDIAN, is_of_machine=True,
    ),
    Quantity(
        "train_seconds", "training", "s", _LESS, Axis.LOG, _of_cost(lambda cost: cost.train_seconds),
        pool=Pool.MEDIAN, is_of_machine=True,
    ),
    Quantity(
        "step_ms", "ms/step", "ms", _LESS, Axis.LOG, _of_cost(lambda cost: cost.step_ms),
        pool=Pool.MEDIAN, is_of_machine=True,
    ),
    Quantity(
        "probe_step_ms", "ms/step by probe", "ms", _LESS, Axis.LOG, _of_probe(lambda step: step.milliseconds),
        pool=Pool.MEDIAN, is_of_machine=True,
    ),
    Quantity(
        "step_ratio", "step ratio", "", _LESS, Axis.LOG, _of_probe(lambda step: step.ratio),
        pool=Pool.MEDIAN, is_of_machine=True,
    ),
    Quantity(
        "overhead", "overhead", "share", _LESS, Axis.LINEAR, _of_cost(lambda cost: phase_share(cost, *PERIODIC_PHASES)),
        pool=Pool.MEDIAN, is_of_machine=True,
    ),
    Quantity(
        "meta_overhead", "overhead of meta-updates", "share", _LESS, Axis.LINEAR,
        _of_cost(lambda cost: phase_share(cost, "meta")), pool=Pool.MEDIAN, is_of_machine=True,
    ),
    Quantity(
        "periodic_overhead", "overhead by probe", "share", _LESS, Axis.LINEAR,
        _of_probe(lambda step: step.periodic_overhead), pool=Pool.MEDIAN, is_of_machine=True,
    ),
    Quantity(
        "flops_per_step", "FLOPs of a step", "FLOPs", _LESS, Axis.LOG, _of_cost(lambda cost: cost.flops_per_step),
        exact=True, pool=Pool.MEDIAN,
    ),
    Quantity(
        "operator_calls_per_step", "operator calls of a step", "calls", _LESS, Axis.LOG,
        _of_cost(lambda cost: cost.operator_calls_per_step), exact=True, pool=Pool.MEDIAN,
    ),
    Quantity(
        "state_bytes", "bytes of state", "B", _LESS, Axis.LOG, _of_cost(lambda cost: cost.state_bytes),
        exact=True, pool=Pool.LARGEST,
    ),
    Quantity(
        "peak_memory_bytes", "peak memory", "B", _LESS, Axis.LOG, _of_cost(lambda cost: cost.peak_memory_bytes),
        pool=Pool.LARGEST, is_of_machine=True,
    ),
    Quantity(
        "energy_joules", "energy", "J", _LESS, Axis.LOG, _of_cost(lambda cost: cost.energy_joules),
        pool=Pool.MEDIAN, is_of_machine=True,
    ),
)  # fmt: skip
QUANTITIES = {quantity.name: quantity for quantity in _LIST}
"""By name."""


def values_of(record: RunRecord, step: StepCost | None = None) -> dict[str, float]:
    """Everything that is known of a run, by name of the quantity."""
    found = ((quantity.name, quantity.extract(record, step)) for quantity in _LIST)
    return {name: value for name, value in found if value is not None}
