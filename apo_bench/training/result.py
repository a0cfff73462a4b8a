"""What a run's training came to, read from where it stands."""

import dataclasses

import msgspec
import torch

from apo_bench.problem.rule import PartlyWide, Selective, UpdateRule
from apo_bench.records.events import CurvePoint
from apo_bench.records.facts import Cost, Direction, PrecisionFacts, Scores, TaskFacts
from apo_bench.records.outcome import Diverged, Exhausted, Outcome, Reached
from apo_bench.training.setup import Setup
from apo_bench.training.state import TrainingState


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
    left_alone: dict[str, tuple[str, ...]]


def left_alone_by(rule: UpdateRule) -> dict[str, tuple[str, ...]]:
    """Weights on which a rule's method does not act, as far as it says so."""
    return dict(rule.left_alone) if isinstance(rule, Selective) else {}


def outcome_of(setup: Setup, state: TrainingState, diverged: Diverged | None) -> Outcome:
    """How a run ended that was not interrupted."""
    if diverged is not None:
        return diverged
    target = setup.task.target
    if target is not None:
        sign = 1.0 if setup.task.metric.direction is Direction.MAXIMIZE else -1.0
        for point in state.curve:
            if sign * point.validation >= sign * target.validation:
                return Reached(step=point.step, target=target.validation)
    return Exhausted()


def scores_of(setup: Setup, state: TrainingState, diverged: Diverged | None, test: float | None) -> Scores:
    """What a run achieved."""
    if not state.curve:
        return Scores(test=test)
    values = [point.validation for point in state.curve]
    best = max(values) if setup.task.metric.direction is Direction.MAXIMIZE else min(values)
    at_end = diverged is None and state.curve[-1].step == state.taken  # where the metric was undefined there is none
    return Scores(test=test, validation=values[-1] if at_end else None, best_validation=best)


def precision_of(setup: Setup) -> PrecisionFacts:
    """What stays in float32 although parameters are stored in 16 bit: the rule's state and computations too."""
    storage = setup.problem.precision.storage_dtype
    if storage is torch.float32:
        return setup.precision
    wide = []
    for purpose, tensors in setup.rule.state_tensors().items():
        sizes = [tensor.itemsize > storage.itemsize for tensor in tensors if tensor.is_floating_point()]
        if any(sizes):
            wide.append(f"{'' if all(sizes) else 'part of '}state: {purpose}")
    computed = setup.rule.computes_in_fp32 if isinstance(setup.rule, PartlyWide) else ()
    kept = (*setup.precision.kept_fp32, *wide, *(f"computed: {what}" for what in computed))
    return msgspec.structs.replace(setup.precision, kept_fp32=kept)
