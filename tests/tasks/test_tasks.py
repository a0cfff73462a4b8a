"""Every task that runs at scale ``local`` learns: its loss falls, and it beats who never looks at the inputs."""

import math
import time

import pytest
import torch
from support.runs import run_spec
from support.shell import Shell

from apo_bench.planning.grid import Waiting, unroll
from apo_bench.plugins.optimizer import resolve_hyperparameters
from apo_bench.plugins.registry import optimizers, tasks
from apo_bench.records.facts import Direction
from apo_bench.records.spec import Budget, Device, OptimizerSpec, RunSpec, Scalar, Scale
from apo_bench.suites import suite
from apo_bench.training.result import Training
from apo_bench.training.trainer import train

MARGINS = {
    "concrete.mlp": (20, 3e-3, 0.4),
    "fashion-mnist-20k.alexnet-w16": (0.5, 1e-3, 3.0),
    "fashion-mnist-20k.autoencoder": (1.0, 1e-3, 0.95),
    "fashion-mnist-20k.lenet": (0.5, 1e-3, 5.0),
    "fashion-mnist-20k.mlp-1000": (0.5, 1e-3, 6.0),
    "fashion-mnist-20k.resnet18-w8": (0.25, 1e-3, 4.0),
    "fashion-mnist-20k.vgg16-w8": (0.5, 1e-3, 3.0),
    "libreoffice-de-en.transformer-small": (0.5, 2e-3, 1.5),
    "linear-map-1e10.two-layer": (500, 1e-2, 1e-3),
    "meats.mlp": (200, 3e-3, 0.3),
}
"""Epochs and learning rate of Adam, and the factor by which the trivial predictor is beaten on validation data."""


def _train(task: str, optimizer: str, epochs: float, **hyperparameters: Scalar) -> Training:
    competitor = optimizers()[optimizer].load()
    resolved = resolve_hyperparameters(competitor.hyperparameters, hyperparameters, optimizer=optimizer)
    base = run_spec()
    run = RunSpec(
        task=task,
        optimizer=OptimizerSpec(name=optimizer, hyperparameters=resolved),
        precision=base.precision,
        seed=0,
        budget=Budget(epochs=epochs),
        device=base.device,
    )
    return train(run, tasks()[task].load()(), competitor, torch.device("cpu"))


def test_the_margins_cover_every_local_task_that_has_a_trivial_predictor() -> None:
    local = {entry.task for entry in suite("all", Scale.LOCAL).tasks}
    assert {name for name in local if tasks()[name].load()().trivial} == set(MARGINS)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MARGINS))
def test_a_local_task_beats_the_trivial_predictor(name: str) -> None:
    epochs, rate, margin = MARGINS[name]
    task = tasks()[name].load()()
    assert task.trivial is not None
    done = _train(name, "adam", epochs, lr=rate)
    assert done.scores.validation is not None
    assert math.isfinite(done.scores.validation)
    if task.metric.direction is Direction.MAXIMIZE:
        assert done.scores.validation > margin * task.trivial
    else:
        assert done.scores.validation < margin * task.trivial
    if len(done.curve) > 1:
        assert done.curve[-1].train_loss < done.curve[0].train_loss


@pytest.mark.timing
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_everything_runs_at_smoke(shell: Shell) -> None:
    """The first suite within five minutes; then every other, and every optimizer of the package, in fp32 and fp16."""
    settings = ("--scale", "smoke", "--workers", "2", "--yes")
    start = time.monotonic()
    done = shell("run", "--suite", "classification", *settings)
    assert time.monotonic() - start < 300.0
    assert "32 of 32 runs have a result" in done.stdout
    done = shell("run", "--suite", "all", *settings, timeout=1400)
    total = len(_runs_of_all())
    assert f"{total} of {total} runs have a result." in done.stdout
    assert "failed" not in done.stdout


def _runs_of_all() -> tuple[RunSpec | Waiting, ...]:
    chosen = suite("all", Scale.SMOKE)
    competitors = {entry.optimizer: optimizers()[entry.optimizer].load() for entry in chosen.all_competitors()}
    return unroll(chosen, competitors, Device.CPU).runs
