"""What is read from a record: the one place where a number that tables and pages show is defined."""

from apo_bench.evidence.step_costs import StepCost
from apo_bench.records.facts import Cost, PrecisionBackend
from apo_bench.records.outcome import Reached
from apo_bench.records.run import RunRecord

PERIODIC_PHASES = ("curvature", "inverse", "meta")
"""Phases of the ledger that only some steps have."""
PHASES = ("forward", "backward", "update", *PERIODIC_PHASES)
"""All phases of the training clock that the harness marks."""
MODEL_PURPOSES = ("parameters", "gradients", "buffers")
"""Of the bytes by purpose, those that belong to the model and not to the optimizer."""


def is_emulated(record: RunRecord) -> bool:
    """Whether a run's 16-bit arithmetic was emulated, so that its costs are not those of 16 bit."""
    return record.precision is not None and record.precision.backend is PrecisionBackend.EMULATED


def phase_share(cost: Cost, *phases: str) -> float | None:
    """Share of the training clock that some phases took; `None` without a ledger."""
    if not cost.phases or cost.train_seconds <= 0:
        return None
    return sum(cost.phases.get(phase, 0.0) for phase in phases) / cost.train_seconds


def periodic_share(cost: Cost) -> float | None:
    """Share of the training clock that work at intervals took: curvature, inverses, meta-updates."""
    return phase_share(cost, *PERIODIC_PHASES)


def state_by_purpose(cost: Cost) -> dict[str, int]:
    """Bytes that an optimizer keeps between steps, by what they are for."""
    return {purpose: count for purpose, count in cost.bytes_by_purpose.items() if purpose not in MODEL_PURPOSES}


def steps_to_target(record: RunRecord) -> tuple[int, float | None]:
    """Steps, and seconds of the run's own clock, to the first point of the curve at the validation target.

    The seconds are `None` where the curve has no point there.

    Raises:
        ValueError: The run did not reach it.
    """
    if not isinstance(record.outcome, Reached):
        raise ValueError(f"{record.spec.title} did not reach its target")  # noqa: TRY004 - a matter of its outcome
    step = record.outcome.step
    return step, next((point.seconds for point in record.curve if point.step == step), None)


def composed_seconds(steps: float, cost: StepCost) -> float:
    """Seconds that steps take by the probe."""
    return steps * cost.milliseconds / 1000.0
