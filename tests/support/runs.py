"""A task that trains in a moment, and its runs."""

from typing import Any

import torch
from support.devices import CPU
from torch import nn

from apo_bench.data.batches import crop_and_flip
from apo_bench.data.examples import Dataset, Examples, Splits
from apo_bench.plugins.metrics import Accuracy
from apo_bench.plugins.optimizer import resolve_hyperparameters
from apo_bench.plugins.registry import optimizers
from apo_bench.plugins.task import Task
from apo_bench.problem.objectives import CrossEntropy
from apo_bench.records.events import Event
from apo_bench.records.schedules import Constant, Schedule
from apo_bench.records.spec import Budget, Device, OptimizerSpec, Precision, RunSpec, Scalar
from apo_bench.training.result import Training
from apo_bench.training.trainer import train


def tiny_examples(seed: int, n: int) -> Examples:
    source = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 1, 8, 8, generator=source)
    return Examples((images,), images.flatten(1).argmax(dim=1) % 4)


def tiny_splits() -> Splits:
    return Splits(tiny_examples(0, 330), tiny_examples(1, 100), tiny_examples(2, 100))


def tiny_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(6 * 64, 16),
        nn.ReLU(),
        nn.Linear(16, 4),
    )


TASK = Task(
    dataset=Dataset("tiny", tiny_splits, lambda: "1"),
    model_name="cnn",
    model=tiny_model,
    objective=CrossEntropy(),
    metric=Accuracy(),
    batch_size=32,
    augmentation=crop_and_flip(1),
)
ALL = optimizers().names()


def run_spec(
    optimizer: str = "sgdm",
    *,
    precision: Precision = Precision.FP32,
    seed: int = 0,
    epochs: float = 3,
    schedule: Schedule | None = None,
    **overrides: Scalar,
) -> RunSpec:
    competitor = optimizers()[optimizer].load()
    return RunSpec(
        task="tiny",
        optimizer=OptimizerSpec(
            name=optimizer,
            hyperparameters=resolve_hyperparameters(
                competitor.hyperparameters,
                {**competitor.in_precision.get(precision, {}), **overrides},
                optimizer=optimizer,
            ),
            schedule=schedule or Constant(),
        ),
        precision=precision,
        seed=seed,
        budget=Budget(epochs=epochs),
        device=Device.CPU,
    )


def trained(
    optimizer: str = "sgdm",
    *,
    task: Task = TASK,
    events: list[Event] | None = None,
    spec: RunSpec | None = None,
    **fields: Any,
) -> Training:
    run = spec or run_spec(optimizer, **fields)
    competitor = optimizers()[run.optimizer.name].load()
    return train(run, task, competitor, CPU, (events if events is not None else []).append)


def numbers_of(training: Training) -> list[tuple[float, ...]]:
    return [(point.step, point.train_loss, point.validation_loss, point.validation) for point in training.curve]
