"""Devices that tests name."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from apo_bench.execution.process import open_device
from apo_bench.problem.precision import PrecisionPolicy
from apo_bench.records.spec import Device, Precision

CPU = torch.device("cpu")


def policy_for(model: nn.Module, precision: Precision = Precision.FP32) -> PrecisionPolicy:
    """A precision on the CPU: fp64 in place of fp32 for a model in float64."""
    is_double = any(parameter.dtype is torch.float64 for parameter in model.parameters())
    return PrecisionPolicy(Precision.FP64 if is_double and precision is Precision.FP32 else precision, CPU)


@contextlib.contextmanager
def card_of_a_run() -> Iterator[torch.device]:
    """The first card as a run's process opens it, with deterministic algorithms, for tests that demand equality."""
    cudnn, filling = torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined] # a property of the module
    yield open_device(Device.CUDA, 0)
    torch.use_deterministic_algorithms(mode=False)
    torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined] # a property of the module
    torch.backends.cudnn.benchmark = cudnn
