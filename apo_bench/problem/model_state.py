"""Everything that a forward pass may change, captured and restored: evaluation, lookahead and checkpoints use it.

A forward pass may write into a buffer or put another tensor in its place, count in a plain attribute, switch a module's
mode, and draw random numbers. Parameters belong to the update rule and are not touched here.
"""

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_OF_TORCH = frozenset(nn.Module().__dict__) - {"training"}
"""Attributes that every module has: parameters, buffers, modules and hooks are not plain attributes."""
_IMMUTABLE: frozenset[type] = frozenset(
    {bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size}
)
_SCALARS: tuple[type, ...] = (*_IMMUTABLE, np.generic, Enum)
_CONTAINERS = (list, tuple, dict, set, deque)
_ABSENT = object()


@dataclasses.dataclass(frozen=True)
class _Kept:
    """A tensor as it was: the object itself and its content."""

    tensor: Tensor
    content: Tensor | None

    def restore(self) -> Tensor:
        if self.content is not None:
            # Through .data: a graph made meanwhile may be differentiated later. Batch normalization keeps its running
            # statistics in the graph, does not use them in the backward pass, and checks their version.
            self.tensor.data.copy_(self.content)
        return self.tensor


@dataclasses.dataclass(frozen=True)
class _Module:
    """One module's buffers and plain attributes."""

    module: nn.Module
    buffers: dict[str, _Kept | None]
    persistence: frozenset[str]
    immutable: dict[str, Any]
    others: dict[str, Any]

    def restore(self) -> None:
        module = self.module
        if isinstance(module, torch.jit.ScriptModule):  # its buffers cannot be exchanged, from outside or inside
            for kept in filter(None, self.buffers.values()):
                kept.restore()
            return
        if module._buffers or self.buffers:  # noqa: SLF001 - torch has no public way to put a buffer back as it was
            restored = {name: None if kept is None else kept.restore() for name, kept in self.buffers.items()}
            module._buffers.clear()  # noqa: SLF001
            module._buffers.update(restored)  # noqa: SLF001
            module._non_persistent_buffers_set = set(self.persistence)  # noqa: SLF001
        own = vars(module)
        for name in own.keys() - _OF_TORCH - self.immutable.keys() - self.others.keys():
            if _is_plain(own[name]):
                del own[name]  # made meanwhile
        for name, value in self.immutable.items():
            if own.get(name, _ABSENT) is not value:
                own[name] = value
        for name, value in self.others.items():
            if value is not _LEFT_ALONE:
                own[name] = _thawed(value)


class _LeftAlone:
    """Stands for an attribute that holds an object, such as a module in a list: it is not ours to copy."""


_LEFT_ALONE = _LeftAlone()


class ModelState:
    """What a forward pass may change of a model, as it is now.

    Args:
        model: Whose buffers, plain attributes (numbers, strings, tensors and arrays, in containers too) and modes are
            captured. Objects of other types are left alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [_captured(module) for module in model.modules()]

    def restore(self) -> None:
        """Put everything back: the same tensors with the same content."""
        for module in self._modules:
            module.restore()


def _captured(module: nn.Module) -> _Module:
    own = vars(module)
    immutable, others = {}, {}
    for name in own.keys() - _OF_TORCH:
        value = own[name]
        kind = type(value)
        if kind in _IMMUTABLE or (kind is tuple and all(type(part) in _IMMUTABLE for part in value)):
            immutable[name] = value
        else:
            others[name] = _frozen(value)
    buffers = module._buffers  # noqa: SLF001
    return _Module(
        module,
        {name: None if buffer is None else _kept(buffer) for name, buffer in buffers.items()} if buffers else {},
        frozenset(getattr(module, "_non_persistent_buffers_set", ())),  # a ScriptModule has none
        immutable,
        others,
    )


def _kept(tensor: Tensor) -> _Kept:
    # a tensor with a graph is a result, not a state: it is put back as it is
    return _Kept(tensor, None if tensor.grad_fn is not None else tensor.detach().clone())


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind in _IMMUTABLE or kind is Tensor or isinstance(value, (*_SCALARS, np.ndarray)):
        return True
    if kind in _CONTAINERS:
        parts = value.items() if isinstance(value, dict) else ((None, part) for part in value)
        return all(_is_plain(key) and _is_plain(part) for key, part in parts)
    return False


def _frozen(value: Any) -> Any:  # noqa: PLR0911 - a case a kind
    """A copy that later changes do not reach."""
    kind = type(value)
    if kind in {list, tuple} and all(type(part) in _IMMUTABLE for part in value):
        return value.copy() if kind is list else value
    if kind in _IMMUTABLE or isinstance(value, _SCALARS):
        return value
    if not _is_plain(value):
        return _LEFT_ALONE
    if isinstance(value, Tensor):
        return _kept(value)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: _frozen(part) for key, part in value.items()}
    parts = [part if isinstance(value, set) else _frozen(part) for part in value]
    return deque(parts, value.maxlen) if isinstance(value, deque) else type(value)(parts)


def _thawed(value: Any) -> Any:
    if isinstance(value, _Kept):
        return value.restore()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: _thawed(part) for key, part in value.items()}
    if isinstance(value, deque):
        return deque((_thawed(part) for part in value), value.maxlen)
    if isinstance(value, list | tuple):
        return type(value)(_thawed(part) for part in value)
    return set(value) if isinstance(value, set) else value


def saved_state(model: nn.Module) -> dict[str, Any]:
    """A model's parameters and everything that a forward pass may change of it, for a checkpoint.

    ``state_dict`` leaves out buffers that are not persistent, plain attributes, and modes.
    """
    return {
        "state": dict(model.state_dict()),
        "modules": [
            {
                "name": name,
                "buffers": dict(module._buffers.items()),  # noqa: SLF001
                "transient": sorted(getattr(module, "_non_persistent_buffers_set", ())),
                "attributes": dict(_plain_attributes(module)),
            }
            for name, module in model.named_modules()
        ],
    }


def _plain_attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    if isinstance(module, torch.jit.ScriptModule):
        return
    for name, value in vars(module).items():
        is_elsewhere = isinstance(value, torch.device)  # a run may continue on another one
        if name not in _OF_TORCH and not is_elsewhere and _is_plain(value) and getattr(value, "grad_fn", None) is None:
            yield name, value


def load_saved_state(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Take up what `saved_state` made of a model of the same build, on the device that this one is on.

    Raises:
        KeyError: A module is missing here.
        RuntimeError: Parameters do not fit (torch's own message).
    """
    modules = dict(model.named_modules())
    device = next((parameter.device for parameter in model.parameters()), None)
    for one in saved["modules"]:
        module = modules[one["name"]]
        if isinstance(module, torch.jit.ScriptModule):
            continue  # `state` holds all of it
        own = module._buffers  # noqa: SLF001
        for name in [name for name in own if name not in one["buffers"]]:
            del own[name]
        for name, buffer in one["buffers"].items():
            own[name] = _placed(buffer, own.get(name), device)
        module._non_persistent_buffers_set = set(one["transient"])  # noqa: SLF001
        module.__dict__.update(
            {name: _on(value, vars(module).get(name), device) for name, value in one["attributes"].items()}
        )
    model.load_state_dict(saved["state"])


def _on(value: Any, present: Any, device: torch.device | None) -> Any:
    if not isinstance(value, Tensor):
        return value
    return _placed(value, present if isinstance(present, Tensor) else None, device)


def _placed(saved: Tensor | None, present: Tensor | None, device: torch.device | None) -> Tensor | None:
    """The saved content in the present tensor, so that whoever shares it sees it, or in a new one."""
    if saved is None:
        return None
    if present is not None and (present.shape, present.dtype) == (saved.shape, saved.dtype):
        with torch.no_grad():
            return present.copy_(saved)
    return saved.to(present.device if present is not None else device)
