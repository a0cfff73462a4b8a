"""From the words of a command line to a suite: restrictions, replacements, and what is wrong with them."""

import argparse
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import msgspec

from apo_bench.errors import UsageError, did_you_mean
from apo_bench.plugins.registry import optimizers, tasks
from apo_bench.records.spec import Precision, Scalar, Scale
from apo_bench.records.suite import OptimizerEntry, Suite, TaskEntry
from apo_bench.suites import SUITES, suite

T = TypeVar("T")

EVERYONE = "all"
"""What stands for all registered optimizers."""

_MOST_EPOCHS = 1e9
"""Far beyond any run; the products of larger numbers no longer fit a float."""


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
        if options.epochs is not None:
            if not options.epochs > 0:
                raise UsageError(f"--epochs must be a number above 0 (got {options.epochs:g})")
            if options.epochs > _MOST_EPOCHS:
                raise UsageError(f"--epochs must be at most {_MOST_EPOCHS:g} (got {options.epochs:g})")
        formats = [str(precision) for precision in Precision]
        return cls(
            suite=known(options.suite, SUITES, "suite"),
            tasks=tuple(known(name, tasks().names(), "task") for name in words(options.tasks or "")),
            epochs=options.epochs,
            seeds=parse_seeds(options.seeds) if options.seeds else (),
            optimizers=_asked(options.optimizers) if options.optimizers else (),
            precisions=tuple(Precision(known(name, formats, "precision")) for name in words(options.precisions or "")),
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


def _asked(text: str) -> tuple[str, ...]:
    """The optimizers that are asked for; all that are registered where the word for that is no name of one."""
    names = optimizers().names()
    if text == EVERYONE and EVERYONE not in names:
        return names
    return tuple(known(name, names, "optimizer") for name in words(text))


def _restricted(declared: Sequence[OptimizerEntry], asked: Sequence[str]) -> tuple[OptimizerEntry, ...]:
    """The declared settings of each optimizer that is asked for; its defaults where none is declared."""
    found: list[OptimizerEntry] = []
    for name in asked:
        found += [entry for entry in declared if entry.optimizer == name] or [OptimizerEntry(optimizer=name)]
    return tuple(found) if asked else tuple(declared)


def _settings(texts: Sequence[str]) -> dict[str, dict[str, Scalar]]:
    """Read ``optimizer.hyperparameter=value``."""
    wanted: dict[str, dict[str, Scalar]] = {}
    for text in texts:
        name, dot, assignment = text.partition(".")
        field, equals, value = assignment.partition("=")
        if not (dot and equals and field and value):
            raise UsageError(f"invalid --set {text!r}; expected OPTIMIZER.FIELD=VALUE, for example sgdm.lr=0.1")
        wanted.setdefault(name, {})[field] = parse_scalar(value)
    return wanted


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
