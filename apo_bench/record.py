"""The record of a run: the product of the whole harness, written once and read strictly.

A record holds what was asked (`spec`), what came out (`outcome`, `scores`, `curve`), what it cost (`cost`), on
what (`environment`), with which code and data (`fingerprint`). Numbers in it are finite: a diverged curve
ends at its last finite point.
"""

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec

from apo_bench.spec import Frozen, RunSpec, Scale

SCHEMA = 1


class Direction(StrEnum):
    """Whether more or less of a metric is better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


class PrecisionBackend(StrEnum):
    """Whether the device computes in the stated format or its results are emulated."""

    NATIVE = "native"
    EMULATED = "emulated"


class Exhausted(Frozen, frozen=True, tag="exhausted"):
    """The run used its whole budget (and no target was declared or reached)."""


class Reached(Frozen, frozen=True, tag="reached"):
    """The run used its whole budget and reached the validation target on the way, first at ``step``."""

    step: int
    target: float


class Diverged(Frozen, frozen=True, tag="diverged"):
    """A loss stopped being finite, or loss scaling gave up, at ``step``."""

    step: int
    reason: str


class OutOfMemory(Frozen, frozen=True, tag="out-of-memory"):
    """The device or the host had no memory left."""

    message: str


class Crashed(Frozen, frozen=True, tag="crashed"):
    """The run's process died or raised; ``message`` is its last line."""

    message: str


class Interrupted(Frozen, frozen=True, tag="interrupted"):
    """The user stopped the run."""


Outcome = Exhausted | Reached | Diverged | OutOfMemory | Crashed | Interrupted
RESULTS = (Exhausted, Reached, Diverged)
"""Outcomes that say something about the competitor; the others say something about the machine."""


class CurvePoint(Frozen, frozen=True):
    """One evaluation during training.

    Attributes:
        step: Optimizer steps taken.
        epoch: The same in passes over the training set.
        seconds: Training clock: evaluation, data preparation and warm-up excluded.
        train_loss: Mean over the steps since the previous point.
        validation_loss: Mean over the validation set.
        validation: The task's metric on the validation set.
        learning_rate_factor: The schedule's factor at this step.
        readings: What the update rule says of itself: a learned rate, a count of meta-updates.
    """

    step: int
    epoch: float
    seconds: float
    train_loss: float
    validation_loss: float
    validation: float
    learning_rate_factor: float
    readings: dict[str, float] = {}  # noqa: RUF012 - msgspec copies it


class Scores(Frozen, frozen=True):
    """What the run achieved; `None` where a diverged run has no such number.

    Attributes:
        test: The reported score: the metric on the test set, evaluated once, after the last step.
        validation: The metric on the validation set after the last step.
        best_validation: The best of the curve, never the reported score.
    """

    test: float | None = None
    validation: float | None = None
    best_validation: float | None = None


class Cost(Frozen, frozen=True):
    """What the run used.

    Attributes:
        steps: Optimizer steps taken, skipped ones included.
        skipped_steps: Steps skipped because a scaled gradient overflowed.
        train_seconds: Training clock.
        eval_seconds: Time spent evaluating.
        step_ms: Median time of a step, in milliseconds, after the warm-up steps.
        peak_memory_bytes: Allocator peak on CUDA; on a CPU the peak resident set of the run's process, counted
            from the start of training.
        state_bytes: Bytes held by the optimizer beside parameters and gradients.
    """

    steps: int
    skipped_steps: int
    train_seconds: float
    eval_seconds: float
    step_ms: float | None
    peak_memory_bytes: int | None
    state_bytes: int | None


class TaskFacts(Frozen, frozen=True):
    """What the task was, so that a record can be read without the code that made it."""

    dataset: str
    model: str
    parameters: int
    train_examples: int
    validation_examples: int
    test_examples: int
    batch_size: int
    steps_per_epoch: int
    metric: str
    direction: Direction
    metric_signature: str | None = None


class PrecisionFacts(Frozen, frozen=True):
    """How the precision was realized; ``kept_fp32`` lists what stays in single precision."""

    backend: PrecisionBackend
    kept_fp32: tuple[str, ...]


class Fingerprint(Frozen, frozen=True):
    """Which code and data a run depends on: a finished run is reused only while all of it is unchanged.

    Attributes:
        harness: Hash of the modules of this package that a run of this task executes.
        task: Hash of the task's module and what it imports from its own package.
        optimizer: The same for the optimizer.
        torch: Version of torch.
        data: Digest of the dataset's files.
    """

    harness: str
    task: str
    optimizer: str
    torch: str
    data: str

    def changes(self, other: "Fingerprint") -> tuple[str, ...]:
        """Names of the parts in which ``other`` differs."""
        return tuple(name for name in self.__struct_fields__ if getattr(self, name) != getattr(other, name))


class Environment(Frozen, frozen=True):
    """Where a run was made."""

    apo_bench: str
    git_sha: str | None
    dirty: bool | None
    python: str
    torch: str
    platform: str
    device_name: str
    cpu_count: int
    threads: int
    deterministic: bool
    cuda: str | None = None
    cudnn: int | None = None


class Intent(Frozen, frozen=True):
    """What a run is: its spec, the suite and scale it is run for, the code and data it depends on."""

    spec: RunSpec
    suite: str
    scale: Scale
    fingerprint: Fingerprint


class RunRecord(Frozen, frozen=True):
    """One finished run; ``continued`` counts how often it was taken up from a checkpoint."""

    schema: int
    spec: RunSpec
    suite: str
    scale: Scale
    started_at: str
    finished_at: str
    outcome: Outcome
    fingerprint: Fingerprint
    environment: Environment | None = None
    task: TaskFacts | None = None
    precision: PrecisionFacts | None = None
    scores: Scores = Scores()
    cost: Cost | None = None
    curve: tuple[CurvePoint, ...] = ()
    continued: int = 0

    @property
    def run_id(self) -> str:
        """Identity of the run's spec."""
        return self.spec.run_id

    @property
    def is_result(self) -> bool:
        """Whether the outcome says something about the competitor."""
        return isinstance(self.outcome, RESULTS)


class Started(Frozen, frozen=True, tag="started"):
    """The run's process is ready to train ``steps`` steps."""

    steps: int


class Progress(Frozen, frozen=True, tag="progress"):
    """A sign of life between evaluations."""

    step: int
    train_loss: float | None


class Evaluated(Frozen, frozen=True, tag="evaluated"):
    """A new point of the curve."""

    point: CurvePoint


Event = Started | Progress | Evaluated


def encode(value: Frozen) -> bytes:
    """JSON of a record, an event or an intent.

    Raises:
        ValueError: It holds a number that is not finite: JSON has none, and a reader would take it for missing.
    """
    for number in _floats(msgspec.to_builtins(value)):
        if not math.isfinite(number):
            raise ValueError(f"a {type(value).__name__} holds {number}: not finite, so not writable")
    return msgspec.json.encode(value)


def _floats(value: Any) -> Iterable[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _floats(item)


def decode_record(data: bytes) -> RunRecord:
    """Read a record back strictly.

    Raises:
        ValueError: Damaged, or of a schema this version does not know.
    """
    header = msgspec.json.decode(data, type=_Header)
    if header.schema != SCHEMA:
        raise ValueError(f"record schema {header.schema}, this version reads {SCHEMA}")
    return msgspec.json.decode(data, type=RunRecord)


def decode_event(line: bytes) -> Event:
    """Read one line of an event file.

    Raises:
        ValueError: Damaged.
    """
    event: Event = msgspec.json.decode(line, type=Event)
    return event


def decode_intent(data: bytes) -> Intent:
    """Read back what a run in flight is.

    Raises:
        ValueError: Damaged.
    """
    return msgspec.json.decode(data, type=Intent)


class _Header(msgspec.Struct):
    schema: int
