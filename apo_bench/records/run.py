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
from apo_bench.records.facts import Cost, Environment, PrecisionFacts, Scores, TaskFacts
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
