"""Tensors that something holds, wherever they lie in it: in containers, in objects, in closures."""

import functools
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_CLOSED = (str, bytes, int, float, complex, type(None), type, types.ModuleType, torch.dtype, torch.device, weakref.ref)
"""Holds no tensor, or holds everything."""


def tensors_in(held: Any, without: tuple[Any, ...] = ()) -> Iterator[Tensor]:
    """All tensors in something, each once; arrays of NumPy count as tensors.

    Looked into are mappings, sequences, sets, deques, attributes of objects (``__dict__`` and ``__slots__``), partial
    and bound functions and closures. Weak references are not followed.

    Args:
        held: What is looked into.
        without: Objects that are not looked into, such as a model that an optimizer knows.
    """
    seen = {id(one) for one in without}
    waiting = [held]
    while waiting:
        found = waiting.pop()
        if isinstance(found, _CLOSED) or id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, Tensor):
            yield found
        elif isinstance(found, np.ndarray) and found.dtype.kind in "biufc":
            yield torch.as_tensor(found if found.flags.writeable else found.copy())
        else:
            waiting += reversed(_inside(found))


def _inside(found: Any) -> list[Any]:
    if isinstance(found, Mapping):
        parts = list(found.values())  # a key is a label: an optimizer keeps its state by parameter
    elif isinstance(found, types.MethodType):
        parts = [found.__self__]
    elif isinstance(found, functools.partial):
        parts = [found.func, found.args, found.keywords]
    elif isinstance(found, types.FunctionType):
        return [cell.cell_contents for cell in found.__closure__ or () if _is_filled(cell)]
    else:
        is_plain = isinstance(found, list | tuple | set | frozenset) or type(found).__name__ == "deque"
        parts = list(found) if is_plain else []
    parts += list(getattr(found, "__dict__", {}).values())
    for kind in type(found).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for slot in [slots] if isinstance(slots, str) else slots:
            if slot not in {"__dict__", "__weakref__"}:
                parts.append(getattr(found, slot, None))
    return parts


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
