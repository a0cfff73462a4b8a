"""A card that is not there: tensors of the CPU that say they are on it, and a list of the copies to it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from support.devices import CPU
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda", 0)


class Copy(NamedTuple):
    """A copy from the host to the card: the host goes on at once only if it is ``pinned`` and not ``blocking``."""

    pinned: bool
    blocking: bool


class PretendedCard(TorchFunctionMode):
    """While it is entered, tensors may be moved to ``CUDA`` and be made there.

    Attributes:
        copies: From the host to the card, in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[Copy] = []
        self._there: dict[int, Tensor] = {}  # kept alive, so that no other tensor gets the same id
        self._pinned: dict[int, Tensor] = {}

    def __torch_function__(
        self,
        function: Callable[..., Any],
        _types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do what is asked for on the CPU, and remember where it is said to be."""
        named = dict(kwargs or {})
        if function == Tensor.device.__get__:
            return CUDA if id(args[0]) in self._there else CPU
        if function is Tensor.pin_memory:
            assert id(args[0]) not in self._there, "only memory of the host can be pinned"
            return self._noted(args[0] if id(args[0]) in self._pinned else args[0].clone(), self._pinned)
        if function is Tensor.to and CUDA in (*args[1:], named.get("device")):
            if id(args[0]) not in self._there:
                blocking = not named.pop("non_blocking", False)
                self.copies.append(Copy(pinned=id(args[0]) in self._pinned, blocking=blocking))
            rest = [argument for argument in args[1:] if argument != CUDA]
            return self._noted(args[0].clone().to(*rest), self._there)
        made_there = named.get("device") == CUDA
        if made_there:
            named["device"] = CPU
        result = function(*args, **named)
        if isinstance(result, Tensor):
            given = {id(leaf) for leaf in tree_leaves((args, named))}
            if made_there or given & self._there.keys():
                self._noted(result, self._there)
            elif function is Tensor.__getitem__ and id(args[0]) in self._pinned:
                self._noted(result, self._pinned)
        return result

    def _noted(self, tensor: Tensor, where: dict[int, Tensor]) -> Tensor:
        where[id(tensor)] = tensor
        return tensor
