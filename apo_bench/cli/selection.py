"""From the words of a command line to a suite: restrictions, replacements, and what is wrong with them."""

import argparse
import math
from collections.abc import Collection, Sequence

import msgspec

from apo_bench.errors import UsageError, did_you_mean
from apo_bench.plugins.registry import optimizers, tasks
from apo_bench.records.spec import Precision, Scalar, Scale
from apo_bench.records.suite import OptimizerEntry, Suite, TaskEntry
from apo_bench.suites import suite

EVERYONE = "all"
"""What stands for all registered optimizers."""


def select(options: argparse.Namespace, scale: Scale) -> Suite:
    """Return the suite that the options of ``apo-bench run`` ask for.

    Raises:
        UsageError: An unknown name, a malformed list, or a task outside the suite without a budget.
    """
    chosen = suite(options.suite, scale)
    entries = chosen.tasks
    if options.tasks:
        wanted = words(options.tasks)
        outside = [name for name in wanted if name not in {entry.task for entry in entries}]
        entries = (
            *(entry for name in wanted for entry in entries if entry.task == name),
            *(_outside(name, options) for name in outside),
        )
    if options.epochs is not None:
        if not (math.isfinite(options.epochs) and options.epochs > 0):
            raise UsageError(f"--epochs {options.epochs:g} is not possible; give a number above 0")
        entries = tuple(msgspec.structs.replace(entry, epochs=options.epochs) for entry in entries)
    if options.seeds:
        seeds = parse_seeds(options.seeds)
        entries = tuple(msgspec.structs.replace(entry, seeds=seeds) for entry in entries)
    entries = tuple(  # from here on each task has competitors and precisions of its own
        msgspec.structs.replace(entry, optimizers=chosen.competitors(entry), precisions=chosen.formats(entry))
        for entry in entries
    )
    if options.optimizers:
        names = optimizers().names()
        everyone = options.optimizers == EVERYONE and EVERYONE not in names
        asked = names if everyone else [known(name, names, "optimizer") for name in words(options.optimizers)]
        entries = tuple(
            msgspec.structs.replace(entry, optimizers=_restricted(entry.optimizers, asked)) for entry in entries
        )
    entries = _set(options.set or [], entries)
    if options.precisions:
        formats = [str(precision) for precision in Precision]
        precisions = tuple(Precision(known(name, formats, "precision")) for name in words(options.precisions))
        entries = tuple(msgspec.structs.replace(entry, precisions=precisions) for entry in entries)
    return msgspec.structs.replace(chosen, tasks=entries)


def _restricted(declared: Sequence[OptimizerEntry], asked: Sequence[str]) -> tuple[OptimizerEntry, ...]:
    """The declared settings of each optimizer that is asked for; its defaults where none is declared."""
    found: list[OptimizerEntry] = []
    for name in asked:
        found += [entry for entry in declared if entry.optimizer == name] or [OptimizerEntry(optimizer=name)]
    return tuple(found)


def _set(settings: Sequence[str], entries: tuple[TaskEntry, ...]) -> tuple[TaskEntry, ...]:
    """Apply ``optimizer.hyperparameter=value`` over whatever the suite declares, grids included, for all tasks."""
    competing = list(dict.fromkeys(declared.optimizer for entry in entries for declared in entry.optimizers))
    wanted: dict[str, dict[str, Scalar]] = {}
    for setting in settings:
        name, dot, assignment = setting.partition(".")
        field, equals, value = assignment.partition("=")
        if not (dot and equals and field and value):
            raise UsageError(f"--set {setting!r} is no setting; write for example sgdm.lr=0.1")
        known(name, competing, "optimizer in --set")
        wanted.setdefault(name, {})[field] = parse_scalar(value)
    return tuple(
        msgspec.structs.replace(
            entry,
            optimizers=tuple(
                msgspec.structs.replace(
                    declared,
                    overrides={**declared.overrides, **wanted.get(declared.optimizer, {})},
                    grid={
                        field: values
                        for field, values in declared.grid.items()
                        if field not in wanted.get(declared.optimizer, {})
                    },
                )
                for declared in entry.optimizers
            ),
            overrides={
                name: {field: value for field, value in fields.items() if field not in wanted.get(name, {})}
                for name, fields in entry.overrides.items()
            },
        )
        for entry in entries
    )


def parse_scalar(text: str) -> Scalar:
    """Read a hyperparameter's value.

    >>> [parse_scalar(text) for text in ("0.1", "10", "true", "none", "tril")]
    [0.1, 10, True, None, 'tril']
    """
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _outside(name: str, options: argparse.Namespace) -> TaskEntry:
    known(name, tasks().names(), "task")
    if options.epochs is None:
        raise UsageError(f"task {name!r} is not part of suite {options.suite!r}; give it a budget with --epochs")
    return TaskEntry(task=name, epochs=options.epochs)


def words(text: str) -> list[str]:
    """Split a comma-separated list, each word once.

    >>> words("a, b,a")
    ['a', 'b']
    """
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def known(name: str, names: Collection[str], kind: str) -> str:
    """Return ``name`` if it is among ``names``.

    Raises:
        UsageError: It is not; the message suggests one that is.
    """
    if name not in names:
        raise UsageError(f"unknown {kind} {name!r}{did_you_mean(name, names)}")
    return name


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read a list of seeds and ranges.

    >>> parse_seeds("0,4-6,5")
    (0, 4, 5, 6)

    Raises:
        UsageError: It is none.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise UsageError(f"--seeds {text!r} is not a list of seeds; write for example 0,1,2 or 0-4")
        seeds += range(int(first), int(last if dash else first) + 1)
    return tuple(dict.fromkeys(seeds))


def parse_scale(name: str) -> Scale:
    """Read a scale.

    Raises:
        UsageError: Unknown name.
    """
    return Scale(known(name, [str(scale) for scale in Scale], "scale"))
