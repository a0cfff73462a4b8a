"""Small problems in float64."""

import torch
from support.devices import policy_for
from torch import nn

from apo_bench.data.examples import Batch
from apo_bench.optim.proximal import ProximalWeights
from apo_bench.problem.objectives import CrossEntropy
from apo_bench.problem.problem import Problem
from apo_bench.records.spec import Precision

WEIGHTS = ProximalWeights(fsd=0.7, wsd=0.3)


def some_network(*, dropout: float = 0.3) -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(64, 3)
    )


def some_batch(seed: int, dtype: torch.dtype = torch.float32) -> Batch:
    source = torch.Generator().manual_seed(seed)
    images = torch.randn(16, 1, 6, 6, generator=source).to(dtype)
    return Batch((images,), torch.randint(0, 3, (16,), generator=source))


def problem_of(
    network: nn.Module, precision: Precision = Precision.FP32, dtype: torch.dtype = torch.float32
) -> Problem:
    policy = policy_for(network, precision)
    policy.prepare(network)
    return Problem(network, CrossEntropy(), policy, lambda: some_batch(99, dtype))
