import torch
from torch import nn

from apo_bench import Accuracy, CrossEntropy, Dataset, Examples, Splits, Task


def examples(n, seed):
    angle = torch.rand(n, generator=torch.Generator().manual_seed(seed)) * 6.283
    upper = (angle < 3.1416).float()
    points = torch.stack([angle.cos() + 1 - upper, angle.sin() + 0.5 * (1 - upper)], dim=1)
    return Examples((points,), upper.long())


def moons():
    """Two interleaved half circles."""
    return Task(
        dataset=Dataset("moons", lambda: Splits(examples(1000, 0), examples(200, 1), examples(500, 2)), lambda: "1"),
        model_name="mlp",
        model=lambda: nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2)),
        objective=CrossEntropy(),
        metric=Accuracy(),
        batch_size=50,
    )
