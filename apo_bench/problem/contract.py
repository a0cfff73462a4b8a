"""What a model must be to be trained here: in one process, with the parameters that its optimizer was given."""

import torch
from torch import Tensor, nn

from apo_bench.errors import UsageError


def refuse_data_parallel(model: nn.Module) -> None:
    """Refuse a model that is, or would have to be, trained by several processes or devices.

    Gradients are made by `torch.autograd.grad`, which no reducer of `torch.distributed` sees, and curvature and learned
    rates are of this process's examples: the replicas would drift apart, and nothing would say so.

    Raises:
        UsageError: The model is wrapped for data parallel training, its parameters are sharded, or `torch.distributed`
            has several ranks.
    """
    for module in model.modules():
        # by name: importing torch.distributed.fsdp takes a second
        names = {kind.__name__ for kind in type(module).__mro__ if kind.__module__.startswith("torch.")}
        found = names & {"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "FSDPModule"}
        if found:
            raise UsageError(
                f"data parallel training is not supported, and the model is a {min(found)}: replicas would drift "
                "apart; use the plain module in one process"
            )
    if any(type(parameter.data).__name__ == "DTensor" for parameter in model.parameters()):
        raise UsageError("data parallel training is not supported, and parameters are sharded; use the plain module")
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise UsageError(
            f"data parallel training is not supported, and torch.distributed has {distributed.get_world_size()} ranks: "
            "replicas would drift apart; use one process"
        )


def uncompiled_module(model: nn.Module) -> nn.Module:
    """The module behind `torch.compile`, or the module itself."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def is_compiled(model: nn.Module) -> bool:
    """Whether `torch.compile` or `Module.compile` was called on the model or on a part of it."""
    return any(
        isinstance(getattr(module, "_orig_mod", None), nn.Module)
        or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


class Trainable:
    """A model's trainable parameters as they were when its optimizer was made.

    Args:
        model: Whose.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.parameters: tuple[Tensor, ...] = tuple(p for p in model.parameters() if p.requires_grad)
        self._frozen = tuple(p for p in model.parameters() if not p.requires_grad)

    def check(self) -> None:
        """Find parameters that were unfrozen since: no optimizer would ever move them. Looks at frozen ones only.

        Raises:
            UsageError: There is one.
        """
        if any(parameter.requires_grad for parameter in self._frozen):
            self.check_all()

    def check_all(self) -> None:
        """Find parameters that were unfrozen, frozen, added or replaced since. Looks at the whole model.

        Raises:
            UsageError: There is one.
        """
        known = {id(parameter) for parameter in self.parameters}
        present = {id(parameter): name for name, parameter in self._model.named_parameters() if parameter.requires_grad}
        for ours, name in present.items():
            if ours not in known:
                raise UsageError(
                    f"parameter {name!r} became trainable after the optimizer was made, which would never move it; "
                    "unfreeze or add parameters before, or make the problem and the optimizer again"
                )
        for parameter in self.parameters:
            if id(parameter) not in present:
                raise UsageError(
                    f"a parameter of shape {tuple(parameter.shape)} was frozen or removed after the optimizer was "
                    "made; freeze parameters before, or make the problem and the optimizer again"
                )
