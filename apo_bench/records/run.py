"""The record of a run: the product of the whole harness, written once and read strictly.

A record holds what was asked (`spec`), what came out (`outcome`, `scores`, `curve`), what it cost (`cost`), on
what (`environment`), with which code and data (`fingerprint`). Numbers in it are finite: a diverged curve
ends at its last finite point.
"""

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from apo_bench.records.events import CurvePoint
from apo_bench.records.outcome import RESULTS, Outcome
from apo_bench.records.spec import Frozen, RunSpec, Scale

SCHEMA = 4
READABLE = (1, 2, 3, 4)
"""Schemas that this version reads. 2 added fields, whose defaults say that an older record does not know them. 3 holds
what was asked as one value, the intent, and says in it whether a run is reported or tried a setting. 4 tells an
optimizer that raised from a crash, and names what an optimizer leaves alone."""


class Role(StrEnum):
    """What a run is made for: to be reported, or to try a setting, so that it is in no table."""

    REPORTED = "reported"
    TUNING = "tuning"


class Direction(StrEnum):
    """Whether more or less of a metric is better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


class PrecisionBackend(StrEnum):
    """Whether the device computes in the stated format or its results are emulated."""

    NATIVE = "native"
    EMULATED = "emulated"


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
        phases: Seconds of the training clock by phase (`apo_bench.problem.ledger`).
        step_ms: Median over blocks of steps of the mean time of a step, in milliseconds.
        peak_memory_bytes: Of training, evaluations and checkpoints aside: the allocator's peak on CUDA, the peak
            resident set of the run's process on a CPU.
        baseline_memory_bytes: What of the peak is none of the training's. On a CPU, the resident set before data and
            network were made: the interpreter and torch. On CUDA, what the allocator had given out before the network
            was made: the data.
        peak_reserved_bytes: On CUDA, the most that the allocator had reserved.
        process_memory_bytes: On CUDA, what the driver says the process holds, its context included.
        state_bytes: Bytes held by the optimizer beside parameters and gradients.
        bytes_by_purpose: The same by purpose, with ``parameters``, ``gradients`` and ``buffers``.
        flops_per_step: Floating-point operations of a step, a mean over a whole cycle of the optimizer's intervals.
        operator_calls_per_step: Calls of torch operators of a step, likewise.
        not_counted: Why one of these two, or both, are not known, in one line.
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
    not_counted: str | None = None
    energy_joules: float | None = None
    clock_mhz: tuple[int, int] | None = None
    throttle_reasons: tuple[str, ...] = ()
    foreign_processes: int | None = None


class TaskFacts(Frozen, frozen=True):
    """What the task was, so that a record can be read without the code that made it.

    Attributes:
        dataset: Name.
        model: Name.
        parameters: Trainable or not.
        train_examples: Size of the training set.
        validation_examples: Size of the validation set.
        test_examples: Size of the test set.
        batch_size: Examples a step.
        steps_per_epoch: Steps in a pass over the training set.
        metric: Name, with its unit.
        direction: Whether more of it is better.
        metric_signature: What one must know to compute the same number, where the metric says so.
        target: Validation metric to be reached; `None` where the task has none, and in records before schema 3.
        target_version: Counts the targets that the task has had.
        trivial: Validation metric of the best predictor that does not look at the inputs, where it is known.
    """

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
    target: float | None = None
    target_version: int | None = None
    trivial: float | None = None


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
        threads_from: What said how many: an option, an environment variable, or what bounds the cores.
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
    threads_from: str | None = None


class Intent(Frozen, frozen=True):
    """What a run is.

    Attributes:
        spec: What determines it, apart from code and data.
        suite: The suite that it is made for.
        scale: The suite's scale.
        fingerprint: The code and data that it depends on.
        role: Whether it is reported or tries a setting.
    """

    spec: RunSpec
    suite: str
    scale: Scale
    fingerprint: Fingerprint
    role: Role = Role.REPORTED


class RunRecord(Frozen, frozen=True):
    """One finished run; ``continued`` counts resumptions, ``left_alone`` names weights outside the method by reason."""

    schema: int
    intent: Intent
    started_at: str
    finished_at: str
    outcome: Outcome
    environment: Environment | None = None
    task: TaskFacts | None = None
    precision: PrecisionFacts | None = None
    scores: Scores = Scores()
    cost: Cost | None = None
    curve: tuple[CurvePoint, ...] = ()
    continued: int = 0
    left_alone: dict[str, tuple[str, ...]] = {}  # noqa: RUF012

    @property
    def spec(self) -> RunSpec:
        """What was run."""
        return self.intent.spec

    @property
    def suite(self) -> str:
        """The suite that it was made for."""
        return self.intent.suite

    @property
    def scale(self) -> Scale:
        """The suite's scale."""
        return self.intent.scale

    @property
    def role(self) -> Role:
        """Whether it is reported or tried a setting."""
        return self.intent.role

    @property
    def fingerprint(self) -> Fingerprint:
        """The code and data that it depended on."""
        return self.intent.fingerprint

    @property
    def run_id(self) -> str:
        """Identity of the run's spec."""
        return self.spec.run_id

    def under(self, **changes: Any) -> "RunRecord":
        """The same record with fields of its intent replaced, for example as if it was made for another suite."""
        return msgspec.structs.replace(self, intent=msgspec.structs.replace(self.intent, **changes))

    @property
    def is_result(self) -> bool:
        """Whether the outcome says something about the competitor."""
        return isinstance(self.outcome, RESULTS)


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


def failed(intent: Intent, outcome: Outcome, started_at: str) -> RunRecord:
    """Make the record of a run that came to no result."""
    return RunRecord(
        schema=SCHEMA,
        intent=intent,
        started_at=started_at,
        finished_at=now(),
        outcome=outcome,
    )


def now() -> str:
    """The time in UTC, as records hold it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class NewerSchemaError(ValueError):
    """A file was written by a later version: it is whole, and not for this version to read or to move."""


def decode_record(data: bytes) -> RunRecord:
    """Read a record back strictly; one of an earlier schema becomes what it would be in this one.

    Raises:
        ValueError: Damaged, or of a schema that never was.
        NewerSchemaError: Of a schema that a later version made.
    """
    schema = checked_schema(data, READABLE)
    if schema == SCHEMA:
        return msgspec.json.decode(data, type=RunRecord)
    fields: dict[str, Any] = msgspec.json.decode(data)
    if schema == _FIRST_WITH_INTENT:
        return msgspec.convert(fields | {"schema": SCHEMA}, type=RunRecord)
    try:
        intent = {name: fields.pop(name) for name in ("spec", "suite", "scale", "fingerprint")}
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from None
    return msgspec.convert(fields | {"schema": SCHEMA, "intent": _with_role(intent)}, type=RunRecord)


def decode_intent(data: bytes) -> Intent:
    """Read back what a run in flight is.

    Raises:
        ValueError: Damaged.
    """
    return msgspec.convert(_with_role(msgspec.json.decode(data)), type=Intent)


def checked_schema(data: bytes, readable: Sequence[int]) -> int:
    """The schema of a file.

    Raises:
        ValueError: It has none that can be read.
        NewerSchemaError: It is later than all of ``readable``.
    """
    schema = msgspec.json.decode(data, type=_Header).schema
    if schema in readable:
        return schema
    known = ", ".join(map(str, readable))
    kind = NewerSchemaError if schema > max(readable) else ValueError
    raise kind(f"schema {schema}, this version reads {known}")


def _with_role(intent: Any) -> Any:
    """The intent of a record before schema 3 with its role: every suite tried settings on seed 100, and only there."""
    if not isinstance(intent, dict) or "role" in intent:
        return intent
    run = intent.get("spec")
    tried = isinstance(run, dict) and run.get("seed") == _TUNING_SEED_BEFORE_ROLES
    return intent | {"role": Role.TUNING if tried else Role.REPORTED}


_TUNING_SEED_BEFORE_ROLES = 100
_FIRST_WITH_INTENT = 3


class _Header(msgspec.Struct):
    schema: int
