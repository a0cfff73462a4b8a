"""The registry: names, suggestions, conflicts and broken plugins."""

from importlib.metadata import EntryPoint

import pytest

from apo_bench.errors import UsageError
from apo_bench.plugins.registry import OPTIMIZERS, Registry


def _point(name: str, value: str = "m:o") -> EntryPoint:
    return EntryPoint(name, value, OPTIMIZERS)


def test_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"unknown optimizer 'lyon'; did you mean 'lion'\?"):
        Registry(OPTIMIZERS, [_point("lion")])["lyon"]


def test_two_registrations_of_one_name_are_an_error() -> None:
    with pytest.raises(UsageError, match="'lion' is registered by both"):
        Registry(OPTIMIZERS, [_point("lion"), _point("lion", "other:o")])


@pytest.mark.parametrize("name", ["../../etc", "a|b", "", "A", "x" * 81, "a\nb", "-x"])
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not usable"):
        Registry(OPTIMIZERS, [_point(name)])


def test_a_plugin_that_fails_to_import_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"'lion' from .* fails to import \(ModuleNotFoundError: .*\); fix"):
        Registry(OPTIMIZERS, [_point("lion", "no_such_module:o")])["lion"].load()
