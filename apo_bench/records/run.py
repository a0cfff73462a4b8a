"""The record of a run: the product of the whole harness, written once and read strictly.

A record holds what was asked (`spec`), what came out (`outcome`, `scores`, `curve`), what it cost (`cost`), on
what (`environment`), with which code and data (`fingerprint`). Numbers in it are finite: a diverged curve
ends at its last finite point.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

import msgspec

from apo_bench.records.digest import NO_DIGEST, seal, strictly, verified
from apo_bench.records.events import CurvePoint
from apo_bench.records.facts import Cost, Environment, PrecisionFacts, Scores, TaskFacts
from apo_bench.records.outcome import RESULTS, Crashed, Diverged, Failed, Outcome, OutOfMemory, Reached
from apo_bench.records.ranges import LONGEST_MESSAGE, Count, Name, moment
from apo_bench.records.spec import Frozen, OptimizerSpec, RunSpec, Scale, identity_of

Shared = TypeVar("Shared")

SCHEMA = 5
READABLE = (1, 2, 3, 4, 5)
"""Schemas that this version reads. 2 added fields, whose defaults say that an older record does not know them. 3 holds
what was asked as one value, the intent, and says in it whether a run is reported or tried a setting. 4 tells an
optimizer that raised from a crash, and names what an optimizer leaves alone. 5 bears a digest, and knows its place
among the records of its run where a clock was once ahead."""
_SEALED_SINCE = 5


class Role(StrEnum):
    """What a run is made for: to be reported, or to try a setting, so that it is in no table."""

    REPORTED = "reported"
    TUNING = "tuning"


class Fingerprint(Frozen, frozen=True):
    """Which code and data a run depends on: a finished run is reused only while all of it is unchanged.

    Attributes:
        harness: Hash of the modules of this package that a run of this task executes.
        task: Hash of the task's module and what it imports from its own package.
        optimizer: The same for the optimizer.
        torch: Version of torch.
        data: Digest of the dataset's files.
    """

    harness: Name
    task: Name
    optimizer: Name
    torch: Name
    data: Name

    def changes(self, other: "Fingerprint") -> tuple[str, ...]:
        """Names of the parts in which ``other`` differs."""
        return tuple(name for name in self.__struct_fields__ if getattr(self, name) != getattr(other, name))


class Intent(Frozen, frozen=True):
    """What a run is.

    Attributes:
        spec: What determines it, apart from code and data.
        suite: The suite that it is made for.
        scale: The suite's scale.
        fingerprint: The code and data that it depends on.
        role: Whether it is reported or tries a setting.
    """

    sealed: ClassVar[bool] = True

    spec: RunSpec
    suite: Name
    scale: Scale
    fingerprint: Fingerprint
    role: Role = Role.REPORTED


class RunRecord(Frozen, frozen=True):
    """One finished run.

    Attributes:
        schema: Version of this form.
        intent: What was asked.
        started_at: Time in UTC.
        finished_at: Time in UTC.
        outcome: How it ended.
        environment: Where it was made.
        task: What the task was.
        precision: How the precision was realized.
        scores: What it achieved.
        cost: What it used.
        curve: Its evaluations, in the order of their steps.
        continued: How often it was taken up.
        left_alone: Weights outside the optimizer's method, by reason.
        follows: A moment after the latest of the run's records that were there before, where that is later than
            ``finished_at``: the clock was ahead then, or is behind now, and yet this record is the newer one.
    """

    sealed: ClassVar[bool] = True

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
    continued: Count = 0
    left_alone: dict[Name, tuple[Name, ...]] = {}  # noqa: RUF012
    follows: str | None = None

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
    """JSON of a record, an event or an intent, with a digest where its kind bears one.

    Raises:
        ValueError: It holds a number that is not finite: JSON has none, and a reader would take it for missing.
    """
    for number in _floats(msgspec.to_builtins(value)):
        if not math.isfinite(number):
            raise ValueError(f"a {type(value).__name__} holds {number}: not finite, so not writable")
    data = msgspec.json.encode(value)
    return seal(data) if value.sealed else data


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
    """Make the record of a run that came to no result; a message that is too long for a record is cut."""
    message = getattr(outcome, "message", "")
    if isinstance(outcome, Crashed | Failed | OutOfMemory) and len(message) > LONGEST_MESSAGE:
        outcome = msgspec.structs.replace(outcome, message=f"{message[: LONGEST_MESSAGE - 1]}…")
    return RunRecord(
        schema=SCHEMA,
        intent=intent,
        started_at=started_at,
        finished_at=now(),
        outcome=outcome,
    )


def readable(record: RunRecord) -> RunRecord:
    """A record, or in place of one that no reader would take that of a crash which says why.

    A plugin may bring a name or a number that no record holds. Whoever wrote it would find the run damaged.
    """
    try:
        decode_record(encode(record))
    except ValueError as error:
        reason = f"the run cannot be recorded: {error}"
        return failed(record.intent, Crashed(message=reason), record.started_at)
    return record


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
    content = verified(data)
    if content is not data and (quickly := _of_this_schema(content)) is not None:
        return quickly
    with strictly():
        schema = checked_schema(content, READABLE)
        if schema >= _SEALED_SINCE and content is data:
            raise ValueError(NO_DIGEST)
        if schema >= _FIRST_WITH_INTENT:
            record = msgspec.json.decode(content, type=RunRecord)
        else:
            record = msgspec.convert(_with_intent(msgspec.json.decode(content)), type=RunRecord)
        _check(record)
        return record if record.schema == SCHEMA else msgspec.structs.replace(record, schema=SCHEMA)


def _of_this_schema(content: bytes) -> RunRecord | None:
    """A record of this schema; `None` where it is of another, or not whole: then the strict reader says what is wrong.

    Many runs are made by one machine, on one task, with one code. What they share is decoded once, and kept once.
    """
    try:
        read = _PARTS.decode(content)
        if read.schema != SCHEMA:
            return None
        asked, parts = read.intent, read.intent.spec
        spec = RunSpec(
            **{name: getattr(parts, name) for name in _SPEC_AS_IT_IS}, optimizer=_shared_optimizer(parts.optimizer)
        )
        vars(spec)["run_id"] = identity_of(spec)
        record = RunRecord(
            **{name: getattr(read, name) for name in _AS_THEY_ARE},
            intent=Intent(
                spec=spec,
                suite=asked.suite,
                scale=asked.scale,
                fingerprint=_shared_fingerprint(asked.fingerprint),
                role=asked.role,
            ),
            environment=_shared_environment(read.environment),
            task=_shared_task(read.task),
        )
        _check(record)
    except Exception:  # noqa: BLE001 - whatever it is, it is said by the strict reader
        return None
    return record


class _SpecParts(RunSpec, frozen=True):
    optimizer: msgspec.Raw  # type: ignore[assignment] # not decoded here


class _IntentParts(Intent, frozen=True):
    spec: _SpecParts
    fingerprint: msgspec.Raw  # type: ignore[assignment] # not decoded here


class _Parts(RunRecord, frozen=True):
    """A record in which what many have in common is not decoded."""

    intent: _IntentParts
    environment: msgspec.Raw = msgspec.Raw(b"null")  # type: ignore[assignment] # not decoded here
    task: msgspec.Raw = msgspec.Raw(b"null")  # type: ignore[assignment] # not decoded here


_PARTS = msgspec.json.Decoder(_Parts)
_AS_THEY_ARE = tuple(name for name in RunRecord.__struct_fields__ if name not in {"intent", "environment", "task"})
_SPEC_AS_IT_IS = tuple(name for name in RunSpec.__struct_fields__ if name != "optimizer")
_SHARED = 4096
"""How many of each are kept in memory; a store has as many as it has machines, tasks and settings."""


def _sharing(kind: type[Shared]) -> Callable[[msgspec.Raw], Shared]:
    """A decoder that gives equal values for equal bytes, once each."""
    decode = functools.lru_cache(_SHARED)(msgspec.json.Decoder(kind).decode)
    return lambda raw: decode(bytes(raw))


_shared_optimizer = _sharing(OptimizerSpec)
_shared_fingerprint = _sharing(Fingerprint)
_shared_environment = _sharing(Environment | None)  # type: ignore[arg-type] # a union is a type here
_shared_task = _sharing(TaskFacts | None)  # type: ignore[arg-type] # a union is a type here


def _with_intent(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record before schema 3, with what was asked as one of them."""
    try:
        intent = {name: fields.pop(name) for name in ("spec", "suite", "scale", "fingerprint")}
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from None
    return fields | {"intent": _with_role(intent)}


def _check(record: RunRecord) -> None:
    """See that the parts of a record fit together.

    Raises:
        ValueError: They do not.
    """
    for time in (record.started_at, record.finished_at, record.follows):
        if time is not None:
            moment(time)
    steps = [point.step for point in record.curve]
    if any(before >= after for before, after in itertools.pairwise(steps)):
        raise ValueError("the steps of its curve do not ascend")
    if record.cost is None:
        return
    taken = record.cost.steps
    if steps and steps[-1] > taken:
        raise ValueError(f"its curve has a point at step {steps[-1]}, and it took {taken} steps")
    if record.cost.skipped_steps > taken:
        raise ValueError(f"it skipped {record.cost.skipped_steps} of {taken} steps")
    match record.outcome:
        case Reached(step=step) if step not in steps:
            raise ValueError(f"it reached its target at step {step}, where its curve has no point")
        case Diverged(step=step) if step > taken + 1:  # a step that raised was not taken
            raise ValueError(f"it diverged at step {step}, and it took {taken} steps")


def decode_intent(data: bytes) -> Intent:
    """Read back what a run in flight is.

    Raises:
        ValueError: Damaged.
    """
    with strictly():
        return msgspec.convert(_with_role(msgspec.json.decode(verified(data))), type=Intent)


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
