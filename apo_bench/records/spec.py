"""Frozen values that say what is to be run: cheap to import, hashed to a run's identity.

``Suite`` says which competitors meet on which tasks; ``RunSpec`` says everything that determines one run's
result (up to the code and the data, which the record's fingerprint holds). Nothing here imports torch.
"""

import functools
import hashlib
import math
import re
from enum import StrEnum
from typing import ClassVar

import msgspec

from apo_bench.errors import UsageError
from apo_bench.records.ranges import Epochs, Name, Seed
from apo_bench.records.schedules import FLOAT_NOISE, Constant, Schedule

Scalar = bool | int | float | str | None
_LONGEST_TEXT = 4000
"""Characters of a hyperparameter."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


class Scale(StrEnum):
    """How large the tasks of a suite are."""

    SMOKE = "smoke"
    LOCAL = "local"
    STUDY = "study"
    PAPER = "paper"


class Precision(StrEnum):
    """The number formats a network is trained in; `apo_bench.problem.precision` says how."""

    FP64 = "fp64"
    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"
    FP16 = "fp16"
    PURE_BF16 = "pure-bf16"
    PURE_FP16 = "pure-fp16"


class Device(StrEnum):
    """The kind of device; results of one kind are never taken for those of another."""

    CPU = "cpu"
    CUDA = "cuda"


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """Base of all values that are written to a file and read back strictly.

    None is part of a circle, so the garbage collector need not look at them: a store may hold a million.
    """

    sealed: ClassVar[bool] = False
    """Whether a file of it bears a digest (`apo_bench.records.digest`)."""


class Budget(Frozen, frozen=True):
    """How long a run trains.

    Attributes:
        epochs: Passes over the training set; a fraction of a step is rounded up to a whole one.
    """

    epochs: Epochs

    def steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole run, at least 1.

        >>> Budget(epochs=1.1).steps(390)  # as floating-point numbers, 429.00000000000006
        429
        """
        return max(1, math.ceil(self.epochs * steps_per_epoch * (1.0 - FLOAT_NOISE)))


class OptimizerSpec(Frozen, frozen=True, omit_defaults=True):
    """A competitor by its registered name, with every hyperparameter written out.

    Attributes:
        name: Registered name, for example ``"sgdm"``.
        hyperparameters: All of them, defaults included, so that a changed default is a new run.
        schedule: Factor on the learning rate over the run.
    """

    name: Name
    hyperparameters: dict[Name, Scalar]
    schedule: Schedule = Constant()

    def __post_init__(self) -> None:
        """Refuse a value that would come back from a record as another one, or none: JSON has no infinity and no NaN.

        Raises:
            UsageError: There is one.
        """
        for name, value in self.hyperparameters.items():
            if isinstance(value, str) and len(value) > _LONGEST_TEXT:
                raise UsageError(
                    f"{self.name}.{name} must have {_LONGEST_TEXT} characters at most (got {len(value)}); name a file "
                    "instead"
                )
            if not _comes_back(value):
                fix = "use a finite number" if isinstance(value, float) else "use a number of 64 bits, or text"
                raise UsageError(
                    f"{self.name}.{name} must be a value that a record can hold (got {value!r}, which would come back "
                    f"as another); {fix}"
                )

    def __hash__(self) -> int:
        """Equal values have equal hashes, in whatever order their hyperparameters stand."""
        return hash((self.name, frozenset(self.hyperparameters.items()), self.schedule))


class RunSpec(Frozen, frozen=True, omit_defaults=True, dict=True, gc=True):
    """Everything that determines one run, apart from code and data.

    Fields at their defaults stay out of the file and of the identity, so that a field added later does not change the
    identity of old runs.
    """

    task: Name
    optimizer: OptimizerSpec
    precision: Precision
    seed: Seed
    budget: Budget
    device: Device
    compile: bool = False

    @functools.cached_property
    def run_id(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the canonical JSON form.

        Canonical is what a reader of the file has: there ``epochs=1`` is ``1.0``.
        """
        return identity_of(msgspec.json.decode(msgspec.json.encode(self), type=RunSpec))

    @property
    def title(self) -> str:
        """One readable line, for progress and messages."""
        return f"{self.task} {self.optimizer.name} {self.precision} seed {self.seed}"


def identity_of(read: RunSpec) -> str:
    """The `RunSpec.run_id` of what has been read from a file, without reading it once more."""
    return hashlib.sha256(msgspec.json.encode(read, order="deterministic")).hexdigest()[:16]


def _comes_back(value: Scalar) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return not isinstance(value, str) or value.isascii() or value.encode(errors="ignore").decode() == value


def is_name(name: str) -> bool:
    """Whether a name is fit for file names, tables and command lines."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str, kind: str) -> str:
    """Return ``name`` when it is fit for file names, tables and command lines.

    Raises:
        UsageError: It is empty, long, or has other characters than a-z, 0-9, dot, dash and underscore.
    """
    if not is_name(name):
        raise UsageError(
            f"{kind} name {name!r} is not usable; use up to 80 of a-z, 0-9, '.', '-' and '_', letter or digit first"
        )
    return name
