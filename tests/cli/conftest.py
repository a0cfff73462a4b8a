"""A task whose cost is counted by hand, for several commands."""

import pytest
from support.shell import Shell

COUNTED = '''
import torch
from torch import nn
from apo_bench import Accuracy, Batch, CrossEntropy, Dataset, Task
from apo_bench.errors import DataError


def gone():
    raise DataError("the moon is not in the sky; wait")


def blank(n):
    return Batch((torch.zeros(n, 8),), torch.zeros(n, dtype=torch.int64))


def moon():
    """A task whose data cannot be had."""
    return Task(
        dataset=Dataset("moon", gone, gone, sizes=(512, 20, 30), blank=blank),
        model_name="linear",
        model=lambda: nn.Linear(8, 2),
        objective=CrossEntropy(),
        metric=Accuracy(),
        batch_size=32,
        source="[L] a test",
        trivial=50.0,
    )
'''


@pytest.fixture
def moon_shell(tiny_shell: Shell) -> Shell:
    tiny_shell.install("moon_task", COUNTED, "[apo_bench.tasks]\nmoon = moon_task:moon\n")
    return tiny_shell
