"""Hyperparameters: their types, defaults and search ranges."""

import pytest
from support.competitors import Knobs

from apo_bench.errors import UsageError
from apo_bench.plugins.optimizer import Search, resolve_hyperparameters


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
