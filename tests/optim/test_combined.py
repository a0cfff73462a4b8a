"""Several optimizers as one."""

import copy

import pytest
import torch
from torch import Tensor, nn

from apo_bench.errors import UsageError
from apo_bench.optim.combined import Combined, optimizers_of_groups


def _network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def _parts(network: nn.Module) -> tuple[torch.optim.Optimizer, ...]:
    parameters = list(network.parameters())
    return (
        torch.optim.Muon([p for p in parameters if p.ndim == 2], lr=0.02),
        torch.optim.AdamW([p for p in parameters if p.ndim == 1], lr=1e-2),
    )


def _gradients(network: nn.Module, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    network.zero_grad()
    network(torch.randn(8, 5, generator=source)).square().mean().backward()


def _train(network: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> list[Tensor]:
    for seed in seeds:
        _gradients(network, seed)
        optimizer.step()
    return [parameter.detach().clone() for parameter in network.parameters()]


def _assert_same(one: list[Tensor], other: list[Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_it_steps_as_its_parts_do() -> None:
    apart, together = _network(), _network()
    parts = _parts(apart)
    for seed in range(5):
        _gradients(apart, seed)
        for part in parts:
            part.step()
    expected = [parameter.detach().clone() for parameter in apart.parameters()]
    _assert_same(_train(together, Combined(*_parts(together)), range(5)), expected)


@pytest.mark.parametrize("depth", [1, 2])
def test_it_continues_from_a_saved_state(depth: int) -> None:
    def made(network: nn.Module) -> torch.optim.Optimizer:
        parts = _parts(network)
        for _ in range(depth):
            parts = (Combined(*parts),)
        return parts[0]

    network = _network()
    optimizer = made(network)
    _train(network, optimizer, range(3))
    saved = copy.deepcopy((network.state_dict(), optimizer.state_dict()))
    expected = _train(network, optimizer, range(3, 6))

    other = _network()
    continued = made(other)
    other.load_state_dict(saved[0])
    continued.load_state_dict(saved[1])
    _assert_same(_train(other, continued, range(3, 6)), expected)


def test_it_takes_over_the_state_its_parts_already_have() -> None:
    network, other = _network(), _network()
    parts = _parts(network)
    for seed in range(3):
        _gradients(network, seed)
        for part in parts:
            part.step()
    expected = _train(other, Combined(*_parts(other)), range(6))
    _assert_same(_train(network, Combined(*parts), range(3, 6)), expected)


def test_a_copy_steps_on_parameters_of_its_own() -> None:
    network = _network()
    optimizer = Combined(*_parts(network))
    start = _train(network, optimizer, range(3))
    twin = copy.deepcopy(optimizer)
    for group in twin.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    twin.step()
    _assert_same([parameter.detach() for parameter in network.parameters()], start)
    moved = [parameter for group in twin.param_groups for parameter in group["params"]]
    still = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert not any(torch.equal(one, other) for one, other in zip(moved, still, strict=True))


def test_a_learning_rate_set_on_it_is_its_parts() -> None:
    network = _network()
    optimizer = Combined(*_parts(network))
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    start = [parameter.detach().clone() for parameter in network.parameters()]
    _assert_same(_train(network, optimizer, range(2)), start)


def test_groups_know_their_optimizer() -> None:
    parts = _parts(_network())
    owners = optimizers_of_groups(Combined(Combined(*parts)))
    assert owners == list(parts)


def test_a_parameter_of_two_optimizers_is_refused() -> None:
    network = _network()
    with pytest.raises(ValueError, match="more than one parameter group"):
        Combined(torch.optim.SGD(network.parameters(), lr=0.1), *_parts(network))


def test_a_group_added_later_is_refused() -> None:
    optimizer = Combined(*_parts(_network()))
    with pytest.raises(UsageError, match="before they are combined"):
        optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})


def test_a_closure_is_evaluated_once() -> None:
    network = _network()
    optimizer = Combined(*_parts(network))
    calls = []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        return 1.5

    assert optimizer.step(closure) == 1.5
    assert calls == [True]
