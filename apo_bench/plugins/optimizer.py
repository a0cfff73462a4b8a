"""How an optimizer is registered: its hyperparameters as a frozen dataclass, and one factory."""

import dataclasses
import enum
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from apo_bench.errors import UsageError, did_you_mean, kind_of, last_line, shown
from apo_bench.records.spec import Precision, Scalar

if TYPE_CHECKING:
    from apo_bench.problem.problem import Problem
    from apo_bench.problem.rule import UpdateRule


def resolve_hyperparameters(
    hyperparameters: type[Any], overrides: Mapping[str, Scalar], *, optimizer: str
) -> dict[str, Scalar]:
    """Write out all hyperparameters of a competitor: its defaults with ``overrides`` on top.

    Numbers take the type of the default they replace (``lr=1`` becomes ``1.0``), so that equal settings have
    equal run identities.

    Args:
        hyperparameters: The competitor's frozen dataclass.
        overrides: Values by field name.
        optimizer: The competitor's name, for the message.

    Raises:
        UsageError: An override names no field, a value has the wrong type, or a default is none that a record can hold.
    """
    fields = {field.name: field for field in dataclasses.fields(hyperparameters)}
    for name in overrides:
        if name not in fields:
            raise UsageError(f"optimizer {optimizer!r} has no hyperparameter {shown(name)}{did_you_mean(name, fields)}")
    resolved: dict[str, Scalar] = {}
    for name, field in fields.items():
        if field.default is dataclasses.MISSING:
            factory = "" if field.default_factory is dataclasses.MISSING else ", only a default_factory"
            raise UsageError(
                f"optimizer {optimizer!r}: hyperparameter {name!r} has no default{factory}; declare {_KINDS}"
            )
        default = _scalar(field.default)
        if type(default) not in _SCALARS:
            raise UsageError(
                f"optimizer {optimizer!r}: hyperparameter {name!r} has the default {_said(default)}, of type "
                f"{kind_of(default)}; it must be {_KINDS}: declare a field for each part, for example {name}_1"
            )
        value = _as_type_of(default, _scalar(overrides.get(name, default)), f"{optimizer}.{name}")
        if (fault := unfit(value)) is not None:
            raise UsageError(f"{optimizer}.{name} must be a value that a record can hold (got {fault[0]}); {fault[1]}")
        resolved[name] = value
    return resolved


_KINDS = "a number, a string, True, False or None"
_SCALARS = frozenset({bool, int, float, str, type(None)})
"""These themselves: a class derived from one may do anything when it is compared or written."""
LONGEST_TEXT = 200
"""Characters of a hyperparameter that is a text."""


def unfit(value: Scalar) -> tuple[str, str] | None:
    """Why a record cannot hold a hyperparameter's value: what is wrong, and what to use; `None` where it can."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}, which would come back as another", "use a finite number"
    if type(value) is int and not -(2**63) <= value < 2**63:
        return "an integer of more than 64 bits", "use a number of 64 bits"
    if isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            return f"a text of {len(value)} characters", f"use at most {LONGEST_TEXT}"
        if not value.isprintable():  # surrogates are not, either
            return f"{value!r}", "use characters that can be printed"
    return None


def _said(value: Any) -> str:
    """What a plugin's value says of itself, as far as it does."""
    try:
        return shown(repr(value), quote=False)
    except BaseException as error:  # noqa: BLE001 - a plugin's own class
        return f"(cannot be shown: {last_line(error)})"


def _scalar(value: Any) -> Any:
    """What a record holds of a value: Python's own of a scalar of NumPy or torch, the value of an `enum.Enum`."""
    try:
        if isinstance(value, enum.Enum):
            value = value.value
        if hasattr(value, "dtype") and getattr(value, "shape", None) == ():
            value = value.item()
        kind = next((kind for kind in (int, float, str) if isinstance(value, kind)), None)
        return value if kind is None or type(value) in _SCALARS else kind(value)
    except Exception:  # noqa: BLE001 - of a plugin's own class; it is then refused as what it is
        return value


def _as_type_of(default: Scalar, value: Scalar, where: str) -> Scalar:
    if isinstance(default, bool) or default is None or isinstance(default, str):
        fits = default is None or type(value) is type(default)
    elif isinstance(default, float):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        value = _float(value) if isinstance(value, int | float) and fits else value
    else:
        fits = isinstance(value, int) and not isinstance(value, bool)
    if not (fits and type(value) in _SCALARS):
        raise UsageError(f"{where} = {_said(value)}: expected {_kind(default)}, like the default {default!r}")
    return value


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of more digits than a float has
        return math.inf


def _kind(default: Scalar) -> str:
    return _KINDS if default is None else type(default).__name__


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
            raise ValueError(f"{self} is not a range: low must be below high, and above 0 on a logarithmic scale")


def hyperparameter(default: Any, *, search: Search | None = None, symbol: str = "") -> Any:
    """Declare a field of a hyperparameter dataclass.

    Args:
        default: Declared default: a number (also one of NumPy), a string, a truth value, `None`, or an `enum.Enum` of
            these, which records hold as its value.
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
        left_alone: Kinds of weights that the method leaves to a plainer one; empty for none.
        in_precision: Defaults that differ in some precision, by field name; for example an ε that 16 bit can hold.
    """

    hyperparameters: type[H]
    build: Callable[["Problem", H], "UpdateRule"]
    reference: str = ""
    left_alone: str = ""
    in_precision: Mapping[Precision, Mapping[str, Scalar]] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """First line of the hyperparameters' docstring."""
        return (self.hyperparameters.__doc__ or "").strip().partition("\n")[0]

    def settings(self, values: Mapping[str, Scalar]) -> H:
        """Make the hyperparameters of values as records hold them; an `enum.Enum` is made of its value again.

        Raises:
            UsageError: A value is none of its enumeration.
        """
        made: dict[str, Any] = dict(values)
        for field in dataclasses.fields(self.hyperparameters):  # type: ignore[arg-type] # a dataclass
            if isinstance(field.default, enum.Enum) and field.name in made:
                kind = type(field.default)
                try:
                    made[field.name] = kind(made[field.name])
                except ValueError:
                    known = ", ".join(repr(one.value) for one in kind)
                    raise UsageError(f"{field.name} = {made[field.name]!r} is unknown; known: {known}") from None
        return self.hyperparameters(**made)
