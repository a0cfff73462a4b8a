"""What a run's training is given; made by `apo_bench.training.trainer.prepare`, and never changed afterwards."""

import dataclasses
from collections.abc import Callable

from apo_bench.data.batches import BatchStream
from apo_bench.data.examples import Splits
from apo_bench.measure.clock import Clock
from apo_bench.plugins.task import Task
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import UpdateRule
from apo_bench.records.events import Event
from apo_bench.records.facts import PrecisionFacts, TaskFacts
from apo_bench.records.spec import RunSpec


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """Everything that a loop works with.

    Attributes:
        spec: What is run.
        task: The task named in it.
        problem: What the rule sees.
        rule: What takes the steps.
        batches: The stream that every competitor sees.
        additional: The stream of additional batches.
        splits: Training, validation and test data, on the device.
        facts: What the record says of the task.
        precision: What the record says of the precision, but for the rule's state.
        clock: Training time, its phases, and what is off the clock.
        baseline: Bytes of the peak of memory that are none of the training's: on a CPU those resident before the data
            were loaded, on CUDA those allocated afterwards.
        observe: Called with each event, off the clock.
    """

    spec: RunSpec
    task: Task
    problem: Problem
    rule: UpdateRule
    batches: BatchStream
    additional: BatchStream
    splits: Splits
    facts: TaskFacts
    precision: PrecisionFacts
    clock: Clock
    baseline: int | None
    observe: Callable[[Event], None]

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.spec.budget.steps(self.batches.batches_per_pass)

    @property
    def steps_between_evaluations(self) -> int:
        """Steps between two points of the curve."""
        return self.facts.steps_per_epoch * self.task.evaluation_interval
