"""What a suite is run to find out: declared comparisons of two cells, before there is a run."""

from apo_bench.errors import UsageError
from apo_bench.records.ranges import Name
from apo_bench.records.spec import Frozen, Precision, Scalar


class Selector(Frozen, frozen=True, omit_defaults=True):
    """Which cell of a task is meant.

    Attributes:
        optimizer: Registered name.
        schedule: Kind of its schedule (``constant``, ``step``, ``cosine``); any where it is not given.
        setting: Values of hyperparameters. Of several cells that have them, the one is meant that has the usual value
            of everything else: an ablation's base.
        tuned: Whether the setting is the one that a grid search chose.
        precision: Number formats; the other side's where it is not given, and each in turn where neither gives one.
    """

    optimizer: Name
    schedule: Name | None = None
    setting: dict[Name, Scalar] = {}  # noqa: RUF012 - msgspec copies it
    tuned: bool = False
    precision: Precision | None = None

    @property
    def words(self) -> str:
        """For a reader."""
        parts = [f"{name}={value}" for name, value in sorted(self.setting.items())]
        parts += [self.schedule] if self.schedule else []
        parts += ["best of its grid"] if self.tuned else []
        parts += [str(self.precision)] if self.precision else []
        return f"{self.optimizer} ({', '.join(parts)})" if parts else self.optimizer

    def fits(self, optimizer: str, schedule: str, setting: dict[str, Scalar]) -> bool:
        """Whether a competitor is meant; what it does not set is not held against it."""
        return (
            optimizer == self.optimizer
            and self.schedule in {None, schedule}
            and all(setting.get(name, value) == value for name, value in self.setting.items())
        )


class Contrast(Frozen, frozen=True, omit_defaults=True):
    """A declared comparison.

    Attributes:
        name: Of the question; distinct within a suite.
        left: What is compared.
        right: What it is compared with.
        quantity: By what (`apo_bench.evidence.quantities.QUANTITIES`).
        family: On each task, intervals of one family hold together. Its size is declared with it, and does not depend
            on what has been run.
        margin: Differences that are smaller do not matter: in the quantity's unit, of a ratio as a share; `None` where
            any does.
        tasks: On which tasks; on all where it is empty.
    """

    name: Name
    left: Selector
    right: Selector
    quantity: Name = "value"
    family: Name = "reference"
    margin: float | None = None
    tasks: tuple[Name, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what compares nothing.

        Raises:
            UsageError: Both sides are the same, or the margin is not above 0.
        """
        if self.left == self.right:
            raise UsageError(f"contrast {self.name!r} compares {self.left.words} with itself; name another side")
        if self.margin is not None and not 0.0 < self.margin < float("inf"):
            raise UsageError(f"contrast {self.name!r}: margin must be above 0 (got {self.margin})")

    @property
    def words(self) -> str:
        """For a reader."""
        return f"{self.left.words} against {self.right.words}"


def against(reference: str, *others: str, family: str = "reference", quantity: str = "value") -> tuple[Contrast, ...]:
    """Each of some optimizers against one.

    >>> [one.name for one in against("sgdm", "adam", "kfac")]
    ['adam against sgdm', 'kfac against sgdm']
    """
    right = Selector(optimizer=reference)
    return tuple(
        Contrast(
            name=f"{name} against {reference}",
            left=Selector(optimizer=name),
            right=right,
            family=family,
            quantity=quantity,
        )
        for name in others
    )
