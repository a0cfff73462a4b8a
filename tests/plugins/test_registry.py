"""The registry: names, suggestions, conflicts and broken plugins."""

import sys
import types
from importlib.metadata import EntryPoint

import pytest

from apo_bench.errors import UsageError
from apo_bench.plugins.optimizer import Competitor
from apo_bench.plugins.registry import OPTIMIZERS, TASKS, Registry


def _point(name: str, value: str = "m:o") -> EntryPoint:
    return EntryPoint(name, value, OPTIMIZERS)


def test_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"unknown optimizer 'lyon'; did you mean 'lion'\?"):
        Registry(OPTIMIZERS, [_point("lion")])["lyon"]


def test_two_registrations_of_one_name_are_neither_and_stop_nothing_else() -> None:
    registry = Registry(OPTIMIZERS, [_point("lion"), _point("adam"), _point("lion", "other:o"), _point("lion")])
    assert registry.names() == ("adam",)
    assert "lion" in registry
    with pytest.raises(UsageError, match="'lion' is registered by both"):
        registry["lion"]
    assert [line.partition(" is ")[0] for line in registry.refused] == ["optimizer 'lion'"]


@pytest.mark.parametrize("name", ["../../etc", "a|b", "", "A", "x" * 81, "a\nb", "-x"])
def test_hostile_names_are_refused_and_stop_nothing_else(name: str) -> None:
    registry = Registry(OPTIMIZERS, [_point(name), _point("adam")])
    assert registry.names() == ("adam",)
    with pytest.raises(UsageError, match="not usable"):
        registry[name]
    (line,) = registry.refused
    assert len(line) < 250


def test_a_plugin_that_fails_to_import_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"'lion' from .* fails to import \(ModuleNotFoundError: .*\); fix"):
        Registry(OPTIMIZERS, [_point("lion", "no_such_module:o")])["lion"].load()


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("odd_plugin")
    monkeypatch.setitem(sys.modules, "odd_plugin", module)
    return module


class Bare:
    lr = 0.1


@pytest.mark.parametrize(
    ("registered", "message"),
    [
        (Bare, "'o' from unknown unknown is the class Bare; register a Competitor"),
        (None, "is a NoneType; register a Competitor"),
        (
            Competitor(Bare, lambda problem, h: pytest.fail("is not built")),
            "its hyperparameters Bare are no dataclass; put",
        ),
    ],
)
def test_what_is_no_competitor_is_one_line(odd: types.ModuleType, registered: object, message: str) -> None:
    odd.o = registered  # type: ignore[attr-defined] # a plugin's name
    with pytest.raises(UsageError, match=message):
        Registry(OPTIMIZERS, [_point("o", "odd_plugin:o")])["o"].load()


def _fails() -> None:
    raise KeyError("here")


@pytest.mark.parametrize(
    ("registered", "message"),
    [
        (3, "is a int; register a function that returns a Task"),
        (lambda: "hello", "makes a str; its function has to return a Task"),
        (lambda: None, "makes a NoneType; its function has to return a Task"),
        (_fails, r"cannot be made \(KeyError: 'here'\); fix or uninstall"),
        (lambda n: n, r"cannot be made \(TypeError: .*missing 1 required positional argument: 'n'\)"),
    ],
)
def test_what_makes_no_task_is_one_line(odd: types.ModuleType, registered: object, message: str) -> None:
    odd.t = registered  # type: ignore[attr-defined] # a plugin's name
    with pytest.raises(UsageError, match=message):
        Registry(TASKS, [EntryPoint("t", "odd_plugin:t", TASKS)])["t"].task()
