"""From the words of a command line to a suite: restrictions, replacements, and what is wrong with them."""

import argparse
import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import msgspec

from apo_bench.errors import UsageError, did_you_mean, shown
from apo_bench.plugins.optimizer import unfit
from apo_bench.plugins.registry import optimizers, tasks
from apo_bench.records.spec import Precision, Scalar, Scale
from apo_bench.records.suite import OptimizerEntry, Suite, TaskEntry
from apo_bench.suites import SUITES, suite

T = TypeVar("T")

EVERYONE = "all"
"""What stands for all registered optimizers."""

LARGEST_SEED = 2**63 - 1
"""The largest integer that every reader of a record has."""
MOST_SEEDS = 10_000
MOST_RUNS = 100_000
"""More than anybody plans in one command, and few enough to be planned in a minute."""
_LONGEST_INTEGER = 100
"""Digits: far more than any record holds, and few enough to be read at once."""

_SEEDS = re.compile(r"([0-9]+)(?:-([0-9]+))?")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf(inity)?|nan", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Selection:
    """What a command line asks for of a suite, read and checked as far as it can be without knowing the scale.

    Attributes:
        suite: Its name.
        tasks: These tasks instead of the suite's; empty for the suite's.
        epochs: This budget on every task; `None` for the suite's.
        seeds: These seeds on every task; empty for the suite's.
        optimizers: These optimizers on every task; empty for the suite's.
        precisions: These precisions on every task; empty for the suite's.
        settings: Hyperparameters by optimizer, over whatever the suite declares, grids included.
    """

    suite: str
    tasks: tuple[str, ...] = ()
    epochs: float | None = None
    seeds: tuple[int, ...] = ()
    optimizers: tuple[str, ...] = ()
    precisions: tuple[Precision, ...] = ()
    settings: Mapping[str, Mapping[str, Scalar]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Selection":
        """Read the words of a command line.

        Raises:
            UsageError: An unknown name or a malformed list.
        """
        formats = [str(precision) for precision in Precision]
        return cls(
            suite=known(options.suite, SUITES, "suite"),
            tasks=tuple(tasks()[name].name for name in _listed("tasks", options.tasks)),
            epochs=options.epochs,
            seeds=() if options.seeds is None else parse_seeds(options.seeds),
            optimizers=_asked(options.optimizers),
            precisions=tuple(
                Precision(known(name, formats, "precision")) for name in _listed("precisions", options.precisions)
            ),
            settings=_settings(options.set or []),
        )

    def at(self, scale: Scale) -> Suite:
        """The suite that is asked for, at a scale.

        Raises:
            UsageError: A task outside the suite without a budget, or a setting of an optimizer that does not compete.
        """
        chosen = suite(self.suite, scale)
        entries = self._entries(chosen)
        competing = {declared.optimizer for entry in entries for declared in entry.optimizers}
        for name in self.settings:
            known(name, competing, "optimizer in --set")
        _refuse_too_many(chosen, entries)
        return msgspec.structs.replace(chosen, tasks=tuple(map(self._set, entries)))

    def _entries(self, chosen: Suite) -> list[TaskEntry]:
        """The chosen tasks, each with competitors, precisions, seeds and a budget of its own."""
        entries = list(chosen.tasks)
        if self.tasks:
            in_suite = {entry.task for entry in entries}
            entries = [entry for name in self.tasks for entry in entries if entry.task == name]
            entries += [self._outside(name) for name in self.tasks if name not in in_suite]
        return [
            msgspec.structs.replace(
                entry,
                epochs=entry.epochs if self.epochs is None else self.epochs,
                seeds=self.seeds or entry.seeds,
                optimizers=_restricted(chosen.competitors(entry), self.optimizers),
                precisions=self.precisions or chosen.formats(entry),
            )
            for entry in entries
        ]

    def _outside(self, name: str) -> TaskEntry:
        if self.epochs is None:
            raise UsageError(f"task {name!r} is not part of suite {self.suite!r}; give it a budget with --epochs")
        return TaskEntry(task=name, epochs=self.epochs)

    def _set(self, entry: TaskEntry) -> TaskEntry:
        """A task with the settings in place of what was declared there."""

        def without(fields: Mapping[str, T], name: str) -> dict[str, T]:
            return {field: value for field, value in fields.items() if field not in self.settings.get(name, {})}

        return msgspec.structs.replace(
            entry,
            optimizers=tuple(
                msgspec.structs.replace(
                    declared,
                    overrides={**declared.overrides, **self.settings.get(declared.optimizer, {})},
                    grid=without(declared.grid, declared.optimizer),
                )
                for declared in entry.optimizers
            ),
            overrides={name: without(fields, name) for name, fields in entry.overrides.items()},
        )


def _listed(option: str, text: str | None) -> list[str]:
    """The names that an option lists; none where it is not given.

    Raises:
        UsageError: It is given, and names nothing: an empty variable of a shell must not mean everything.
    """
    names = [] if text is None else words(text)
    if text is not None and not names:
        raise UsageError(f"--{option} must name at least one (got {shown(text)}); leave it out for the suite's own")
    return names


def _asked(text: str | None) -> tuple[str, ...]:
    """The optimizers that are asked for; all that are registered where the word for that is no name of one."""
    registered = optimizers()
    if text == EVERYONE and EVERYONE not in registered.names():
        return registered.names()
    return tuple(registered[name].name for name in _listed("optimizers", text))


def _refuse_too_many(chosen: Suite, entries: Sequence[TaskEntry]) -> None:
    """Count the runs without making them.

    Raises:
        UsageError: There are more than a command plans.
    """
    count = 0
    for entry in entries:
        points = len(chosen.tuning_seeds) * sum(
            math.prod(map(len, declared.grid.values())) for declared in entry.optimizers if declared.grid
        )
        count += len(chosen.formats(entry)) * (len(entry.seeds) * len(entry.optimizers) + points)
    if count > MOST_RUNS:
        raise UsageError(
            f"a command plans at most {MOST_RUNS:,} runs, and this would be {count:,}; give fewer --seeds, --tasks, "
            "--optimizers or --precisions, in several commands"
        )


def _restricted(declared: Sequence[OptimizerEntry], asked: Sequence[str]) -> tuple[OptimizerEntry, ...]:
    """The declared settings of each optimizer that is asked for; its defaults where none is declared."""
    found: list[OptimizerEntry] = []
    for name in asked:
        found += [entry for entry in declared if entry.optimizer == name] or [OptimizerEntry(optimizer=name)]
    return tuple(found) if asked else tuple(declared)


def _settings(texts: Sequence[str]) -> dict[str, dict[str, Scalar]]:
    """Read ``optimizer.hyperparameter=value``; the name of an optimizer may have dots.

    Raises:
        UsageError: It is none, or a value that no record can hold.
    """
    wanted: dict[str, dict[str, Scalar]] = {}
    for text in texts:
        target, equals, value = text.partition("=")
        name, dot, field = target.rpartition(".")
        if not (dot and equals and name and field and value):
            raise UsageError(f"invalid --set {shown(text)}; expected OPTIMIZER.FIELD=VALUE, for example sgdm.lr=0.1")
        read = parse_scalar(value)
        if (fault := unfit(read)) is not None:
            raise UsageError(
                f"--set {shown(target, quote=False)} must be a value that a record can hold (got {fault[0]}, as "
                f"{shown(value)}); {fault[1]}"
            )
        wanted.setdefault(name, {})[field] = read
    return wanted


def parse_scalar(text: str) -> Scalar:
    """Read a hyperparameter's value; an integer of more digits than any record holds is read as a float.

    >>> [parse_scalar(text) for text in ("0.1", "10", "true", "none", "tril", "1_0")]
    [0.1, 10, True, None, 'tril', '1_0']
    """
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if _INTEGER.fullmatch(text) and len(text) <= _LONGEST_INTEGER:
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


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
        raise UsageError(f"unknown {kind} {shown(name)}{did_you_mean(name, names)}")
    return name


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read a list of seeds and ranges.

    >>> parse_seeds("0,4-6,5")
    (0, 4, 5, 6)

    Raises:
        UsageError: It is none, or one of too many or too large seeds.
    """
    seeds: dict[int, None] = {}
    count = 0
    for part in text.split(","):
        match = _SEEDS.fullmatch(part.strip())
        first, last = (_seed(match[1]), _seed(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise UsageError(f"--seeds {shown(text)} is not a list of seeds; write for example 0,1,2 or 0-4")
        if last > LARGEST_SEED:
            raise UsageError(f"--seeds must be at most {LARGEST_SEED} each (got {shown(text)}); choose smaller ones")
        count += last - first + 1
        if count > MOST_SEEDS:  # counted, not made
            raise UsageError(f"--seeds must be at most {MOST_SEEDS:,} seeds (got {shown(text)}); give fewer")
        seeds.update(dict.fromkeys(range(first, last + 1)))
    return tuple(seeds)


def _seed(digits: str) -> int:
    """A number of any length; one that is too large for a seed is read as the first that is."""
    significant = digits.lstrip("0") or "0"
    return int(significant) if len(significant) <= len(str(LARGEST_SEED)) else LARGEST_SEED + 1


def parse_scale(name: str) -> Scale:
    """Read a scale.

    Raises:
        UsageError: Unknown name.
    """
    return Scale(known(name, [str(scale) for scale in Scale], "scale"))
