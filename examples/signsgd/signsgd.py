import dataclasses

import torch

from apo_bench import Competitor, Search, TorchRule, hyperparameter


class SignSGD(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad.sign(), alpha=group["lr"])


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """SignSGD: the sign of the gradient."""

    lr: float = hyperparameter(1e-3, search=Search(1e-5, 1e-1, log=True), symbol="η")


signsgd = Competitor(
    Hyperparameters,
    lambda problem, h: TorchRule(problem, SignSGD(problem.parameters, {"lr": h.lr})),
    "Bernstein et al., 2018",
)
