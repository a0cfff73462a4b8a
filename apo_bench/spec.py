"""Frozen values that say what is to be run: cheap to import, hashed to a run's identity.

``Suite`` says which competitors meet on which tasks; ``RunSpec`` says everything that determines one run's
result (up to the code and the data, which the record's fingerprint holds). Nothing here imports torch.
"""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from apo_bench.errors import UsageError, did_you_mean
from apo_bench.schedules import Constant, Schedule

Scalar = bool | int | float | str | None

TUNING_SEED = 100
"""Where settings are tried, unless a suite says another seed; nothing is ever reported on it."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


class Scale(StrEnum):
    """How large the tasks of a suite are."""

    SMOKE = "smoke"
    LOCAL = "local"
    PAPER = "paper"


class Precision(StrEnum):
    """The number formats a network is trained in; `apo_bench.training.precision` says how."""

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


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all values that are written to a file and read back strictly."""


class Budget(Frozen, frozen=True):
    """How long a run trains.

    Attributes:
        epochs: Passes over the training set; a fraction is rounded up to whole steps.
    """

    epochs: float

    def steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole run, at least 1."""
        return max(1, -int(-self.epochs * steps_per_epoch // 1))


class OptimizerSpec(Frozen, frozen=True, omit_defaults=True):
    """A competitor by its registered name, with every hyperparameter written out.

    Attributes:
        name: Registered name, for example ``"sgdm"``.
        hyperparameters: All of them, defaults included, so that a changed default is a new run.
        schedule: Factor on the learning rate over the run.
    """

    name: str
    hyperparameters: dict[str, Scalar]
    schedule: Schedule = Constant()


class RunSpec(Frozen, frozen=True, omit_defaults=True):
    """Everything that determines one run, apart from code and data.

    Fields at their defaults stay out of the file and of the identity, so that a field added later leaves the identity
    of old runs alone.
    """

    task: str
    optimizer: OptimizerSpec
    precision: Precision
    seed: int
    budget: Budget
    device: Device
    compile: bool = False

    @property
    def run_id(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the canonical JSON form.

        Canonical is what a reader of the file has: there ``epochs=1`` is ``1.0``.
        """
        read = msgspec.json.decode(msgspec.json.encode(self), type=RunSpec)
        canonical = msgspec.json.encode(read, order="deterministic")
        return hashlib.sha256(canonical).hexdigest()[:16]

    @property
    def title(self) -> str:
        """One readable line, for progress and messages."""
        return f"{self.task} {self.optimizer.name} {self.precision} seed {self.seed}"


class OptimizerEntry(Frozen, frozen=True):
    """A competitor as a suite declares it: only what differs from the optimizer's own defaults.

    Attributes:
        optimizer: Registered name.
        overrides: Hyperparameters that the suite sets for all tasks.
        schedule: Factor on the learning rate over the run.
        grid: Values to try of further hyperparameters; the setting that validates best on the suite's tuning seed, at
            a constant schedule, is the one whose runs are reported.
    """

    optimizer: str
    overrides: dict[str, Scalar] = {}
    schedule: Schedule = Constant()
    grid: dict[str, tuple[Scalar, ...]] = {}

    def __post_init__(self) -> None:
        """Refuse a grid without a choice.

        Raises:
            ValueError: Fewer than two values of a hyperparameter, or one that ``overrides`` sets too.
        """
        for name, values in self.grid.items():
            if len(set(values)) < 2:  # noqa: PLR2004 - a choice is between two
                raise ValueError(f"{self.optimizer}.{name}: a grid needs two values or more, not {values}")
            if name in self.overrides:
                raise ValueError(f"{self.optimizer}.{name} is set to {self.overrides[name]} and has a grid; drop one")


class TaskEntry(Frozen, frozen=True):
    """One task of a suite with the budget that every competitor gets there.

    Attributes:
        task: Registered name.
        epochs: Passes over the training set.
        seeds: Reporting seeds, in the order in which they are run.
        overrides: Hyperparameters by optimizer name that hold on this task only.
        optimizers: Competitors on this task; the suite's where empty.
        precisions: Number formats on this task; the suite's where empty.
    """

    task: str
    epochs: float
    seeds: tuple[int, ...] = (0,)
    overrides: dict[str, dict[str, Scalar]] = {}
    optimizers: tuple[OptimizerEntry, ...] = ()
    precisions: tuple[Precision, ...] = ()


class Suite(Frozen, frozen=True):
    """Which competitors meet on which tasks and in which precisions, at one scale.

    ``tuning_seed`` is where the grids of competitors are tried; no task may report on it.
    """

    name: str
    scale: Scale
    title: str
    tasks: tuple[TaskEntry, ...]
    optimizers: tuple[OptimizerEntry, ...]
    precisions: tuple[Precision, ...]
    tuning_seed: int = TUNING_SEED

    def __post_init__(self) -> None:
        """Refuse to report where settings are chosen.

        Raises:
            UsageError: The tuning seed is among the seeds of a task.
        """
        if any(self.tuning_seed in entry.seeds for entry in self.tasks):
            raise UsageError(
                f"seed {self.tuning_seed} is the tuning seed of suite {self.name!r}, on which settings are chosen and "
                "nothing is reported; leave it out of --seeds"
            )

    def competitors(self, entry: TaskEntry) -> tuple[OptimizerEntry, ...]:
        """Who meets on one of the tasks."""
        return entry.optimizers or self.optimizers

    def formats(self, entry: TaskEntry) -> tuple[Precision, ...]:
        """In which precisions they meet there."""
        return entry.precisions or self.precisions

    def all_competitors(self) -> tuple[OptimizerEntry, ...]:
        """Everyone who meets on any of the tasks."""
        return tuple(declared for entry in self.tasks for declared in self.competitors(entry))


def check_name(name: str, kind: str) -> str:
    """Return ``name`` when it is fit for file names, tables and command lines.

    Raises:
        UsageError: It is empty, long, or has other characters than a-z, 0-9, dot, dash and underscore.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{kind} name {name!r} is not usable; use up to 80 of a-z, 0-9, '.', '-' and '_', letter or digit first"
        )
    return name


def resolve_hyperparameters(
    hyperparameters: type[Any], overrides: Mapping[str, Scalar], *, optimizer: str
) -> dict[str, Scalar]:
    """Write out all hyperparameters of a competitor: its defaults with ``overrides`` on top.

    Numbers take the type of the default they replace (``lr=1`` becomes ``1.0``), so that equal settings have
    equal run identities.

    Args:
        hyperparameters: The competitor's frozen dataclass.
        overrides: Values by field name.
        optimizer: The competitor's name, for the message.

    Raises:
        UsageError: An override names no field, or its value has the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(hyperparameters)}
    for name in overrides:
        if name not in fields:
            raise UsageError(f"optimizer {optimizer!r} has no hyperparameter {name!r}{did_you_mean(name, fields)}")
    resolved: dict[str, Scalar] = {}
    for name, field in fields.items():
        if field.default is dataclasses.MISSING:
            raise UsageError(f"optimizer {optimizer!r}: hyperparameter {name!r} has no default; declare one")
        resolved[name] = _as_type_of(field.default, overrides.get(name, field.default), f"{optimizer}.{name}")
    return resolved


def _as_type_of(default: Scalar, value: Scalar, where: str) -> Scalar:
    if isinstance(default, bool) or default is None or isinstance(default, str):
        fits = default is None or type(value) is type(default)
    elif isinstance(default, float):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        value = float(value) if fits and value is not None else value
    else:
        fits = isinstance(value, int) and not isinstance(value, bool)
    if not fits:
        raise UsageError(f"{where} = {value!r}: expected {type(default).__name__}, like the default {default!r}")
    return value
