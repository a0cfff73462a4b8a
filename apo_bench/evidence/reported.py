"""Numbers that the paper prints, to stand beside our own: never averaged, ranked or compared by an interval."""

import functools
import tomllib
from importlib.resources import files

import msgspec

from apo_bench.records.spec import Frozen, Precision

PRINTED = "P"
"""The one tag that may be shown: printed in the source. Recalled numbers (``R``) are not evidence."""


class Reported(Frozen, frozen=True):
    """One number as printed.

    Attributes:
        task: Registered name.
        optimizer: Registered name.
        precisions: Number formats that it may stand beside.
        value: As printed, in the unit of ``metric``.
        metric: As a task's metric is named.
        tag: How sure the number is; always `PRINTED`.
        source: Where it is printed.
    """

    task: str
    optimizer: str
    precisions: tuple[Precision, ...]
    value: float
    metric: str
    tag: str
    source: str


class _Table(Frozen, frozen=True):
    source: str
    tag: str
    metric: str
    precisions: tuple[Precision, ...]
    values: dict[str, dict[str, float]]


class _File(Frozen, frozen=True):
    tables: tuple[_Table, ...]


def parse(text: str) -> tuple[Reported, ...]:
    """Read the tables of a file, flat.

    Raises:
        ValueError: It is no TOML, a field is missing, unknown or of the wrong type, a number is tagged as anything but
            printed, or two numbers claim one cell.
    """
    entries = [
        Reported(
            task=task,
            optimizer=optimizer,
            precisions=table.precisions,
            value=value,
            metric=table.metric,
            tag=table.tag,
            source=table.source,
        )
        for table in msgspec.convert(tomllib.loads(text), type=_File).tables
        for task, row in table.values.items()
        for optimizer, value in row.items()
    ]
    seen: set[tuple[str, str, Precision]] = set()
    for entry in entries:
        if entry.tag != PRINTED:
            raise ValueError(
                f"{entry.task}, {entry.optimizer}: tagged {entry.tag!r}; only numbers printed in their source "
                f"({PRINTED!r}) are shown"
            )
        for precision in entry.precisions:
            if (entry.task, entry.optimizer, precision) in seen:
                raise ValueError(f"{entry.task}, {entry.optimizer}, {precision}: reported twice")
            seen.add((entry.task, entry.optimizer, precision))
    return tuple(entries)


@functools.cache
def reported() -> tuple[Reported, ...]:
    """All numbers of the shipped file."""
    return parse(files("apo_bench.evidence").joinpath("reported.toml").read_text(encoding="utf-8"))


def reported_value(task: str, optimizer: str, precision: Precision, metric: str | None) -> float | None:
    """What the paper prints for a cell; `None` where it prints nothing, or in another metric than ``metric``.

    Args:
        task: Registered name.
        optimizer: Registered name.
        precision: Number formats.
        metric: The task's metric, `None` where it is not known yet.
    """
    for entry in reported():
        if (entry.task, entry.optimizer) == (task, optimizer) and precision in entry.precisions:
            return entry.value if metric in {None, entry.metric} else None
    return None
