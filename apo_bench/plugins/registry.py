"""Names to factories: tasks and optimizers enter through entry points, ours like a stranger's.

Listing names reads only the metadata of installed distributions; a plugin is imported when it is used.
"""

import dataclasses
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from apo_bench.errors import ApoBenchError, Terminated, UsageError, did_you_mean
from apo_bench.plugins.trial import fatal, is_to_be_tried, telling_ctrl_c_apart
from apo_bench.records.spec import check_name

if TYPE_CHECKING:
    from apo_bench.plugins.task import Task

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
            ExitingPluginError: It ends the process that imports it.
        """
        self._survive()
        loaded = self._guarded(self.entry_point.load, "fails to import")
        if self.entry_point.group == OPTIMIZERS:
            self._check_competitor(loaded)
        elif not callable(loaded):
            raise BrokenPluginError(f"{self} is a {type(loaded).__name__}; register a function that returns a Task")
        return loaded

    def task(self) -> "Task":
        """Import a task's function and call it.

        Raises:
            BrokenPluginError: The plugin fails to import, or what it makes is no task.
            ExitingPluginError: It ends the process that imports it.
        """
        from apo_bench.plugins.task import Task  # imports torch

        made = self._guarded(self.load(), "cannot be made")
        if not isinstance(made, Task):
            raise BrokenPluginError(f"{self} makes a {type(made).__name__}; its function has to return a Task")
        return made

    def __str__(self) -> str:
        return f"{self.name!r} from {self.distribution} {self.version}"

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

    def _guarded(self, call: Callable[[], Any], what: str) -> Any:
        """Call the plugin; whatever it raises becomes one line.

        Raises:
            BrokenPluginError: It raised an error.
            ExitingPluginError: It exits, or raises what is no error.
        """
        with telling_ctrl_c_apart() as pressed:
            try:
                return call()
            except (ApoBenchError, Terminated):
                raise
            except Exception as error:
                raise BrokenPluginError(
                    f"{self} {what} ({type(error).__name__}: {error}); fix or uninstall that distribution"
                ) from error
            except BaseException as error:
                if pressed():
                    raise
                raise ExitingPluginError(
                    f"{self} {what} ({type(error).__name__}: {error}); fix or uninstall that distribution"
                ) from error

    def _check_competitor(self, loaded: Any) -> None:
        from apo_bench.plugins.optimizer import Competitor

        if not isinstance(loaded, Competitor):
            kind = f"the class {loaded.__name__}" if isinstance(loaded, type) else f"a {type(loaded).__name__}"
            raise BrokenPluginError(f"{self} is {kind}; register a Competitor(hyperparameters, build)")
        fields = loaded.hyperparameters
        if not (isinstance(fields, type) and dataclasses.is_dataclass(fields)):
            name = getattr(fields, "__name__", type(fields).__name__)
            raise BrokenPluginError(
                f"{self}: its hyperparameters {name} are no dataclass; put @dataclasses.dataclass(frozen=True) above it"
            )


class Registry:
    """The registered names of one entry-point group.

    Raises:
        UsageError: Two distributions register one name, or a name is unfit for files and tables.
    """

    def __init__(self, group: str, found: Iterable[EntryPoint] | None = None) -> None:
        self.kind = {TASKS: "task", OPTIMIZERS: "optimizer"}[group]
        self._by_name: dict[str, Registered] = {}
        for point in entry_points(group=group) if found is None else found:
            distribution = point.dist
            new = Registered(
                name=check_name(point.name, self.kind),
                module=point.module,
                distribution=distribution.name if distribution else "unknown",
                version=distribution.version if distribution else "unknown",
                entry_point=point,
            )
            old = self._by_name.get(new.name)
            if old is not None and (old.distribution, old.module) != (new.distribution, new.module):
                raise UsageError(
                    f"{self.kind} {new.name!r} is registered by both {old.distribution} and "
                    f"{new.distribution}; uninstall one or rename"
                )
            self._by_name[new.name] = new

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._by_name))

    def __getitem__(self, name: str) -> Registered:
        """Look a name up.

        Raises:
            UsageError: Unknown name; the message suggests one.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise UsageError(f"unknown {self.kind} {name!r}{did_you_mean(name, self._by_name)}") from None


def tasks() -> Registry:
    """All installed tasks."""
    return Registry(TASKS)


def optimizers() -> Registry:
    """All installed optimizers."""
    return Registry(OPTIMIZERS)
