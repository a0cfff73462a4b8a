"""A stand-in for the module `wandb`."""

import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest


class CommError(Exception):
    """As wandb's, when it cannot be reached."""


class Wandb(types.ModuleType):
    """Stands for the module: remembers runs by id, and refuses what it is told to.

    Attributes:
        finished: Exit codes of the runs by id.
        logged: What each run logged, by step.
        config: Its settings.
        refuse: Told of each call with the run's id; may raise.
    """

    def __init__(self) -> None:
        super().__init__("wandb")
        self.finished: dict[str, list[int]] = {}
        self.logged: dict[str, dict[int | None, dict[str, Any]]] = {}
        self.config: dict[str, dict[str, Any]] = {}
        self.refuse: Callable[[str, str], None] = lambda call, run: None
        self.Settings = self.Table = mock.Mock()
        self.Artifact = mock.MagicMock()

    def init(self, **fields: Any) -> Any:
        name = fields["id"]
        self.refuse("init", name)
        run = mock.Mock()
        config = self.config.setdefault(name, {})

        def log(values: dict[str, Any], step: int | None = None) -> None:
            self.refuse("log", name)
            self.logged.setdefault(name, {})[step] = values

        def update(values: dict[str, Any], **_: bool) -> None:
            self.refuse("config", name)
            config.update(values)

        run.log.side_effect, run.config.update.side_effect = log, update
        run.summary.update.side_effect = lambda *_, **__: self.refuse("summary", name)

        def finish(exit_code: int = 0) -> None:
            self.refuse("finish", name)
            self.finished.setdefault(name, []).append(exit_code)

        run.finish.side_effect = finish
        return run


def pretend(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    """Put the stand-in in the module's place."""
    made = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", made)
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: made if name == "wandb" else find(name, *more))
    return made
