"""What a model must be to be trained here: one process, one format, and parameters that stay."""

import copy
import os
from pathlib import Path

import pytest
import torch
import torch.distributed
from support.devices import CPU
from support.problems import WEIGHTS, problem_of, some_batch, some_network
from torch import nn

from apo_bench.errors import UsageError
from apo_bench.optim.apo_lr import APOLR
from apo_bench.problem.objectives import CrossEntropy
from apo_bench.problem.precision import PrecisionPolicy
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import TorchRule
from apo_bench.records.spec import Precision
from baselines.kfac import KFAC
from baselines.kfac.settings import Settings


def _problem(model: nn.Module) -> Problem:
    return Problem(model, CrossEntropy(), PrecisionPolicy(Precision.FP32, CPU), lambda: some_batch(99))


@pytest.fixture
def one_rank(tmp_path: Path) -> object:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield None
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("where", ["whole", "part"])
def test_a_model_for_data_parallel_training_is_refused(where: str) -> None:
    network = some_network()
    if where == "whole":
        model: nn.Module = nn.parallel.DistributedDataParallel(network)
    else:
        network[5] = nn.parallel.DistributedDataParallel(network[5])
        model = network
    with pytest.raises(UsageError, match="data parallel training is not supported, and the model is a Distributed"):
        _problem(model)


def test_another_wrapper_is_refused() -> None:
    with pytest.raises(UsageError, match="the model is a DataParallel"):
        _problem(nn.DataParallel(some_network()))


def test_several_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain module on each rank drifts apart as well: nothing averages its gradients."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(UsageError, match=r"torch.distributed has 2 ranks: replicas would drift apart; use one process"):
        _problem(some_network())


def test_a_parameter_that_is_unfrozen_too_late_is_refused() -> None:
    network = some_network()
    network[5].weight.requires_grad_(False)
    problem = _problem(network)
    rule = TorchRule(problem, torch.optim.SGD(problem.parameters, lr=0.1))
    rule.step(some_batch(0))
    network[5].weight.requires_grad_(True)
    with pytest.raises(UsageError, match=r"'5.weight' became trainable after the optimizer was made"):
        rule.step(some_batch(1))


def test_a_parameter_that_is_frozen_too_late_is_refused() -> None:
    network = some_network()
    problem = _problem(network)
    rule = APOLR(problem, torch.optim.SGD(problem.parameters, lr=0.1), weights=WEIGHTS)
    rule.step(some_batch(0))
    network[5].weight.requires_grad_(False)
    with pytest.raises(UsageError, match="was frozen or removed after the optimizer was made"):
        rule.step(some_batch(1))


def test_a_layer_that_is_added_too_late_is_found_at_the_next_evaluation() -> None:
    network = some_network()
    problem = _problem(network)
    problem.check_parameters()
    network.append(nn.Linear(3, 3))
    with pytest.raises(UsageError, match=r"'6.weight' became trainable"):
        problem.check_parameters()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it
@pytest.mark.parametrize("how", ["whole", "part", "in place"])
def test_kfac_sees_the_layers_of_a_compiled_model(how: str) -> None:
    losses = []
    for compiled in (False, True):
        network = copy.deepcopy(some_network(dropout=0.0))
        model: nn.Module = network
        if compiled and how == "whole":
            model = torch.compile(network, backend="eager")  # type: ignore[assignment] # a module that is called alike
        elif compiled and how == "part":
            network[5] = torch.compile(network[5], backend="eager")  # type: ignore[assignment] # likewise
        elif compiled:
            network.compile(backend="eager")
        rule = KFAC(_problem(model), Settings(lr=0.1, damping=0.1))
        losses.append([float(rule.step(some_batch(seed)).loss) for seed in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert losses[0][2] < losses[0][0] + 1.0


def test_a_model_in_another_format_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'0.weight' is torch.float64, and precision 'fp32' stores torch.float32"):
        _problem(some_network().double())
    problem_of(some_network().double(), dtype=torch.float64)
