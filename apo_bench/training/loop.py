"""The only training loop.

The clock runs while the update rule steps and stands still during evaluation; the device is synchronized where the
clock starts and stops, and once a block of steps, when the losses are looked at. Test data are touched once, after the
last step.
"""

import contextlib
import math
import time
from statistics import median
from typing import Any

import msgspec
import torch

from apo_bench.data.examples import Examples
from apo_bench.errors import ApoBenchError, UsageError, last_line
from apo_bench.measure.card import CardUse
from apo_bench.measure.consecutive import consecutive_after
from apo_bench.measure.flops import ExactCost, exact_cost
from apo_bench.measure.memory import PeakMemory
from apo_bench.measure.nvml import open_card
from apo_bench.measure.state import bytes_by_purpose, state_bytes
from apo_bench.problem.model_state import load_saved_state, saved_state
from apo_bench.problem.rule import Observable, Schedulable, StepResult
from apo_bench.problem.seeds import restore_random_state
from apo_bench.records.events import CurvePoint, Evaluated, Progress, Remarked, Started
from apo_bench.records.facts import Cost
from apo_bench.records.outcome import Diverged, Reason, Undefined
from apo_bench.records.schedules import Constant, learning_rate_factor
from apo_bench.say import note
from apo_bench.training.agreement import counts_nothing
from apo_bench.training.blame import RuleFailedError, is_the_rules_fault
from apo_bench.training.checkpoint import Checkpoints, NotStorableError
from apo_bench.training.evaluation import evaluate
from apo_bench.training.result import Training, left_alone_by, outcome_of, precision_of, scores_of
from apo_bench.training.setup import Setup
from apo_bench.training.state import TrainingState
from apo_bench.training.stop import Stop, Stopped

BLOCK = 20
"""Steps between two looks at the losses, each of which synchronizes the device."""
GIVE_UP = 40
"""Skipped steps in a row after which loss scaling has failed: the scale has fallen by 2⁴⁰."""
_PROGRESS_SECONDS = 0.5
_SHOWN = 500


class Loop:
    """One run's training.

    Args:
        setup: What it is given.
        stop: Where it is asked to end early.

    Attributes:
        setup: What it was given.
        stop: Where it is asked to end early.
        state: Where it stands; a checkpoint holds it.
        diverged: Set where the run has diverged.
        undefined: Set where its metric is no number on the test split, though the loss is finite.
        last: What the last step reported.

    Raises:
        UsageError: The rule cannot follow the run's schedule.
    """

    def __init__(self, setup: Setup, stop: Stop | None = None) -> None:
        self.setup = setup
        self.stop = stop or Stop()
        self.state = TrainingState()
        self.diverged: Diverged | None = None
        self.undefined: Undefined | None = None
        self.last: StepResult | None = None
        self._schedulable = _schedulable(setup)
        self._card = CardUse(open_card(setup.clock.device))
        self._unseen: list[tuple[StepResult, torch.Tensor]] = []
        self._next_progress = 0.0
        self._is_storable = True

    def run(self, checkpoints: Checkpoints | None = None) -> Training:
        """Train to the outcome.

        Raises:
            Stopped: It was asked to end; what it had is in its checkpoint.
        """
        setup = self.setup
        setup.observe(Started(steps=setup.total_steps, left_alone=left_alone_by(setup.rule)))
        memory = PeakMemory(setup.clock.device)
        self.resume(checkpoints)
        state, between = self.state, setup.steps_between_evaluations
        last_save = time.monotonic()
        self._card.start()
        while state.taken < setup.total_steps and self.diverged is None:
            if self.stop.asked:
                self._save(checkpoints, memory)
                raise Stopped
            since_evaluation = state.taken % between
            # where a run was stopped within a block, the rest of it: blocks begin where they would have begun
            rest_of_block = BLOCK - since_evaluation % BLOCK
            self.block(min(rest_of_block, between - since_evaluation, setup.total_steps - state.taken))
            if self.diverged is None and (state.taken % between == 0 or state.taken == setup.total_steps):
                with memory.aside():
                    self._evaluate_curve()
            if checkpoints and self.diverged is None and time.monotonic() >= last_save + checkpoints.every_seconds:
                with memory.aside():
                    self._save(checkpoints, memory)
                last_save = time.monotonic()
        peaks, phases = self._peaks(memory), setup.clock.phases
        self._card.finish()
        test = self._test_once()
        precision, cost, left_alone = precision_of(setup), self._cost(peaks, phases), left_alone_by(setup.rule)
        exact = self._exact_cost()  # takes steps: all else that looks at the rule has looked
        cost = msgspec.structs.replace(
            cost,
            flops_per_step=exact.flops_per_step,
            operator_calls_per_step=exact.operator_calls_per_step,
            not_counted=exact.not_counted,
        )
        return Training(
            outcome=self.undefined or outcome_of(setup, state, self.diverged),
            task=setup.facts,
            precision=precision,
            scores=scores_of(setup, state, self.diverged, test),
            cost=cost,
            curve=tuple(state.curve),
            continued=state.continued,
            left_alone=left_alone,
        )

    def resume(self, checkpoints: Checkpoints | None) -> None:
        """Take up the run's checkpoint, where there is one."""
        saved = checkpoints.load(self._remark) if checkpoints else None
        if saved is not None:
            self._load_state_dict(saved)
            self.state.continued += 1

    def block(self, steps: int) -> None:
        """Take some steps on the clock, then look at their losses."""
        clock, state = self.setup.clock, self.state
        before, first = clock.training, state.taken
        with clock.train():
            for _ in range(steps):
                if not self._step(first) or self.stop.asked:
                    break
        if state.taken > first:
            state.block_ms.append(1000.0 * (clock.training - before) / (state.taken - first))
        if self._unseen:
            self._look(first)

    def validate(self) -> tuple[float, float]:
        """Mean loss and metric over the validation split, off the clock."""
        return self._judge(self.setup.splits.validation)

    def test(self) -> tuple[float, float]:
        """The same over the test split: once, at the end."""
        return self._judge(self.setup.splits.test)

    def _step(self, first: int) -> bool:
        """Take a step; False where the run has diverged, in it or before it.

        Args:
            first: Steps that were taken before the block.
        """
        setup, state = self.setup, self.state
        self._set_rate()
        with setup.clock.ledger.phase("data"):
            batch = setup.batches.draw()
        try:
            result = setup.rule.step(batch)
        except Exception as error:
            if self._diverged_before(error, first):
                return False
            if is_the_rules_fault(error, setup.rule):
                raise RuleFailedError(state.taken + 1, last_line(error)) from error
            raise
        self.last = result
        self._unseen.append((result, batch.targets))
        state.taken += 1
        state.skipped_in_a_row = 0 if result.applied else state.skipped_in_a_row + 1
        if state.skipped_in_a_row == GIVE_UP:
            self.diverged = Diverged(step=state.taken - GIVE_UP + 1, reason=Reason.LOSS_SCALE)
            return False
        return True

    def _set_rate(self) -> None:
        """Let the rule follow the schedule."""
        if self._schedulable is None:
            return
        state = self.state
        factor = learning_rate_factor(self.setup.spec.optimizer.schedule, state.taken, self.setup.total_steps)
        if factor != state.rate_factor:
            self._schedulable.scale_learning_rate(factor)
            state.rate_factor = factor

    def _diverged_before(self, error: Exception, first: int) -> bool:
        """Whether a step that raised did so on numbers that were not finite any more: a divergence, no crash."""
        if isinstance(error, ApoBenchError | MemoryError | torch.OutOfMemoryError):
            return False
        if self._unseen:
            self._look(first)
        step = self.state.taken + 1
        if self.diverged is None and not all(bool(p.isfinite().all()) for p in self.setup.problem.model.parameters()):
            self.diverged = Diverged(step=step, reason=Reason.PARAMETER)
        if self.diverged is None:
            return False
        self._say(f"step {step} raised {type(error).__name__}: {error}")
        return True

    def _look(self, first: int) -> None:
        """Find the first loss of the block that is not finite; a skipped step's loss says nothing.

        Raises:
            UsageError: It is not finite because no example of the batch counts: a mean over nothing is no number. That
                is no divergence, and no step either, though momentum and weight decay would move the parameters. It is
                not looked for before the step, where it would synchronize the device each time.
        """
        state = self.state
        losses = torch.stack([result.loss for result, _ in self._unseen]).tolist()
        for step, (loss, (result, targets)) in enumerate(zip(losses, self._unseen, strict=True), start=first + 1):
            if self.diverged is None and not math.isfinite(loss) and counts_nothing(self.setup.problem, targets):
                raise UsageError(
                    f"step {step}: no example of the training batch has a label, and a mean over none is no loss; "
                    "leave examples without a label out of the training split, or make batches larger"
                )
            if not result.applied:
                state.skipped += 1
            elif math.isfinite(loss):
                state.since_evaluation.append(loss)
            elif self.diverged is None or step < self.diverged.step:
                self.diverged = Diverged(step=step, reason=Reason.TRAINING_LOSS)
                break
        self._unseen.clear()
        now = time.monotonic()
        if now >= self._next_progress:
            self._next_progress = now + _PROGRESS_SECONDS
            self.setup.observe(Progress(step=state.taken, train_loss=state.train_loss))

    def _judge(self, examples: Examples) -> tuple[float, float]:
        with self.setup.clock.evaluate(), self.setup.rule.evaluating():
            return evaluate(self.setup.problem, self.setup.task, examples)

    def _evaluate_curve(self) -> None:
        setup, state = self.setup, self.state
        self._card.sample()  # before the evaluation: the clocks are still those of training
        loss, metric = self.validate()
        if not math.isfinite(loss):
            self.diverged = Diverged(step=state.taken, reason=Reason.VALIDATION)
            return
        if not math.isfinite(metric):  # undefined for these outputs, and perhaps not for later ones
            self._say(
                f"step {state.taken}: metric {setup.task.metric.name!r} is {metric} on the validation split, though "
                f"the loss there is finite ({loss:.4g}); the curve has no point here"
            )
            return
        train_loss = state.train_loss
        state.since_evaluation.clear()
        if train_loss is None:
            return  # every step since the last evaluation was skipped
        read = setup.rule.readings() if isinstance(setup.rule, Observable) else {}
        point = CurvePoint(
            step=state.taken,
            epoch=state.taken / setup.facts.steps_per_epoch,
            seconds=setup.clock.training,
            train_loss=train_loss,
            validation_loss=loss,
            validation=metric,
            learning_rate_factor=state.rate_factor,
            readings={name: value for name, value in read.items() if math.isfinite(value)},
        )
        state.curve.append(point)
        setup.observe(Evaluated(point=point))

    def _test_once(self) -> float | None:
        """The reported score; `None` for a run that has diverged, here at the latest, and where it is undefined."""
        if self.diverged is not None:
            return None
        loss, metric = self.test()
        if math.isfinite(metric):
            return metric
        step = self.state.taken
        if math.isfinite(loss):
            name = self.setup.task.metric.name
            self.undefined = Undefined(step=step, metric=name, value=str(metric), loss=loss)
        else:
            self.diverged = Diverged(step=step, reason=Reason.TEST)
        return None

    def _exact_cost(self) -> ExactCost:
        """What a step costs, counted; not for a diverged run, and where it cannot be counted the reason instead."""
        if self.diverged is not None:
            return ExactCost.unknown(None)
        setup = self.setup
        try:
            exact = exact_cost(
                setup.rule, setup.problem, setup.batches.draw, consecutive_after(self.state.taken)
            ) or ExactCost.unknown("loss scaling kept skipping the steps")
        except Exception as error:  # noqa: BLE001 - the run is done: a plugin that fails here loses only its count
            exact = ExactCost.unknown(last_line(error))
        if exact.not_counted is not None:
            self._say(f"the cost of a step was not counted: {exact.not_counted}")
        return exact

    def _cost(self, peaks: tuple[int | None, int | None], phases: dict[str, float]) -> Cost:
        """What the run used, without what is counted."""
        setup, state, card = self.setup, self.state, self._card
        return Cost(
            steps=state.taken,
            skipped_steps=state.skipped,
            train_seconds=setup.clock.training,
            eval_seconds=setup.clock.evaluating,
            data_seconds=setup.clock.data,
            phases=phases,
            step_ms=median(state.block_ms) if state.block_ms else None,
            peak_memory_bytes=peaks[0],
            state_bytes=sum(state_bytes(setup.rule).values()),
            bytes_by_purpose=bytes_by_purpose(setup.rule, setup.problem.model),
            baseline_memory_bytes=setup.baseline,
            peak_reserved_bytes=peaks[1],
            process_memory_bytes=card.process_memory_bytes,
            energy_joules=None if state.continued else card.energy_joules,  # before the interruption: unknown
            clock_mhz=card.clock_mhz,
            throttle_reasons=card.throttle_reasons,
            foreign_processes=card.foreign_processes,
        )

    def _peaks(self, memory: PeakMemory) -> tuple[int | None, int | None]:
        """Peak and reserved memory, those before a checkpoint included; `None` where they are not known."""
        peak, reserved, state = memory.bytes(), memory.reserved(), self.state
        return (
            None if peak is None else max(peak, state.peak_bytes),
            None if reserved is None else max(reserved, state.reserved_bytes),
        )

    def _save(self, checkpoints: Checkpoints | None, memory: PeakMemory) -> None:
        if checkpoints is None or not self._is_storable:
            return
        peak, reserved = self._peaks(memory)
        self.state.peak_bytes, self.state.reserved_bytes = peak or 0, reserved or 0
        try:
            checkpoints.save(self._state_dict())
        except OSError as error:  # a full disk costs the checkpoint, not the run
            self._say(f"no checkpoint at step {self.state.taken}: {error}")
        except Exception as error:  # noqa: BLE001 - a plugin's state costs the checkpoints, not the run
            self._is_storable = False
            words = str(error) if isinstance(error, NotStorableError) else last_line(error)
            name = self.setup.spec.optimizer.name
            self._remark(f"not checkpointed, because the state of {name} cannot be stored ({words[:_SHOWN]})")

    def _state_dict(self) -> dict[str, Any]:
        """Everything needed to continue as if nothing had happened."""
        setup = self.setup
        return {
            "model": saved_state(setup.problem.model),
            "problem": setup.problem.state_dict(),
            "rule": setup.rule.state_dict(),
            "batches": setup.batches.state_dict(),
            "additional": setup.additional.state_dict(),
            "random": setup.problem.random_state(),
            "clock": setup.clock.state_dict(),
            "training": self.state.to_builtins(),
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        setup = self.setup
        load_saved_state(setup.problem.model, state["model"])
        setup.problem.load_state_dict(state["problem"])
        setup.rule.load_state_dict(state["rule"])
        setup.batches.load_state_dict(state["batches"])
        setup.additional.load_state_dict(state["additional"])
        restore_random_state(state["random"], setup.clock.device)
        setup.clock.load_state_dict(state["clock"])
        self.state = TrainingState.from_builtins(state["training"])

    def _remark(self, line: str) -> None:
        """Tell the user, and the run's own log."""
        self.setup.observe(Remarked(message=line))
        self._say(line)

    def _say(self, line: str) -> None:
        """Print into the run's own log, which may be on a full disk."""
        with contextlib.suppress(OSError):
            note(line)


def _schedulable(setup: Setup) -> Schedulable | None:
    """The rule where it has a schedule to follow.

    Raises:
        UsageError: It cannot follow one.
    """
    if setup.spec.optimizer.schedule == Constant():
        return None
    if not isinstance(setup.rule, Schedulable):
        raise UsageError(f"optimizer {setup.spec.optimizer.name!r} cannot follow a schedule; declare it constant")
    return setup.rule
