"""Bytes that a model and its update rule hold between and at steps, exactly, by what they are for."""

from collections.abc import Iterable

from torch import Tensor, nn

from apo_bench.problem.held import tensors_in
from apo_bench.problem.rule import UpdateRule


def model_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of a model's ``parameters``, of their ``gradients`` and of its ``buffers``.

    Gradients are counted as they are at the moment of the update: one for each trainable parameter, in its shape and
    number format.
    """
    seen: set[int] = set()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return {
        "parameters": _storages(model.parameters(), seen),
        "gradients": sum(parameter.numel() * parameter.itemsize for parameter in trainable),
        "buffers": _storages(model.buffers(), seen),
    }


def state_bytes(rule: UpdateRule) -> dict[str, int]:
    """Bytes that a rule holds beside parameters and gradients, by its own purposes (`UpdateRule.state_tensors`).

    Memory that several tensors share counts once, for the first purpose.
    """
    seen: set[int] = set()
    return {purpose: _storages(tensors_in(list(held)), seen) for purpose, held in rule.state_tensors().items()}


def bytes_by_purpose(rule: UpdateRule, model: nn.Module) -> dict[str, int]:
    """Both together; where the rule has a purpose with one of the model's names, its bytes are added there."""
    parts = model_bytes(model), state_bytes(rule)
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0) for part in parts) for name in names}


def _storages(tensors: Iterable[Tensor], seen: set[int]) -> int:
    """Bytes of the storages of tensors, but for those whose addresses have been seen; their addresses are added."""
    total = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total
