"""Public second-order optimizers, as they are, for `benchmarks/step_costs.py`: those that are installed.

Each takes torch's own training step (`zero_grad`, forward, backward, step), with the intervals that ours have in that
table. The settings do not matter for the cost of a step; the rate is too small to move anything.

    pip install pytorch-optimizer singd git+https://github.com/gpauloski/kfac-pytorch
"""

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from apo_bench import Batch

_RATE = 1e-4


def peers(make: Callable[[], nn.Module], batch: Batch, interval: int, inverses: int) -> Iterator[tuple[str, Any, int]]:
    """Yield name, a step, and how many steps a cycle has, for each that is installed.

    Args:
        make: Makes the network.
        batch: Images and labels.
        interval: Steps between two estimates of the factors.
        inverses: Steps between two inversions; of optimizers that have one interval, it is ``interval``.
    """
    found: dict[str, tuple[str, Callable[[nn.Module], Callable[[], object]], int]] = {
        "SOAP (pytorch-optimizer)": ("pytorch_optimizer", lambda model: _soap(model, interval), interval),
        "KFAC (kfac-pytorch)": ("kfac", lambda model: _kfac_pytorch(model, interval, inverses), inverses),
        "SINGD, dense (singd)": ("singd", lambda model: _singd(model, interval), interval),
    }
    for name, (module, build, cycle) in found.items():
        if importlib.util.find_spec(module) is not None:
            model = make()
            with _quiet():
                update = build(model)
            yield name, _step(model, batch, update), cycle


def _step(model: nn.Module, batch: Batch, update: Callable[[], object]) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad()
        F.cross_entropy(model(*batch.inputs), batch.targets).backward()
        update()

    return step


def _soap(model: nn.Module, interval: int) -> Callable[[], object]:
    from pytorch_optimizer import SOAP

    return SOAP(model.parameters(), lr=_RATE, precondition_frequency=interval).step


def _kfac_pytorch(model: nn.Module, interval: int, inverses: int) -> Callable[[], object]:
    from kfac.preconditioner import KFACPreconditioner

    model.to(memory_format=torch.contiguous_format)  # it takes no other
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    sgd = torch.optim.SGD(model.parameters(), lr=_RATE, momentum=0.9, foreach=True)
    preconditioner = KFACPreconditioner(model, factor_update_steps=interval, inv_update_steps=inverses, lr=_RATE)

    def update() -> None:
        preconditioner.step()
        sgd.step()

    return update


def _singd(model: nn.Module, interval: int) -> Callable[[], object]:
    from singd.optim.optimizer import SINGD

    # only layers that it supports; the others step by SGD
    inside = [
        parameter
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        for parameter in module.parameters(recurse=False)
    ]
    own = {id(parameter) for parameter in inside}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in own]
    optimizers: list[torch.optim.Optimizer] = [SINGD(model, params=inside, lr=_RATE, T=interval)]
    if rest:
        optimizers.append(torch.optim.SGD(rest, lr=_RATE, momentum=0.9, foreach=True))

    def update() -> None:
        for optimizer in optimizers:
            optimizer.step()

    return update


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What they print when they are made is nothing to the reader."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
