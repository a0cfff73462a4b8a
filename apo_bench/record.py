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

SCHEMA = 2
READABLE = (1, 2)
"""Schemas this version reads: 2 only added fields, whose defaults say that an older record does not know them."""


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


class NonFinite(Frozen, frozen=True):
    """The first tensor of a diverged run that held a number that is not finite.

    Attributes:
        step: Step in which it appeared, counted from 1; after evaluation, steps taken before it.
        tensor: Which: ``activation conv1``, ``loss``, ``gradient fc.weight``, ``state meta 3``, ``parameter
            fc.weight`` or ``buffer norm.running_var``; activations by the module that made them, gradients of other
            streams than the base with its name, as in ``gradient fc.weight (meta)``.
        dtype: Its number format, for example ``float16``.
    """

    step: int
    tensor: str
    dtype: str


class Diverged(Frozen, frozen=True, tag="diverged"):
    """A loss stopped being finite, or loss scaling gave up, at ``step``.

    Attributes:
        step: Step whose loss was the first that was not finite, or the first that was skipped, counted from 1.
        reason: What stopped being finite.
        first: Where it began; `None` where a second look did not find it.
    """

    step: int
    reason: str
    first: NonFinite | None = None

    @property
    def message(self) -> str:
        """What stopped being finite, and where that began, in a line."""
        if self.first is None:
            return self.reason
        return f"{self.reason}: first `{self.first.tensor}` ({self.first.dtype}) at step {self.first.step}"


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
    """What the run used. `None`, or an empty mapping, where it was not measured.

    Attributes:
        steps: Optimizer steps taken, skipped ones included.
        skipped_steps: Steps skipped because a scaled gradient overflowed.
        train_seconds: Training clock: what the update rule took. In records of schema 1 drawing the batches is in it.
        eval_seconds: Time spent evaluating.
        data_seconds: Time spent drawing and augmenting the batches of the steps.
        phases: Seconds of the training clock by phase (`apo_bench.measure.ledger`).
        step_ms: Median over blocks of steps of the mean time of a step, in milliseconds.
        peak_memory_bytes: Of training, evaluations and checkpoints aside: the allocator's peak on CUDA, the peak
            resident set of the run's process on a CPU.
        baseline_memory_bytes: On a CPU, the resident set before data and network were made: the interpreter and torch.
        peak_reserved_bytes: On CUDA, the most that the allocator had reserved.
        process_memory_bytes: On CUDA, what the driver says the process holds, its context included.
        state_bytes: Bytes held by the optimizer beside parameters and gradients.
        bytes_by_purpose: The same by purpose, with ``parameters``, ``gradients`` and ``buffers``.
        flops_per_step: Floating-point operations of a step, a mean over a whole cycle of the optimizer's intervals.
        operator_calls_per_step: Calls of torch operators of a step, likewise.
        energy_joules: Energy that the card used from the first step to the last evaluation.
        clock_mhz: Lowest and highest clock of the card's multiprocessors, as sampled at every evaluation.
        throttle_reasons: Reasons that the driver gave for lowered clocks at any of these moments.
        foreign_processes: The most other processes seen on the card at any of them.
    """

    steps: int
    skipped_steps: int
    train_seconds: float
    eval_seconds: float
    step_ms: float | None
    peak_memory_bytes: int | None
    state_bytes: int | None
    data_seconds: float | None = None
    phases: dict[str, float] = {}  # noqa: RUF012 - msgspec copies it
    baseline_memory_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    process_memory_bytes: int | None = None
    bytes_by_purpose: dict[str, int] = {}  # noqa: RUF012
    flops_per_step: float | None = None
    operator_calls_per_step: float | None = None
    energy_joules: float | None = None
    clock_mhz: tuple[int, int] | None = None
    throttle_reasons: tuple[str, ...] = ()
    foreign_processes: int | None = None


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
    """Where a run was made.

    Attributes:
        apo_bench: Version of this package.
        git_sha: Revision of the checkout that it lies in, else the one it was built from.
        dirty: Whether that tree was modified.
        python: Version.
        torch: Version.
        platform: Operating system and processor architecture.
        device_name: The card, or the processor.
        cpu_count: Logical processors of the machine.
        threads: CPU threads of torch.
        deterministic: Whether torch was told to use deterministic algorithms.
        cuda: Version of CUDA that torch was built for.
        cudnn: Version.
        driver: Version of the card's driver.
        allocator: torch's allocator on CUDA.
        flags: Other switches of torch that change numbers or speed, by name.
        variables: Environment variables that change numbers or speed, by name.
        packages: Versions of other packages that a run may compute with.
        co_scheduled: How many other runs the same command could have in flight meanwhile.
    """

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
    driver: str | None = None
    allocator: str | None = None
    flags: dict[str, str] = {}  # noqa: RUF012
    variables: dict[str, str] = {}  # noqa: RUF012
    packages: dict[str, str] = {}  # noqa: RUF012
    co_scheduled: int | None = None


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
    if header.schema not in READABLE:
        raise ValueError(f"record schema {header.schema}, this version reads {' and '.join(map(str, READABLE))}")
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
