"""Formulas for the floating-point operations of torch's operators that torch's own counter lacks or gets wrong.

They are called as the operators are, with shapes for tensors; those that are marked by `_raw`, with the tensors. For
matrices of n × n or m × n they hold to leading order, by the sections of Golub and Van Loan, Matrix Computations, 4th
edition, 2013:

=============================================  ===========================  =============
operation                                      FLOPs                        source
=============================================  ===========================  =============
Cholesky factor                                n³/3                         4.2
inverse from the Cholesky factor               2n³/3                        LAPACK, potri
triangular solve, k right-hand sides           n² k                         3.1
solve from the Cholesky factor, or LU          2 n² k                       3.1, 4.2
LU factors, determinant                        2n³/3                        3.2
LU and solve, k right-hand sides               2n³/3 + 2 n² k               3.1, 3.2
inverse by LU                                  2n³                          3.1, 3.2
LDLᵀ factors                                   n³/3                         4.4
eigenvalues and vectors of a symmetric matrix  9n³                          8.3
QR by Householder: R, with k = min(m, n)       2k² (max(m, n) − k/3)        5.2
QR: the first k columns of Q                   2k² (m − k/3) more           5.2
QR: all of Q                                   4 (m² k − m k² + k³/3) more  5.2
=============================================  ===========================  =============

Eigenvalues without vectors count like those with vectors, which torch computes too while its operators are watched.

A recurrent layer counts as its products of matrices do, each a product forward and two backward: by the weights, and by
what came in where that needs a gradient; what an initial state that needs none gives is left out.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor

_aten = torch.ops.aten
_Formula = TypeVar("_Formula", bound=Callable[..., int])
Shape = Sequence[int]


def _raw(formula: _Formula) -> _Formula:
    """Mark a formula that is to see tensors instead of their shapes, as `torch.utils.flop_counter` marks its own."""
    formula._get_raw = True  # type: ignore[attr-defined] # noqa: SLF001
    return formula


def _matrices(shape: Shape) -> tuple[int, int, int]:
    """How many matrices a batch of them has, and their rows and columns."""
    return prod(shape[:-2]), shape[-2], shape[-1]


def _cholesky(matrix: Shape, *_: Any, **__: Any) -> int:
    count, n, _n = _matrices(matrix)
    return count * n**3 // 3


def _cholesky_inverse(factor: Shape, *_: Any, **__: Any) -> int:
    count, n, _n = _matrices(factor)
    return count * 2 * n**3 // 3


def _cholesky_solve(_right: Shape, factor: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return 2 * factor[-1] * prod(out_shape)


def _solve_triangular(matrix: Shape, _right: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return matrix[-1] * prod(out_shape)


def _solve(_matrix: Shape, _right: Shape, *_: Any, out_shape: Sequence[Shape], **__: Any) -> int:
    solution, factors, *_others = out_shape
    return _lu(factors) + 2 * factors[-1] * prod(solution)


def _lu(matrix: Shape, *_: Any, **__: Any) -> int:
    count, m, n = _matrices(matrix)
    k = min(m, n)
    return count * (3 * max(m, n) * k**2 - k**3) // 3


def _lu_solve(factors: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return 2 * factors[-1] * prod(out_shape)


def _ldl(matrix: Shape, *_: Any, **__: Any) -> int:
    return _cholesky(matrix)


def _inverse(matrix: Shape, *_: Any, **__: Any) -> int:
    count, n, _n = _matrices(matrix)
    return count * 2 * n**3


def _eigh(matrix: Shape, *_: Any, **__: Any) -> int:
    count, n, _n = _matrices(matrix)
    return count * 9 * n**3


def _qr(matrix: Shape, mode: str = "reduced", **_: Any) -> int:
    count, m, n = _matrices(matrix)
    k = min(m, n)
    R = 2 * k**2 * (3 * max(m, n) - k)
    Q = {"r": 0, "reduced": 2 * k**2 * (3 * m - k), "complete": 4 * (3 * m**2 * k - 3 * m * k**2 + k**3)}[mode]
    return count * (R + Q) // 3


def _dot(one: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(one)


def _matrix_vector(matrix: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(matrix)


def _add_matrix_vector(_added: Shape, matrix: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(matrix)


def _add_outer(_added: Shape, one: Shape, other: Shape, **_: Any) -> int:
    return 2 * prod(one) * prod(other)


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Scores and their product with the values."""
    *batch, length, width = query
    return 2 * prod(batch) * length * key[-2] * (width + value[-1])


def _attention_backward(_gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Scores once more, and the gradients in values, scores, queries and keys."""
    *batch, length, width = query
    return 2 * prod(batch) * length * key[-2] * (3 * width + 2 * value[-1])


def _trilinear(
    one: Shape,
    two: Shape,
    three: Shape,
    expand_1: Shape,
    expand_2: Shape,
    expand_3: Shape,
    summed: Shape,
    *_: Any,
    **__: Any,
) -> int:
    """Σ one · two · three as torch computes it: the product of the first two, summed, by the third (`nn.Bilinear`)."""
    first, second, third = (
        _expanded(shape, expand) for shape, expand in ((one, expand_1), (two, expand_2), (three, expand_3))
    )
    product = [max(sides) for sides in zip(first, second, strict=True)]
    inner = [1 if axis in summed and axis in expand_3 else side for axis, side in enumerate(product)]
    return 2 * prod(product) + 2 * prod(max(sides) for sides in zip(inner, third, strict=True))


def _expanded(shape: Shape, axes: Shape) -> list[int]:
    """Shape with axes of length 1 put in, at these places of the result."""
    sides = list(shape)
    for axis in sorted(axes):
        sides.insert(axis, 1)
    return sides


def _convolution_backward(
    gradient: Shape,
    inputs: Shape,
    weight: Shape,
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,  # noqa: FBT001 - as the operator has it
    _output_padding: Any,
    _groups: int,
    mask: Sequence[bool],
    **_: Any,
) -> int:
    """What the forward pass costs, for each of inputs and weight; torch's formula is too large by the groups."""
    places = inputs[2:] if transposed else gradient[2:]
    return (mask[0] + mask[1]) * 2 * inputs[0] * prod(places) * prod(weight)


def _conv_tbc(_inputs: Shape, weight: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    return 2 * prod(out_shape[:2]) * prod(weight)


@_raw
def _mkldnn_rnn(inputs: Tensor, weight: Tensor, recurrent: Tensor, *_: Any, **__: Any) -> int:
    """A layer in one direction: inputs of time × batch × width, in any order of the first two."""
    return 2 * prod(inputs.shape[:-1]) * (weight.numel() + recurrent.numel())


@_raw
def _mkldnn_rnn_backward(
    inputs: Tensor, weight: Tensor, recurrent: Tensor, _b: Any, _c: Any, state: Tensor, cell: Tensor, *_: Any, **__: Any
) -> int:
    rows, batch = prod(inputs.shape[:-1]), prod(state.shape[:-1])
    by_inputs = rows * (weight.requires_grad + inputs.requires_grad)
    by_state = rows * recurrent.requires_grad + (rows if state.requires_grad or cell.requires_grad else rows - batch)
    return 2 * (weight.numel() * by_inputs + recurrent.numel() * by_state)


def _cudnn_rnn(inputs: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    """All layers and directions: every matrix times every row, of a packed sequence too."""
    return 2 * prod(inputs[:-1]) * sum(prod(weight) for weight in weights if len(weight) > 1)


def _cudnn_rnn_backward(
    inputs: Shape, weights: Sequence[Shape], per_layer: int, _buffer: Any, state: Shape, *others: Any, **_: Any
) -> int:
    packed, mask = others[-4], others[-1]
    directions = 2 if others[-5] else 1
    rows = prod(inputs[:-1])
    cost = _cudnn_rnn(inputs, weights) if mask[3] else 0
    for place in range(0, len(weights), per_layer):
        layer, reverse = divmod(place // per_layer, directions)
        from_inputs, recurrent, *rest = (weight for weight in weights[place : place + per_layer] if len(weight) > 1)
        first = 0 if mask[1] or mask[2] else packed[-1 if reverse else 0] if packed else state[1]
        cost += 2 * rows * prod(from_inputs) if layer or mask[0] else 0
        cost += 2 * (rows - first) * prod(recurrent) + sum(2 * rows * prod(projection) for projection in rest)
    return cost


def _product(one: Shape, other: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(one) * other[-1]


def _add_product(_added: Shape, one: Shape, other: Shape, *_: Any, **__: Any) -> int:
    return _product(one, other)


def _self_attention(query: Shape, key: Shape, *_: Any, **__: Any) -> int:
    """Projections into heads and out of them, scores, and their product with the values."""
    width, tokens, others = query[-1], prod(query), prod(key)
    return 4 * tokens * width + 4 * others * width + 4 * tokens * key[-2]


def _encoder_layer(inputs: Shape, *others: Any, **_: Any) -> int:
    """Attention, and the two linear layers behind it, whose weights come last."""
    weights: int = prod(others[13]) + prod(others[15])
    return _self_attention(inputs, inputs) + 2 * prod(inputs[:-1]) * weights


def _named(formulas: dict[str, Callable[..., int]]) -> dict[Any, Callable[..., int]]:
    """Formulas by operator; a version of torch may lack some."""
    return {getattr(_aten, name): formula for name, formula in formulas.items() if hasattr(_aten, name)}


FORMULAS: dict[Any, Callable[..., int]] = _named(
    {
        "linalg_cholesky_ex": _cholesky,
        "cholesky_inverse": _cholesky_inverse,
        "cholesky_solve": _cholesky_solve,
        "linalg_solve_triangular": _solve_triangular,
        "_linalg_solve_ex": _solve,
        "linalg_lu": _lu,
        "linalg_lu_factor_ex": _lu,
        "_linalg_det": _lu,
        "_linalg_slogdet": _lu,
        "linalg_lu_solve": _lu_solve,
        "linalg_ldl_factor_ex": _ldl,
        "linalg_ldl_solve": _lu_solve,
        "linalg_inv_ex": _inverse,
        "_linalg_eigh": _eigh,
        "linalg_qr": _qr,
        "dot": _dot,
        "vdot": _dot,
        "mv": _matrix_vector,
        "addmv": _add_matrix_vector,
        "addmv_": _add_matrix_vector,
        "addr": _add_outer,
        "addr_": _add_outer,
        "addbmm": _add_product,
        "addbmm_": _add_product,
        "addmm_": _add_product,
        "_addmm_activation": _add_product,
        "_int_mm": _product,
        "baddbmm_": _add_product,
        "_trilinear": _trilinear,
        "convolution_backward": _convolution_backward,
        "conv_tbc": _conv_tbc,
        "_scaled_dot_product_flash_attention_for_cpu": _attention,
        "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
        "_scaled_dot_product_fused_attention_overrideable": _attention,
        "_scaled_dot_product_fused_attention_overrideable_backward": _attention_backward,
        "_native_multi_head_attention": _self_attention,
        "_transformer_encoder_layer_fwd": _encoder_layer,
        "mkldnn_rnn_layer": _mkldnn_rnn,
        "mkldnn_rnn_layer_backward": _mkldnn_rnn_backward,
        "_cudnn_rnn": _cudnn_rnn,
        "_cudnn_rnn_backward": _cudnn_rnn_backward,
    }
)
