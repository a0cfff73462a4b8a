"""What later runs of a suite are held to: quality and cost of every cell, in a file small enough to be committed."""

import msgspec

from apo_bench.errors import UsageError
from apo_bench.records.cell import Cell
from apo_bench.records.facts import Direction
from apo_bench.records.spec import Budget, Device, Frozen, OptimizerSpec, Precision, Scale

SCHEMA = 1
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
    diverged_step: int | None = None
    flops_per_step: float | None = None
    operator_calls_per_step: float | None = None
    not_counted: str | None = None
    state_bytes: int | None = None
    state_by_purpose: dict[str, int] = {}  # noqa: RUF012 - msgspec copies it
    emulated: bool = False


class StepRatio(Frozen, frozen=True):
    """What a step costs beside the reference's, by a probe.

    Attributes:
        logarithms: Of the ratio, one a process.
        device_name: The card, or the processor.
        threads: CPU threads.
    """

    logarithms: tuple[float, ...]
    device_name: str
    threads: int

    def __post_init__(self) -> None:
        """Refuse what no probe measures.

        Raises:
            ValueError: A ratio beyond anything that a clock can tell.
        """
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

    task: str
    optimizer: OptimizerSpec
    precision: Precision
    epochs: float
    device: Device
    compile: bool
    metric: str
    direction: Direction
    seeds: dict[int, SeedSnapshot]
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
    """

    schema: int
    suite: str
    scale: Scale
    apo_bench: str
    torch: tuple[str, ...]
    cells: tuple[CellSnapshot, ...]


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """As JSON, a value a line, so that two versions are easily compared."""
    return msgspec.json.format(msgspec.json.encode(snapshot), indent=1) + b"\n"


def decode_snapshot(data: bytes, name: str) -> Snapshot:
    """Read a baseline back strictly.

    Args:
        data: Contents of the file.
        name: Of the file, for the message.

    Raises:
        UsageError: It is not a baseline, damaged, or of a schema that this version does not know.
    """
    try:
        schema = msgspec.json.decode(data, type=_Header).schema
        if schema != SCHEMA:
            raise UsageError(f"{name} has schema {schema}, this version reads {SCHEMA}; save it again with --save")
        snapshot = msgspec.json.decode(data, type=Snapshot)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{name} is no baseline ({error}); save one with --save") from error
    if not snapshot.cells:
        raise UsageError(f"{name} holds no cell, and anything would pass; save it again with --save")
    return snapshot


class _Header(msgspec.Struct):
    schema: int
