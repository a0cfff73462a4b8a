"""What every test may rely on."""

import fcntl
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook
from support.shell import TINY_TASK, Shell

SHAPED = (
    "apo_bench.optim.kronecker",
    "apo_bench.optim.layers",
    "apo_bench.problem.draws",
    "apo_bench.problem.objectives",
    "baselines.kfac.damping",
    "baselines.kfac.factors",
)
"""Modules whose declared shapes are checked in every call that a test makes."""
if importlib.util.find_spec("beartype"):  # the acceptance of a card needs pytest and pytest-timeout, no more
    install_import_hook(SHAPED, "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First the tests that need an empty machine, then those with a longer limit than usual: others run beside them."""
    items.sort(key=lambda item: (not item.get_closest_marker("timing"), not item.get_closest_marker("timeout")))


@pytest.fixture(autouse=True)
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A test that measures time waits until the tests of other workers are over, and lets none begin beside it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    folder = tmp_path_factory.getbasetemp().parent
    kind = fcntl.LOCK_EX if request.node.get_closest_marker("timing") else fcntl.LOCK_SH
    with (folder / "gate.lock").open("w") as gate, (folder / "room.lock").open("w") as room:
        fcntl.flock(gate, fcntl.LOCK_EX)  # who waits for an empty room keeps others from entering
        fcntl.flock(room, kind)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """No test depends on what ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """The command line in an empty folder."""
    made = Shell(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def tiny_shell(shell: Shell) -> Shell:
    """The command line with a task ``tiny`` that trains in a moment."""
    shell.install("tiny_task", TINY_TASK, "[apo_bench.tasks]\ntiny = tiny_task:tiny\n")
    return shell
