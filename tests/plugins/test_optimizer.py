"""Hyperparameters: their types, defaults and search ranges."""

import dataclasses
import enum
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from support.competitors import Knobs

from apo_bench.errors import UsageError
from apo_bench.plugins.optimizer import Competitor, Search, hyperparameter, resolve_hyperparameters
from apo_bench.records.spec import OptimizerSpec


def test_hyperparameters_are_written_out_with_the_types_of_their_defaults() -> None:
    resolved = resolve_hyperparameters(Knobs, {"lr": 1}, optimizer="o")
    assert resolved == {"lr": 1.0, "nesterov": False, "interval": 10}
    assert isinstance(resolved["lr"], float)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"lrr": 0.1}, "no hyperparameter 'lrr'; did you mean 'lr'?"),
        ({"lr": "fast"}, r"o.lr = 'fast': expected float, like the default 0.1"),
        ({"interval": 2.5}, "expected int"),
        ({"interval": True}, "expected int"),
        ({"nesterov": 1}, "expected bool"),
    ],
)
def test_wrong_hyperparameters(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_hyperparameters(Knobs, overrides, optimizer="o")  # type: ignore[arg-type] # wrong types on purpose


@pytest.mark.parametrize("search", [(1.0, 1.0, False), (0.0, 1.0, True)])
def test_an_empty_search_range_is_refused(search: tuple[float, float, bool]) -> None:
    with pytest.raises(ValueError, match="not a range"):
        Search(*search)


class Kind(enum.Enum):
    WARM = "warm"
    COLD = "cold"


def _fields(default: object) -> type[Any]:
    return dataclasses.make_dataclass("Fields", [("a", object, hyperparameter(default))], frozen=True)


@pytest.mark.parametrize(
    ("default", "value", "kind"),
    [
        (np.float64(0.5), 0.5, float),
        (np.float32(0.5), 0.5, float),
        (np.int64(3), 3, int),
        (np.bool_(True), True, bool),
        (np.str_("text"), "text", str),
        (torch.tensor(0.5), 0.5, float),
        (Kind.WARM, "warm", str),
    ],
)
def test_scalars_of_other_libraries_are_pythons_own_in_a_record(default: object, value: object, kind: type) -> None:
    fields = _fields(default)
    resolved = resolve_hyperparameters(fields, {}, optimizer="o")
    assert resolved == {"a": value}
    assert type(resolved["a"]) is kind
    assert resolve_hyperparameters(fields, {"a": default}, optimizer="o") == resolved  # type: ignore[dict-item] # a plugin may
    spec = OptimizerSpec(name="o", hyperparameters=resolved)
    assert msgspec.json.decode(msgspec.json.encode(spec), type=OptimizerSpec) == spec


@pytest.mark.parametrize("default", [(0.9, 0.999), [1], {"a": 1}, np.zeros(2), torch.zeros(2), 1j, len])
def test_a_default_that_no_record_can_hold_is_refused_with_what_to_declare(default: object) -> None:
    fields: Any = dataclasses.make_dataclass("Fields", [("betas", object, dataclasses.field(default=None))])
    fields.__dataclass_fields__["betas"].default = default  # dataclasses themselves refuse a list
    with pytest.raises(UsageError) as caught:
        resolve_hyperparameters(fields, {}, optimizer="o")
    line = str(caught.value)
    assert line.startswith("optimizer 'o': hyperparameter 'betas' has the default ")
    assert line.endswith(
        "it must be a number, a string, True, False or None: declare a field for each part, for example betas_1"
    )


def test_a_default_that_a_factory_makes_is_refused() -> None:
    fields = dataclasses.make_dataclass("Fields", [("a", object, dataclasses.field(default_factory=list))])
    with pytest.raises(UsageError, match="'a' has no default, only a default_factory; declare a number, a string"):
        resolve_hyperparameters(fields, {}, optimizer="o")


def test_where_the_default_says_no_type_a_value_is_still_a_scalar() -> None:
    with pytest.raises(UsageError, match=r"o.a = \(1, 2\): expected a number, a string, True, False or None"):
        resolve_hyperparameters(_fields(None), {"a": (1, 2)}, optimizer="o")  # type: ignore[dict-item] # on purpose


def test_an_enumeration_comes_back_as_one() -> None:
    competitor: Competitor[Any] = Competitor(_fields(Kind.WARM), lambda problem, h: pytest.fail("is not built"))
    assert competitor.settings({"a": "cold"}).a is Kind.COLD
    with pytest.raises(UsageError, match="a = 'hot' is unknown; known: 'warm', 'cold'"):
        competitor.settings({"a": "hot"})
