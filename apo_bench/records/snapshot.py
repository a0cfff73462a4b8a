"""What later runs of a suite are held to: quality and cost of every cell, in a file small enough to be committed."""

import hashlib

import msgspec

from apo_bench.errors import UsageError
from apo_bench.records.cell import Cell
from apo_bench.records.digest import strictly
from apo_bench.records.facts import Direction
from apo_bench.records.ranges import Amount, Count, Epochs, Message, Name, Seed
from apo_bench.records.spec import Budget, Device, Frozen, OptimizerSpec, Precision, Scale

SCHEMA = 2
READABLE = (1, 2)
"""Schemas that this version reads. From 2 on a baseline bears a digest."""
_SEALED_SINCE = 2
_LARGEST = 50.0


class SeedSnapshot(Frozen, frozen=True, omit_defaults=True):
    """What one run came to. `None` where it is not known.

    Attributes:
        validation: The metric on the validation set after the last step.
        diverged_step: Where it diverged.
        flops_per_step: Floating-point operations of a step, the optimizer's included.
        operator_calls_per_step: Calls of torch operators of a step.
        not_counted: Why one of these two, or both, are not known.
        state_bytes: Bytes that the optimizer keeps between steps.
        state_by_purpose: The same by purpose.
        emulated: Whether 16-bit arithmetic was emulated; costs are then not those of 16 bit, and left out.
    """

    validation: float | None = None
    diverged_step: Count | None = None
    flops_per_step: Amount | None = None
    operator_calls_per_step: Amount | None = None
    not_counted: Message | None = None
    state_bytes: Count | None = None
    state_by_purpose: dict[Name, Count] = {}  # noqa: RUF012 - msgspec copies it
    emulated: bool = False


class StepRatio(Frozen, frozen=True):
    """What a step costs beside the reference's, by a probe.

    Attributes:
        logarithms: Of the ratio, one a process.
        device_name: The card, or the processor.
        threads: CPU threads.
    """

    logarithms: tuple[float, ...]
    device_name: Name
    threads: Count

    def __post_init__(self) -> None:
        """Refuse what no probe measures.

        Raises:
            ValueError: There is no ratio, or one beyond anything that a clock can tell.
        """
        if not self.logarithms:
            raise ValueError("a ratio is measured in one process or more")
        if any(abs(logarithm) > _LARGEST for logarithm in self.logarithms):
            raise ValueError(f"logarithms of ratios are between ±{_LARGEST}")


class CellSnapshot(Frozen, frozen=True):
    """A task, a competitor with its setting, a precision and a budget; its runs differ in the seed.

    Attributes:
        task: Registered name.
        optimizer: Name, hyperparameters and schedule.
        precision: Number formats.
        epochs: Budget.
        device: Kind of device.
        compile: Whether the network ran through `torch.compile`.
        metric: Of the task.
        direction: Which way the metric is better.
        seeds: Its runs by seed.
        step: What a step costs; `None` without a probe that can be trusted.
    """

    task: Name
    optimizer: OptimizerSpec
    precision: Precision
    epochs: Epochs
    device: Device
    compile: bool
    metric: Name
    direction: Direction
    seeds: dict[Seed, SeedSnapshot]
    step: StepRatio | None = None

    def __post_init__(self) -> None:
        """Refuse a cell that holds nothing to compare with.

        Raises:
            ValueError: It has no run.
        """
        if not self.seeds:
            raise ValueError(f"cell {self.cell.title} has no run")

    @property
    def cell(self) -> Cell:
        """The cell."""
        return Cell(
            task=self.task,
            optimizer=self.optimizer,
            precision=self.precision,
            budget=Budget(epochs=self.epochs),
            device=self.device,
            compile=self.compile,
        )


class Snapshot(Frozen, frozen=True):
    """A suite as it stood.

    Attributes:
        schema: Version of this form.
        suite: Name.
        scale: Scale.
        apo_bench: Version of this package.
        torch: Versions of torch.
        cells: In the order of their titles.
        digest: SHA-256 of the other fields in their canonical form, which layout and line ends do not change: the file
            lies under version control. `None` before it is written, and in a baseline of schema 1.
    """

    schema: int
    suite: Name
    scale: Scale
    apo_bench: Message
    torch: tuple[Name, ...]
    cells: tuple[CellSnapshot, ...]
    digest: Name | None = None


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """As JSON, a value a line, so that two versions are easily compared; the digest comes last."""
    whole = msgspec.structs.replace(snapshot, schema=SCHEMA)
    sealed = msgspec.structs.replace(whole, digest=_digest(whole))
    return msgspec.json.format(msgspec.json.encode(sealed), indent=1) + b"\n"


def _digest(snapshot: Snapshot) -> str:
    """Of what a reader makes of the file: there an amount of ``1`` is ``1.0``."""
    content = msgspec.json.encode(msgspec.structs.replace(snapshot, digest=None))
    read = msgspec.to_builtins(msgspec.json.decode(content, type=Snapshot), str_keys=True)
    return hashlib.sha256(msgspec.json.encode(read, order="deterministic")).hexdigest()


def decode_snapshot(data: bytes, name: str) -> Snapshot:
    """Read a baseline back strictly.

    Args:
        data: Contents of the file.
        name: Of the file, for the message.

    Raises:
        UsageError: It is not a baseline, damaged or changed by hand, or of a schema that this version does not know.
    """
    try:
        with strictly():
            schema = msgspec.json.decode(data, type=_Header).schema
            snapshot = msgspec.json.decode(data, type=Snapshot) if schema in READABLE else None
    except ValueError as error:
        raise UsageError(f"{name} is no baseline ({error}); save one with --save") from error
    if snapshot is None:
        known = " and ".join(map(str, READABLE))
        raise UsageError(f"{name} has schema {schema}, this version reads {known}; save it again with --save")
    if snapshot.digest is None and schema >= _SEALED_SINCE:
        raise UsageError(f"{name} has lost its digest: changed by hand, or damaged; save it again with --save")
    if snapshot.digest is not None and snapshot.digest != _digest(snapshot):
        raise UsageError(f"{name} is not as it was saved: changed by hand, or damaged; save it again with --save")
    if not snapshot.cells:
        raise UsageError(f"{name} holds no cell, and anything would pass; save it again with --save")
    return msgspec.structs.replace(snapshot, schema=SCHEMA, digest=None)


class _Header(msgspec.Struct):
    schema: int
