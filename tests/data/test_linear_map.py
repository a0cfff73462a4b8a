"""The linear map of condition number 1e10, and that the training loop takes it with every kind of optimizer."""

import numpy as np
import pytest
import torch

from apo_bench.data import linear_map
from apo_bench.plugins.registry import optimizers
from apo_bench.records.spec import Budget, Device, OptimizerSpec, Precision, RunSpec
from apo_bench.tasks.linear import linear_map_two_layer
from apo_bench.training.trainer import prepare


def test_condition_number() -> None:
    singular = np.linalg.svd(linear_map.matrix(), compute_uv=False)
    assert singular[0] == pytest.approx(1.0)
    assert singular[0] / singular[-1] == pytest.approx(1e10, rel=0.01)


def test_targets_are_the_map_of_the_rounded_inputs() -> None:
    a = torch.from_numpy(linear_map.matrix())
    splits = linear_map.load()
    for part in (splits.train, splits.validation, splits.test):
        (inputs,) = part.inputs
        assert inputs.dtype == torch.float32
        torch.testing.assert_close(part.targets, inputs.double() @ a.T, rtol=1e-14, atol=1e-15)


def test_splits_are_deterministic_and_independent() -> None:
    one, other = linear_map.load(), linear_map.load()
    assert torch.equal(one.train.inputs[0], other.train.inputs[0])
    assert torch.equal(one.train.targets, other.train.targets)
    parts = [part.inputs[0] for part in (one.train, one.validation, one.test)]
    joined = torch.cat(parts, 1)
    off_diagonal = torch.corrcoef(joined.T) - torch.eye(18)
    assert off_diagonal.abs().max() < 0.15  # 153 correlations of standard deviation 0.03
    assert torch.cat(parts).unique(dim=0).shape[0] == 3000
    torch.testing.assert_close(joined.mean(0), torch.zeros(18), rtol=0, atol=0.15)


def test_the_digest_changes_with_the_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    before = linear_map.digest()
    assert linear_map.digest() == before
    monkeypatch.setattr(linear_map, "_SEED", 1)
    linear_map.digest.cache_clear()
    assert linear_map.digest() != before
    linear_map.digest.cache_clear()


def test_the_trivial_predictor_is_zero() -> None:
    task = linear_map_two_layer()
    targets = linear_map.load().validation.targets
    assert task.trivial == pytest.approx(0.5 * float(targets.square().sum()) / len(targets), abs=5e-5)


@pytest.mark.parametrize("name", ["sgdm", "adam", "kfac", "apo-p", "apo-lr-sgdm"])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP64])
def test_the_training_loop_takes_float64_targets(name: str, precision: Precision) -> None:
    task = linear_map_two_layer()
    run = RunSpec(
        task="linear-map-1e10.two-layer",
        optimizer=OptimizerSpec(name=name, hyperparameters={}),
        precision=precision,
        seed=0,
        budget=Budget(epochs=20),
        device=Device.CPU,
    )
    loop = prepare(run, task, optimizers()[name].load(), torch.device("cpu"))
    before, _ = loop.validate()
    loop.block(20)
    after, metric = loop.validate()
    assert after < before
    assert metric == pytest.approx(after)
