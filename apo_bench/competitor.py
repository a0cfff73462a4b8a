"""How an optimizer enters the race: its hyperparameters as a frozen dataclass, and one factory."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from apo_bench.spec import Precision, Scalar

if TYPE_CHECKING:
    from apo_bench.training.problem import Problem, UpdateRule

H = TypeVar("H")


@dataclasses.dataclass(frozen=True)
class Search:
    """The declared search range of a hyperparameter, bounds included.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: Whether the scale is logarithmic.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"{self} is no range")


def hyperparameter(default: Any, *, search: Search | None = None, symbol: str = "") -> Any:
    """Declare a field of a hyperparameter dataclass.

    Args:
        default: Declared default, a scalar.
        search: Range in which tuning may look; `None` keeps it fixed.
        symbol: The paper's symbol.

    Returns:
        A dataclass field.
    """
    return dataclasses.field(default=default, metadata={"search": search, "symbol": symbol})


@dataclasses.dataclass(frozen=True)
class Competitor(Generic[H]):
    """An optimizer as the harness knows it; an entry point in group ``apo_bench.optimizers`` names one.

    Attributes:
        hyperparameters: Frozen dataclass made of `hyperparameter` fields; its docstring's first line is the
            competitor's title.
        build: Makes the update rule for a problem.
        reference: Where the method is published.
        in_precision: Defaults that differ in some precision, by field name; for example an ε that 16 bit can hold.
    """

    hyperparameters: type[H]
    build: Callable[["Problem", H], "UpdateRule"]
    reference: str = ""
    in_precision: Mapping[Precision, Mapping[str, Scalar]] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """First line of the hyperparameters' docstring."""
        return (self.hyperparameters.__doc__ or "").strip().partition("\n")[0]
