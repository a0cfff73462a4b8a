"""Devices that tests name."""

import contextlib
from collections.abc import Iterator

import torch

from apo_bench.execution.process import open_device
from apo_bench.records.spec import Device

CPU = torch.device("cpu")


@contextlib.contextmanager
def card_of_a_run() -> Iterator[torch.device]:
    """The first card as a run's process opens it, with deterministic algorithms, for tests that demand equality."""
    cudnn, filling = torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined] # a property of the module
    yield open_device(Device.CUDA, 0)
    torch.use_deterministic_algorithms(mode=False)
    torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined] # a property of the module
    torch.backends.cudnn.benchmark = cudnn
