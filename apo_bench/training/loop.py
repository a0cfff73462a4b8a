"""The only training loop.

The clock runs while the update rule steps and stands still during evaluation; the device is synchronized where the
clock starts and stops, and once a block of steps, when the losses are looked at. Test data are touched once, after the
last step.
"""

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import msgspec
import torch

from apo_bench.data.batches import BatchStream
from apo_bench.data.examples import Examples, Splits
from apo_bench.errors import ApoBenchError, UsageError
from apo_bench.measure.card import CardUse
from apo_bench.measure.clock import Clock
from apo_bench.measure.flops import ExactCost, exact_cost
from apo_bench.measure.memory import PeakMemory
from apo_bench.measure.nvml import open_card
from apo_bench.measure.state import bytes_by_purpose, state_bytes
from apo_bench.plugins.task import Task
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import StepResult, UpdateRule
from apo_bench.problem.seeds import restore_random_state
from apo_bench.records.events import CurvePoint, Evaluated, Event, Progress, Started
from apo_bench.records.outcome import Diverged, Exhausted, Outcome, Reached
from apo_bench.records.run import Cost, Direction, PrecisionFacts, Scores, TaskFacts
from apo_bench.records.schedules import Constant, learning_rate_factor
from apo_bench.records.spec import RunSpec
from apo_bench.training.checkpoint import Checkpoints
from apo_bench.training.evaluation import evaluate

BLOCK = 20
"""Steps between two looks at the losses, each of which synchronizes the device."""
GIVE_UP = 40
"""Skipped steps in a row after which loss scaling has failed: the scale has fallen by 2⁴⁰."""
_PROGRESS_SECONDS = 0.5
_COUNTERS = (
    "taken",
    "skipped",
    "skipped_in_a_row",
    "since_evaluation",
    "block_ms",
    "rate_factor",
    "continued",
)
"""Attributes of the loop that a checkpoint holds as they are."""


@dataclasses.dataclass(frozen=True)
class Training:
    """What a run's training came to; the record's part that is known only here."""

    outcome: Outcome
    task: TaskFacts
    precision: PrecisionFacts
    scores: Scores
    cost: Cost
    curve: tuple[CurvePoint, ...]
    continued: int


@dataclasses.dataclass(eq=False)
class Loop:
    """State of one run's training; made by `prepare`.

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
        baseline: Resident bytes before data and network were made, on a CPU.
        observe: Called with each event, off the clock.
        taken: Steps so far.
        skipped: Those of them that overflowed.
        curve: The evaluations so far.
        diverged: Set where the run has diverged.
        continued: How often the run was taken up from a checkpoint.
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
    taken: int = dataclasses.field(default=0, init=False)
    skipped: int = dataclasses.field(default=0, init=False)
    curve: list[CurvePoint] = dataclasses.field(default_factory=list, init=False)
    diverged: Diverged | None = dataclasses.field(default=None, init=False)
    continued: int = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        self.card = CardUse(open_card(self.clock.device))
        self.total_steps = self.spec.budget.steps(self.batches.batches_per_pass)
        self.skipped_in_a_row = 0
        self.unseen: list[StepResult] = []
        self.since_evaluation: list[float] = []
        self.block_ms: list[float] = []
        self.rate_factor = 1.0
        self.earlier_peak = 0
        self.earlier_reserved = 0
        self.next_progress = 0.0
        self.set_rate: Callable[[float], None] | None = None
        if self.spec.optimizer.schedule != Constant():
            self.set_rate = getattr(self.rule, "scale_learning_rate", None)
            if self.set_rate is None:
                name = self.spec.optimizer.name
                raise UsageError(f"optimizer {name!r} cannot follow a schedule; declare it constant")

    def run(self, checkpoints: Checkpoints | None = None) -> Training:
        """Train to the outcome."""
        self.observe(Started(steps=self.total_steps))
        memory = PeakMemory(self.clock.device)
        self.resume(checkpoints)
        per_epoch = self.facts.steps_per_epoch
        between = per_epoch * self.task.evaluation_interval
        last_save = time.monotonic()
        self.card.start()
        while self.taken < self.total_steps and self.diverged is None:
            to_evaluation = between - self.taken % between
            self.block(min(BLOCK, to_evaluation, self.total_steps - self.taken))
            if self.diverged is None and (self.taken % between == 0 or self.taken == self.total_steps):
                with memory.aside():
                    self._evaluate_curve(self.taken / per_epoch)
            if checkpoints and self.diverged is None and time.monotonic() >= last_save + checkpoints.every_seconds:
                with memory.aside():
                    self._save(checkpoints, memory)
                last_save = time.monotonic()
        peak, reserved, phases = self._peak(memory), self._reserved(memory), self._phases()
        self.card.finish()
        test = None
        if self.diverged is None:
            _, test = self.test()
            if not math.isfinite(test):
                self.diverged, test = Diverged(step=self.taken, reason="test metric is not finite"), None
        precision, state = self._precision(), sum(state_bytes(self.rule).values())
        by_purpose = bytes_by_purpose(self.rule, self.problem.model)
        exact = self._exact_cost()  # takes steps: all else that looks at the rule has looked
        return Training(
            outcome=self._outcome(),
            task=self.facts,
            precision=precision,
            scores=self._scores(test),
            cost=Cost(
                steps=self.taken,
                skipped_steps=self.skipped,
                train_seconds=self.clock.training,
                eval_seconds=self.clock.evaluating,
                data_seconds=self.clock.data,
                phases=phases,
                step_ms=median(self.block_ms) if self.block_ms else None,
                peak_memory_bytes=peak,
                state_bytes=state,
                bytes_by_purpose=by_purpose,
                flops_per_step=exact.flops_per_step if exact else None,
                operator_calls_per_step=exact.operator_calls_per_step if exact else None,
                baseline_memory_bytes=self.baseline,
                peak_reserved_bytes=reserved,
                process_memory_bytes=self.card.process_memory_bytes,
                energy_joules=None if self.continued else self.card.energy_joules,  # before the interruption: unknown
                clock_mhz=self.card.clock_mhz,
                throttle_reasons=self.card.throttle_reasons,
                foreign_processes=self.card.foreign_processes,
            ),
            curve=tuple(self.curve),
            continued=self.continued,
        )

    def resume(self, checkpoints: Checkpoints | None) -> None:
        """Take up the run's checkpoint, where there is one."""
        saved = checkpoints.load() if checkpoints else None
        if saved is not None:
            self._load_state_dict(saved)

    def _exact_cost(self) -> ExactCost | None:
        """What a step costs, counted; `None` for a diverged run, and where it cannot be counted."""
        if self.diverged is not None:
            return None
        try:
            return exact_cost(self.rule, self.problem, self.batches.draw)
        except Exception as error:  # noqa: BLE001 - the run is done: a plugin that fails here loses its count alone
            self._say(f"the cost of a step was not counted: {error}")
            return None

    def block(self, steps: int) -> None:
        """Take some steps on the clock, then look at their losses."""
        before = self.clock.training
        first = self.taken
        with self.clock.train():
            for _ in range(steps):
                if self.set_rate is not None:
                    factor = learning_rate_factor(self.spec.optimizer.schedule, self.taken, self.total_steps)
                    if factor != self.rate_factor:
                        self.set_rate(factor)
                        self.rate_factor = factor
                with self.clock.ledger.phase("data"):
                    batch = self.batches.draw()
                try:
                    result = self.rule.step(batch)
                except Exception as error:
                    if self._diverged_before(error, first):
                        break
                    raise
                self.unseen.append(result)
                self.taken += 1
                self.skipped_in_a_row = 0 if result.applied else self.skipped_in_a_row + 1
                if self.skipped_in_a_row == GIVE_UP:
                    self.diverged = Diverged(
                        step=self.taken - GIVE_UP + 1,
                        reason=f"{GIVE_UP} steps in a row overflowed at every loss scale",
                    )
                    break
        if self.taken > first:
            self.block_ms.append(1000.0 * (self.clock.training - before) / (self.taken - first))
        if self.unseen:
            self._look(first)

    def _diverged_before(self, error: Exception, first: int) -> bool:
        """Whether a step that raised did so on numbers that were not finite any more: a divergence, no crash."""
        if isinstance(error, ApoBenchError | MemoryError | torch.OutOfMemoryError):
            return False
        if self.unseen:
            self._look(first)
        if self.diverged is None and not all(bool(p.isfinite().all()) for p in self.problem.model.parameters()):
            self.diverged = Diverged(step=self.taken + 1, reason="a parameter is not finite")
        if self.diverged is None:
            return False
        self._say(f"step {self.taken + 1} raised {type(error).__name__}: {error}")
        return True

    def _say(self, line: str) -> None:
        """Print into the run's own log, which may be on a full disk."""
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr)  # noqa: T201

    def _look(self, first: int) -> None:
        """Find the first loss of the block that is not finite; a skipped step's loss says nothing."""
        losses = torch.stack([result.loss for result in self.unseen]).tolist()
        for offset, (loss, result) in enumerate(zip(losses, self.unseen, strict=True)):
            if not result.applied:
                self.skipped += 1
            elif math.isfinite(loss):
                self.since_evaluation.append(loss)
            elif self.diverged is None or first + offset + 1 < self.diverged.step:
                self.diverged = Diverged(step=first + offset + 1, reason="training loss is not finite")
                break
        self.unseen.clear()
        now = time.monotonic()
        if now >= self.next_progress:
            self.next_progress = now + _PROGRESS_SECONDS
            self.observe(Progress(step=self.taken, train_loss=self._train_loss()))

    def _train_loss(self) -> float | None:
        return math.fsum(self.since_evaluation) / len(self.since_evaluation) if self.since_evaluation else None

    def validate(self) -> tuple[float, float]:
        """Mean loss and metric over the validation split, off the clock."""
        return self._judge(self.splits.validation)

    def test(self) -> tuple[float, float]:
        """The same over the test split: once, at the end."""
        return self._judge(self.splits.test)

    def _judge(self, examples: Examples) -> tuple[float, float]:
        with self.clock.evaluate(), self.rule.evaluating():
            return evaluate(self.problem, self.task, examples)

    def _evaluate_curve(self, epoch: float) -> None:
        self.card.sample()  # before the evaluation: the clocks are still those of training
        loss, metric = self.validate()
        train_loss = self._train_loss()
        self.since_evaluation.clear()
        if not (math.isfinite(loss) and math.isfinite(metric)):
            self.diverged = Diverged(step=self.taken, reason="validation loss is not finite")
            return
        if train_loss is None:
            return  # every step since the last evaluation was skipped
        point = CurvePoint(
            step=self.taken,
            epoch=epoch,
            seconds=self.clock.training,
            train_loss=train_loss,
            validation_loss=loss,
            validation=metric,
            learning_rate_factor=self.rate_factor,
            readings=self._readings(),
        )
        self.curve.append(point)
        self.observe(Evaluated(point=point))

    def _readings(self) -> dict[str, float]:
        """What the rule says of itself, where it says anything; a reading that is not finite is left out."""
        read: Callable[[], Mapping[str, float]] | None = getattr(self.rule, "readings", None)
        return {name: value for name, value in read().items() if math.isfinite(value)} if read else {}

    def _precision(self) -> PrecisionFacts:
        """What stays in float32 although parameters are stored in 16 bit: the rule's state and computations too."""
        storage = self.problem.precision.storage_dtype
        if storage is torch.float32:
            return self.precision
        wide = []
        for purpose, tensors in self.rule.state_tensors().items():
            sizes = [tensor.itemsize > storage.itemsize for tensor in tensors if tensor.is_floating_point()]
            if any(sizes):
                wide.append(f"{'' if all(sizes) else 'part of '}state: {purpose}")
        computed: tuple[str, ...] = getattr(self.rule, "computes_in_fp32", ())
        kept = (*self.precision.kept_fp32, *wide, *(f"computed: {what}" for what in computed))
        return msgspec.structs.replace(self.precision, kept_fp32=kept)

    def _scores(self, test: float | None) -> Scores:
        if not self.curve:
            return Scores(test=test)
        values = [point.validation for point in self.curve]
        best = max(values) if self.task.metric.direction is Direction.MAXIMIZE else min(values)
        return Scores(test=test, validation=None if self.diverged else values[-1], best_validation=best)

    def _save(self, checkpoints: Checkpoints, memory: PeakMemory) -> None:
        try:
            checkpoints.save(self._state_dict(memory))
        except OSError as error:  # a full disk costs the checkpoint, not the run
            self._say(f"no checkpoint at step {self.taken}: {error}")

    def _peak(self, memory: PeakMemory) -> int | None:
        peak = memory.bytes()
        return None if peak is None else max(peak, self.earlier_peak)

    def _reserved(self, memory: PeakMemory) -> int | None:
        reserved = memory.reserved()
        return None if reserved is None else max(reserved, self.earlier_reserved)

    def _state_dict(self, memory: PeakMemory) -> dict[str, Any]:
        """Everything needed to continue as if nothing had happened."""
        return {
            "model": self.problem.model.state_dict(),
            "problem": self.problem.state_dict(),
            "rule": self.rule.state_dict(),
            "batches": self.batches.state_dict(),
            "additional": self.additional.state_dict(),
            "random": self.problem.random_state(),
            "training": self.clock.training,
            "evaluating": self.clock.evaluating,
            "data": self.clock.data,
            "phases": self._phases(),
            "peak": self._peak(memory) or 0,
            "reserved": self._reserved(memory) or 0,
            "curve": [msgspec.to_builtins(point) for point in self.curve],
            **{name: getattr(self, name) for name in _COUNTERS},
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self.problem.model.load_state_dict(state["model"])
        self.problem.load_state_dict(state["problem"])
        self.rule.load_state_dict(state["rule"])
        self.batches.load_state_dict(state["batches"])
        self.additional.load_state_dict(state["additional"])
        restore_random_state(state["random"], self.clock.device)
        self.clock.training = state["training"]
        self.clock.evaluating = state["evaluating"]
        self.clock.data = state["data"]
        self.clock.ledger.seconds.update(state["phases"])
        self.earlier_peak = state["peak"]
        self.earlier_reserved = state["reserved"]
        self.curve = [msgspec.convert(point, CurvePoint) for point in state["curve"]]
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.continued += 1

    def _phases(self) -> dict[str, float]:
        """Seconds of training by phase."""
        apart = {"data", "evaluation"}
        return {name: seconds for name, seconds in self.clock.ledger.seconds.items() if name not in apart}

    def _outcome(self) -> Outcome:
        if self.diverged is not None:
            return self.diverged
        target = self.task.target
        if target is not None:
            sign = 1.0 if self.task.metric.direction is Direction.MAXIMIZE else -1.0
            for point in self.curve:
                if sign * point.validation >= sign * target.validation:
                    return Reached(step=point.step, target=target.validation)
        return Exhausted()
