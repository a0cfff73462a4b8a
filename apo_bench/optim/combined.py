"""Several optimizers as one, for methods that handle only some kinds of parameters."""

from collections.abc import Callable
from typing import Any

import torch

from apo_bench.errors import UsageError
from apo_bench.problem.closure import take_step


class Combined(torch.optim.Optimizer):
    """Optimizers of disjoint parameters, used as one `torch.optim.Optimizer`.

    Groups and state are those of the parts, not copies: a learning rate set here is the part's.

    >>> weight, bias = torch.ones(2, 2, requires_grad=True), torch.ones(2, requires_grad=True)
    >>> both = Combined(torch.optim.Muon([weight], lr=0.02), torch.optim.AdamW([bias], lr=3e-4))
    >>> [group["lr"] for group in both.param_groups]
    [0.02, 0.0003]

    Args:
        optimizers: The parts, in the order of their groups.

    Raises:
        ValueError: Two of them hold the same parameter (torch's own message).
    """

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        groups = [group for part in optimizers for group in part.param_groups]
        super().__init__(groups, {})
        for part in optimizers:
            self.state.update(part.state)
        self.optimizers = optimizers
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Let every part step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.optimizers:
            take_step(part)
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Only while the parts are put together.

        Raises:
            UsageError: Afterwards: a group could no longer be told from others.
        """
        if hasattr(self, "optimizers"):
            raise UsageError("add the group to one of the optimizers before they are combined")
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "optimizers": self.optimizers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Give the parts this state and these groups, which loading and copying replace."""
        groups = iter(self.param_groups)
        for part in self.optimizers:
            own = [next(groups) for _ in part.param_groups]
            part.__setstate__({"state": self.state, "param_groups": own})


def optimizers_of_groups(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """Return the optimizer that steps each parameter group; for all but `Combined` the optimizer itself."""
    if isinstance(optimizer, Combined):
        return [owner for part in optimizer.optimizers for owner in optimizers_of_groups(part)]
    return [optimizer for _ in optimizer.param_groups]
