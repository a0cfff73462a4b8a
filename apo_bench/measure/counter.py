"""One counter of floating-point operations for plans and records, which knows what it does not know."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, shape_wrapper

from apo_bench.measure.formulas import FORMULAS
from apo_bench.measure.uncounted import is_left_out

_SHOWN = 4
"""Operators that a reason names."""


class FlopCounter(TorchDispatchMode):
    """Counts the floating-point operations of torch's operators while active, and collects those it has no formula for.

    Formulas are torch's own, those registered with `torch.utils.flop_counter.register_flop_formula`,
    and, before both, those of `apo_bench.measure.formulas`. An operator made of others counts as they do. What has no
    formula must be left out by name (`apo_bench.measure.uncounted`); otherwise the count is not known.

    Not seen is what runs outside torch's operators: NumPy, and kernels that are called directly.

    Attributes:
        counted: Floating-point operations of all operators with a formula.
        unknown: Names of the operators without one that do more than elementwise work, in the order of their calls.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        self.counted = 0
        self.unknown: dict[str, None] = {}
        self._formulas = {**flop_registry, **{operator: _seeing(formula) for operator, formula in FORMULAS.items()}}

    def __enter__(self) -> Self:
        """Count from now on."""
        super().__enter__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        return self

    @property
    def flops(self) -> int | None:
        """The count; `None` where an operator without a formula ran."""
        return None if self.unknown else self.counted

    @property
    def reason(self) -> str | None:
        """Why there is no count, in one line that names the operators; `None` where there is one."""
        return unknown_operators(self.unknown) if self.unknown else None

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Make the call, of an operator made of others part by part, and count it."""
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", func)
        if packet in _ANSWERED_ELSEWHERE:
            return NotImplemented
        if isinstance(func, torch._ops.OpOverload) and packet is not torch.ops.prim.device:  # noqa: SLF001
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        formula = self._formulas.get(packet)
        if formula is not None:
            kind = next(_unusual([*args, *kwargs.values()]), None)
            try:
                flops = formula(*args, **kwargs, out_val=result) if kind is None else 0
            except Exception as error:  # noqa: BLE001 - whoever registers formulas, a run does not end for one
                kind = f"its formula fails: {error}"
                flops = 0
            self.counted += int(flops)
            if kind is not None:
                self.unknown[f"{packet} ({kind})"] = None
        elif isinstance(func, torch._ops.HigherOrderOperator) or not is_left_out(packet):  # noqa: SLF001
            self.unknown[str(packet)] = None
        return result


def unknown_operators(names: Sequence[str] | dict[str, None]) -> str:
    """Say in one line that operators have no formula."""
    shown = [*names][:_SHOWN]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"no FLOP formula for {', '.join(shown)}{more}; torch.utils.flop_counter.register_flop_formula can add one"


def _seeing(formula: Callable[..., int]) -> Callable[..., int]:
    """Let a formula see shapes and the result, or tensors where it is marked so."""
    return formula if getattr(formula, "_get_raw", False) else shape_wrapper(formula)


def _unusual(arguments: Sequence[Any]) -> Iterator[str]:
    """What there is about tensors that formulas by shape do not fit: zeros that are not stored, complex numbers."""
    for value in tree_leaves(arguments):
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.is_nested:
                yield "sparse or nested tensors"
            if value.is_complex():
                yield "complex numbers"


_ANSWERED_ELSEWHERE = {
    getattr(torch.ops.aten, name)
    for name in (
        *("sym_is_contiguous", "is_contiguous", "is_strides_like_format", "is_non_overlapping_and_dense", "size"),
        *("sym_size", "stride", "sym_stride", "storage_offset", "sym_storage_offset", "numel", "sym_numel", "dim"),
    )
    if hasattr(torch.ops.aten, name)
} | {torch.ops.prim.layout}
"""Questions that tensors with sizes of their own (nested ones) ask themselves."""
