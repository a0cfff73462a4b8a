"""Poorly conditioned regression (E1): a linear map learned by a linear network, a loss that is not convex.

All 1,000 examples are one batch, so an epoch is a step and the curve has a point every 50 of them.
"""

from torch import nn

from apo_bench.data.linear_map import LINEAR_MAP
from apo_bench.models.mlp import linear
from apo_bench.plugins.metrics import MeanLoss
from apo_bench.plugins.task import Task
from apo_bench.problem.objectives import SquaredError


def linear_map_two_layer() -> Task:
    """Linear layers 6 to 6 to 10 without biases: as many hidden units as the map has rank, so that 0 is possible."""
    return Task(
        dataset=LINEAR_MAP,
        model_name="two-layer-linear",
        model=_two_layers,
        objective=SquaredError(),
        metric=MeanLoss(SquaredError(), "half squared error"),
        batch_size=1_000,
        reference_epoch_seconds=0.0008,
        source="[P] E1, set-up [R]",
        evaluation_interval=50,
        trivial=0.5188,
    )


def _two_layers() -> nn.Sequential:
    return linear([6, 6, 10])
