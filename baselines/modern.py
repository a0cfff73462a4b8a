"""Modern optimizers: torch's own Muon, and kept libraries for the others."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from apo_bench import (
    Batch,
    Competitor,
    Problem,
    Search,
    StepResult,
    TorchRule,
    UpdateRule,
    UsageError,
    hyperparameter,
)
from apo_bench.optim import Combined
from baselines.first_order import EPSILON_OF_FP16

_RECALIBRATION_BATCHES = 50
"""Training batches from which batch normalization takes its statistics at averaged parameters, as the library's own
examples do."""


@dataclasses.dataclass(frozen=True)
class Muon:
    """Muon on hidden matrices, AdamW on all other parameters (convolutions, biases, embeddings, the last layer)."""

    lr: float = hyperparameter(0.0213, search=Search(1e-3, 0.1, log=True), symbol="η")
    momentum: float = hyperparameter(0.95, symbol="μ")
    adamw_lr: float = hyperparameter(1.36e-3, search=Search(1e-5, 1e-2, log=True), symbol="α")
    beta1: float = hyperparameter(0.9, symbol="β₁")
    beta2: float = hyperparameter(0.95, symbol="β₂")
    eps: float = hyperparameter(1e-8, symbol="ε")
    weight_decay: float = hyperparameter(0.01, search=Search(1e-4, 1.0, log=True), symbol="λ")


@dataclasses.dataclass(frozen=True)
class SOAP:
    """SOAP: Adam in the eigenbasis of Shampoo's preconditioner; its first step only fills the preconditioner."""

    lr: float = hyperparameter(1.08e-3, search=Search(1e-4, 3e-2, log=True), symbol="η")
    beta1: float = hyperparameter(0.95, symbol="β₁")
    beta2: float = hyperparameter(0.95, symbol="β₂")
    eps: float = hyperparameter(1e-8, symbol="ε")
    weight_decay: float = hyperparameter(0.01, search=Search(1e-4, 1.0, log=True), symbol="λ")
    interval: int = hyperparameter(10, symbol="f")


@dataclasses.dataclass(frozen=True)
class ScheduleFreeAdamW:
    """Schedule-Free AdamW: judged at an average of its iterates instead of a decayed learning rate."""

    lr: float = hyperparameter(0.0128, search=Search(1e-4, 3e-2, log=True), symbol="γ")
    beta1: float = hyperparameter(0.9, symbol="β₁")
    beta2: float = hyperparameter(0.999, symbol="β₂")
    eps: float = hyperparameter(1e-8, symbol="ε")
    weight_decay: float = hyperparameter(0.0, search=Search(1e-6, 1e-1, log=True), symbol="λ")
    warmup_steps: int = hyperparameter(0)


class ScheduleFreeRule:
    """An optimizer of the library `schedulefree` as an update rule: it trains at y and is judged at x.

    It follows no schedule: that is its point.

    Args:
        problem: What is minimized.
        optimizer: With the library's ``train()`` and ``eval()``, which move the parameters between y and x.
    """

    def __init__(self, problem: Problem, optimizer: Any) -> None:
        self.problem = problem
        self.optimizer = optimizer
        self._rule = TorchRule(problem, optimizer)
        optimizer.train()

    def step(self, batch: Batch) -> StepResult:
        """Step at y."""
        return self._rule.step(batch)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Hold x, with statistics of batch normalization made at x; afterwards everything is as before, to the bit.

        The way back by the library's ``train()`` would round, and in 16 bit every evaluation would move the training.
        """
        problem = self.problem
        training = [parameter.detach().clone() for parameter in problem.parameters]
        with problem.lookahead():
            self.optimizer.eval()
            try:
                self._recalibrate()
                yield
            finally:
                self.optimizer.train()
                with torch.no_grad():
                    for parameter, value in zip(problem.parameters, training, strict=True):
                        parameter.copy_(value)

    @torch.no_grad()
    def _recalibrate(self) -> None:
        model = self.problem.model
        if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):  # noqa: SLF001 - the public base class of all
            return
        for _ in range(_RECALIBRATION_BATCHES):
            self.problem.outputs(self.problem.draw())  # in the modes of training

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state: z, the mean square and the counters; the model holds y."""
        return self._rule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self._rule.load_state_dict(state)

    def state_tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """All tensors in the optimizer's state."""
        return self._rule.state_tensors()


class SOAPRule(TorchRule):
    """The SOAP of `pytorch_optimizer` as an update rule that says when it refreshes its eigenbasis.

    Args:
        problem: What is minimized.
        optimizer: The library's SOAP, with the same interval in every parameter group.
    """

    @property
    def steps(self) -> int:
        """Steps taken, as the library counts them: in the parameter groups, from the first step on."""
        steps: int = self.optimizer.param_groups[0].get("step", 0)
        return steps

    @steps.setter
    def steps(self, steps: int) -> None:
        for group in self.optimizer.param_groups:
            group["step"] = steps

    @property
    def intervals(self) -> Mapping[str, int]:
        """Steps between two refreshes of the eigenbasis, which end the step; the very first step makes it instead."""
        return {"basis": self.optimizer.param_groups[0]["precondition_frequency"]}


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Return trainable matrices between the embeddings and the last linear layer of a model, those two left out.

    Which layer is last is told by the order in which the model's layers were registered.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    outside = linear[-1:] + [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    left_out = {id(module.weight) for module in outside}
    candidates = [p for p in model.parameters() if p.requires_grad and id(p) not in left_out]
    return [p for p in candidates if p.ndim == 2]  # noqa: PLR2004 - a matrix has two dimensions


def _build_muon(problem: Problem, h: Muon) -> UpdateRule:
    hidden = hidden_matrices(problem.model)
    if not hidden:
        raise UsageError("muon: this model has no hidden matrix, so that all of it would be AdamW's; use adamw")
    chosen = {id(parameter) for parameter in hidden}
    parts: list[torch.optim.Optimizer] = [
        torch.optim.Muon(hidden, lr=h.lr, momentum=h.momentum, weight_decay=h.weight_decay),
        torch.optim.AdamW(
            [parameter for parameter in problem.parameters if id(parameter) not in chosen],
            lr=h.adamw_lr,
            betas=(h.beta1, h.beta2),
            eps=h.eps,
            weight_decay=h.weight_decay,
            foreach=True,
        ),
    ]
    return TorchRule(problem, Combined(*parts))


def _build_soap(problem: Problem, h: SOAP) -> UpdateRule:
    try:
        import pytorch_optimizer  # takes half a second
    except ImportError as error:
        raise _missing("pytorch_optimizer", "soap", error) from error
    return SOAPRule(
        problem,
        pytorch_optimizer.SOAP(
            problem.parameters,
            lr=h.lr,
            betas=(h.beta1, h.beta2),
            eps=h.eps,
            weight_decay=h.weight_decay,
            precondition_frequency=h.interval,
        ),
    )


def _build_schedule_free_adamw(problem: Problem, h: ScheduleFreeAdamW) -> UpdateRule:
    try:
        import schedulefree
    except ImportError as error:
        raise _missing("schedulefree", "schedule-free-adamw", error) from error
    return ScheduleFreeRule(
        problem,
        schedulefree.AdamWScheduleFree(
            problem.parameters,
            lr=h.lr,
            betas=(h.beta1, h.beta2),
            eps=h.eps,
            weight_decay=h.weight_decay,
            warmup_steps=h.warmup_steps,
        ),
    )


def _missing(library: str, competitor: str, error: ImportError) -> UsageError:
    return UsageError(f"{competitor} needs the library {library} ({error}); pip install {library}")


muon = Competitor(Muon, _build_muon, "Jordan et al., 2024", in_precision=EPSILON_OF_FP16)
soap = Competitor(SOAP, _build_soap, "Vyas et al., 2025, algorithm 3", in_precision=EPSILON_OF_FP16)
schedule_free_adamw = Competitor(
    ScheduleFreeAdamW,
    _build_schedule_free_adamw,
    "Defazio et al., 2024, algorithm 1",
    in_precision=EPSILON_OF_FP16,
)
