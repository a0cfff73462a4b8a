"""Names to factories: tasks and optimizers enter through entry points, ours like a stranger's.

Listing names reads only the metadata of installed distributions; a plugin is imported when it is used.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from typing import TYPE_CHECKING, Any, TypeVar, cast

from apo_bench.errors import ApoBenchError, UsageError, did_you_mean, kind_of, last_line, shown
from apo_bench.plugins.guard import PluginRaisedError, guarded
from apo_bench.plugins.trial import fatal, is_to_be_tried
from apo_bench.records.spec import check_name

if TYPE_CHECKING:
    from apo_bench.plugins.task import Task

T = TypeVar("T")

TASKS = "apo_bench.tasks"
OPTIMIZERS = "apo_bench.optimizers"


class BrokenPluginError(UsageError):
    """A plugin cannot be used; what needs no other is run all the same."""


class ExitingPluginError(BrokenPluginError):
    """A plugin ends the process that imports it."""

    exit_code = 1


@dataclasses.dataclass(frozen=True)
class _Attempt:
    """Importing a plugin, and making its task where it is one."""

    entry_point: EntryPoint
    makes_task: bool

    def __call__(self) -> None:
        loaded = self.entry_point.load()
        if self.makes_task and callable(loaded):
            loaded()


@dataclasses.dataclass(frozen=True)
class Registered:
    """One registered name.

    Attributes:
        name: What the user types.
        module: Module that defines it.
        distribution: Installed distribution that brought it.
        version: That distribution's version.
    """

    name: str
    module: str
    distribution: str
    version: str
    entry_point: EntryPoint = dataclasses.field(repr=False)

    @property
    def attribute(self) -> str:
        """What the module calls it."""
        return self.entry_point.attr

    def load(self) -> Any:
        """Import the object: a competitor, or a function that makes a task.

        Raises:
            BrokenPluginError: The plugin fails to import, or what it registers is neither.
        """
        self._survive()
        try:
            loaded = guarded(self.entry_point.load)
        except ApoBenchError as error:
            raise self._broken("fails to import", error, last_line(error)) from error
        except PluginRaisedError as error:
            raise self._broken("fails to import", error.__cause__, str(error)) from error
        if self.entry_point.group == OPTIMIZERS:
            self.held(lambda: self._check_competitor(loaded))
        elif not callable(loaded):
            raise BrokenPluginError(f"{self} is a {kind_of(loaded)}; register a function that returns a Task")
        return loaded

    def task(self) -> "Task":
        """Import a task's function and call it.

        Raises:
            BrokenPluginError: The plugin fails to import, or what it makes is no task.
        """
        from apo_bench.plugins.task import Task, wrong_field  # imports torch

        make = self.load()
        made: object = self.held(make)
        if not issubclass(type(made), Task):
            raise BrokenPluginError(f"{self} makes a {kind_of(made)}; its function has to return a Task")
        task = cast("Task", made)
        fault = self.held(lambda: wrong_field(task))
        if fault is not None:
            wrong, _, right = fault.partition("; give ")
            raise BrokenPluginError(f"{self} makes a Task whose {wrong}; give {right}")
        return task

    def __str__(self) -> str:
        return f"{self.name!r} from {self.distribution} {self.version}"

    def held(self, call: Callable[[], T]) -> T:
        """Call code of the plugin.

        Raises:
            BrokenPluginError: It raises anything; an error that is written for the user is passed on.
        """
        try:
            return guarded(call)
        except PluginRaisedError as error:
            raise self._broken("cannot be made", error.__cause__, str(error)) from error

    def _broken(self, what: str, error: BaseException | None, line: str) -> BrokenPluginError:
        """What is said of a plugin that raises; one that exits, or raises what is no error, is of its own kind."""
        if isinstance(error, Exception):
            return BrokenPluginError(f"{self} {what} ({line}); fix or uninstall that distribution")
        return ExitingPluginError(f"{self} {what} ({line}); fix or uninstall that distribution")

    def _survive(self) -> None:
        """Import the plugin in another process first, where it may end this one.

        Raises:
            ExitingPluginError: It would.
        """
        makes_task = self.entry_point.group == TASKS
        if not is_to_be_tried(self.distribution, self.module, calls=makes_task):
            return
        import apo_bench.plugins.optimizer  # noqa: F401 - torch, which nearly every plugin imports: once, not in both

        how = fatal(_Attempt(self.entry_point, makes_task=makes_task))
        if how is not None:
            raise ExitingPluginError(
                f"{self} ends the process that imports it ({how}); fix or uninstall that distribution"
            )

    def _check_competitor(self, loaded: Any) -> None:
        from apo_bench.plugins.optimizer import Competitor, resolve_hyperparameters

        if not issubclass(type(loaded), Competitor):
            is_class = issubclass(type(loaded), type)
            kind = f"the class {loaded.__name__}" if is_class else f"a {kind_of(loaded)}"
            raise BrokenPluginError(f"{self} is {kind}; register a Competitor(hyperparameters, build)")
        fields = loaded.hyperparameters
        if not (isinstance(fields, type) and dataclasses.is_dataclass(fields)):
            name = fields.__name__ if isinstance(fields, type) else kind_of(fields)
            raise BrokenPluginError(
                f"{self}: its hyperparameters {name} are no dataclass; put @dataclasses.dataclass(frozen=True) above it"
            )
        if not callable(loaded.build):
            raise BrokenPluginError(
                f"{self}: its build is a {kind_of(loaded.build)}; give a function of a problem and hyperparameters"
            )
        for field in ("reference", "left_alone"):
            if type(getattr(loaded, field)) is not str:
                raise BrokenPluginError(f"{self}: its {field} is a {kind_of(getattr(loaded, field))}; give a text")
        if not isinstance(loaded.in_precision, Mapping):
            raise BrokenPluginError(
                f"{self}: its in_precision is a {kind_of(loaded.in_precision)}; give a mapping of Precision to defaults"
            )
        try:
            for overrides in ({}, *loaded.in_precision.values()):
                resolve_hyperparameters(fields, overrides, optimizer=self.name)
        except UsageError as error:
            raise BrokenPluginError(f"{self} declares hyperparameters to fix: {error}") from error


class Registry:
    """The registered names of one entry-point group.

    What cannot be used stops nothing: a name that two distributions register, or one that is unfit for files.

    Attributes:
        refused: One line for each registration that cannot be used.
    """

    def __init__(self, group: str, found: Iterable[EntryPoint] | None = None) -> None:
        self.kind = {TASKS: "task", OPTIMIZERS: "optimizer"}[group]
        self._by_name: dict[str, Registered] = {}
        self._refused: dict[str, str] = {}
        self._known: dict[int, tuple[Distribution, str, str]] = {}
        for point in self._installed(group) if found is None else found:
            try:
                self._add(point)
            except UsageError as error:
                self._refuse(point.name, str(error))
            except Exception as error:  # noqa: BLE001 - metadata that are damaged, or not made by pip
                what = f"{self.kind} {shown(point.name)} of {_origin(point.dist)}"
                self._refuse(
                    point.name, f"{what} names no object ({last_line(error)}); register it as 'name = module:object'"
                )

    @property
    def refused(self) -> tuple[str, ...]:
        """One line for each registration that cannot be used."""
        return tuple(self._refused.values())

    def _installed(self, group: str) -> Iterable[EntryPoint]:
        """The entry points of all distributions; one whose list cannot be read is told, if it is meant for us."""
        try:
            return entry_points(group=group)
        except Exception:  # noqa: BLE001 - importlib reads all or none
            return list(self._one_by_one(group))

    def _one_by_one(self, group: str) -> Iterator[EntryPoint]:
        seen = set()
        for one in distributions():
            origin = _origin(one)
            if origin in seen:
                continue
            seen.add(origin)
            try:
                yield from one.entry_points.select(group=group)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one, the others are read
                if _mentions_us(one, error):
                    line = f"the entry points of {origin} cannot be read ({last_line(error)})"
                    self._refuse(origin, f"{line}; fix or uninstall that distribution")

    def _add(self, point: EntryPoint) -> None:
        try:
            name = check_name(point.name, self.kind)
        except UsageError:
            raise UsageError(
                f"{self.kind} name {shown(point.name)} of {_origin(point.dist)} is not usable; use up to 80 of a-z, "
                "0-9, '.', '-' and '_', letter or digit first"
            ) from None
        distribution, version = self._name_and_version(point.dist)
        new = Registered(
            name=name,
            module=point.module,
            distribution=distribution,
            version=version,
            entry_point=point,
        )
        old = self._by_name.get(name)
        if old is not None and (old.distribution, old.module) != (new.distribution, new.module):
            del self._by_name[name]
            self._refuse(
                name,
                f"{self.kind} {name!r} is registered by both {old.distribution} and {new.distribution}; uninstall one "
                "or rename",
            )
        if name not in self._refused:
            self._by_name[name] = new

    def _name_and_version(self, distribution: Distribution | None) -> tuple[str, str]:
        """What a distribution is called; its metadata are parsed once, however many names it registers."""
        if distribution is None:
            return "unknown", "unknown"
        if id(distribution) not in self._known:
            named = distribution.name or "unknown", distribution.version or "unknown"
            self._known[id(distribution)] = (distribution, *named)  # kept, so that no other has its identity
        return self._known[id(distribution)][1:]

    def _refuse(self, name: str, line: str) -> None:
        self._refused.setdefault(name, line)

    def names(self) -> tuple[str, ...]:
        """All names that can be used, sorted."""
        return tuple(sorted(self._by_name))

    def __contains__(self, name: object) -> bool:
        """Whether a name is registered, usable or not."""
        return name in self._by_name or name in self._refused

    def __getitem__(self, name: str) -> Registered:
        """Look a name up.

        Raises:
            UsageError: Unknown name, for which the message suggests one; or one that cannot be used.
        """
        if name in self._refused:
            raise BrokenPluginError(self._refused[name])
        try:
            return self._by_name[name]
        except KeyError:
            raise UsageError(f"unknown {self.kind} {shown(name)}{did_you_mean(name, self._by_name)}") from None


def _origin(distribution: Distribution | None) -> str:
    """Name and version of a distribution, as far as its metadata tell."""
    try:
        return f"{distribution.name} {distribution.version}" if distribution else "unknown unknown"
    except Exception:  # noqa: BLE001 - its metadata are damaged, too
        return "a distribution without metadata"


def _mentions_us(distribution: Distribution, error: Exception) -> bool:
    """Whether a list of entry points that cannot be read has one of ours: those of others are not our concern."""
    if isinstance(error, UnicodeDecodeError):
        return TASKS.partition(".")[0].encode() in error.object
    return TASKS.partition(".")[0] in (distribution.read_text("entry_points.txt") or "")


def tasks() -> Registry:
    """All installed tasks."""
    return Registry(TASKS)


def optimizers() -> Registry:
    """All installed optimizers."""
    return Registry(OPTIMIZERS)
