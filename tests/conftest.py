"""What every test may rely on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from shell import TINY_TASK, Shell


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
