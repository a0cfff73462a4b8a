"""Names to factories: tasks and optimizers enter through entry points, ours like a stranger's.

Listing names reads only the metadata of installed distributions; a plugin is imported when it is used.
"""

import dataclasses
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from apo_bench.errors import ApoBenchError, UsageError, did_you_mean
from apo_bench.records.spec import check_name

if TYPE_CHECKING:
    from apo_bench.plugins.task import Task

TASKS = "apo_bench.tasks"
OPTIMIZERS = "apo_bench.optimizers"


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
            UsageError: The plugin fails to import, or what it registers is neither.
        """
        try:
            loaded = self.entry_point.load()
        except Exception as error:
            raise UsageError(
                f"{self} fails to import ({type(error).__name__}: {error}); fix or uninstall that distribution"
            ) from error
        if self.entry_point.group == OPTIMIZERS:
            self._check_competitor(loaded)
        elif not callable(loaded):
            raise UsageError(f"{self} is a {type(loaded).__name__}; register a function that returns a Task")
        return loaded

    def task(self) -> "Task":
        """Import a task's function and call it.

        Raises:
            UsageError: The plugin fails to import, or what it makes is no task.
        """
        from apo_bench.plugins.task import Task  # imports torch

        make = self.load()
        try:
            made = make()
        except ApoBenchError:
            raise
        except Exception as error:
            raise UsageError(
                f"{self} cannot be made ({type(error).__name__}: {error}); fix or uninstall that distribution"
            ) from error
        if not isinstance(made, Task):
            raise UsageError(f"{self} makes a {type(made).__name__}; its function has to return a Task")
        return made

    def __str__(self) -> str:
        return f"{self.name!r} from {self.distribution} {self.version}"

    def _check_competitor(self, loaded: Any) -> None:
        from apo_bench.plugins.optimizer import Competitor

        if not isinstance(loaded, Competitor):
            kind = f"the class {loaded.__name__}" if isinstance(loaded, type) else f"a {type(loaded).__name__}"
            raise UsageError(f"{self} is {kind}; register a Competitor(hyperparameters, build)")
        fields = loaded.hyperparameters
        if not (isinstance(fields, type) and dataclasses.is_dataclass(fields)):
            name = getattr(fields, "__name__", type(fields).__name__)
            raise UsageError(
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
