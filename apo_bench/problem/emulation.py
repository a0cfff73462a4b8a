"""16-bit matrix products on a processor without fast ones, rounded as tensor cores round them.

The native half-precision convolution backward of a CPU can be some 35 times slower than single precision. Here matrix
products and convolutions on 16-bit tensors are computed from the 16-bit values in float32 and rounded to 16 bit on
output, which is what tensor cores do (products exact, accumulation in float32, one rounding). An LSTM layer is one
fused operator, which a CPU has in float32 and not in float16: it is computed whole in float32. Everything else runs in
the native 16-bit kernels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_PRODUCTS = frozenset(
    {
        _aten.mm.default,
        _aten.addmm.default,
        _aten.bmm.default,
        _aten.baddbmm.default,
        _aten.convolution.default,
        _aten.convolution_backward.default,
        _aten.addbmm.default,
        _aten.mv.default,
        _aten.addmv.default,
        _aten.mkldnn_rnn_layer.default,
        _aten.mkldnn_rnn_layer_backward.default,
    }
)
_SIXTEEN_BIT = (torch.float16, torch.bfloat16)


class EmulatedProducts(TorchDispatchMode):
    """While active, products of 16-bit tensors are accumulated in float32 and rounded once, on output."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Widen the operands of a product, compute, round; pass everything else through."""
        if func in _PRODUCTS:
            dtype = next((arg.dtype for arg in args if _is_sixteen_bit(arg)), None)
            if dtype is not None:
                wide = [arg.float() if _is_sixteen_bit(arg) else arg for arg in args]
                out = func(*wide, **(kwargs or {}))
                if isinstance(out, Tensor):
                    return out.to(dtype)
                # a workspace is of bytes, and stays
                return tuple(part.to(dtype) if _is_wide(part) else part for part in out)
        return func(*args, **(kwargs or {}))


def _is_wide(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.float32


def _is_sixteen_bit(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in _SIXTEEN_BIT
