"""What steps cost in floating-point operations (FLOPs), as the shapes say, not the kernels.

`step_flops` counts a network's own passes, without data and without memory for its weights; `exact_cost` counts whole
steps with their optimizer, as they run.

A multiply-add is 2 FLOPs, and the number format makes no difference. Counted are products of matrices and vectors,
convolutions, attention (by `torch.utils.flop_counter`: dense, masks and groups of channels left aside) and, for
matrices of n × n or m × n, to leading order, by the sections of Golub and Van Loan, Matrix
Computations, 4th edition, 2013:

=============================================  ===========================  =============
operation                                      FLOPs                        source
=============================================  ===========================  =============
Cholesky factor                                n³/3                         4.2
inverse from the Cholesky factor               2n³/3                        LAPACK, potri
triangular solve, k right-hand sides           n² k                         3.1
solve from the Cholesky factor                 2 n² k                       3.1, 4.2
LU and solve, k right-hand sides               2n³/3 + 2 n² k               3.1, 3.2
inverse by LU                                  2n³                          3.1, 3.2
eigenvalues and vectors of a symmetric matrix  9n³                          8.3
QR by Householder: R, with k = min(m, n)       2k² (max(m, n) − k/3)        5.2
QR: the first k columns of Q                   2k² (m − k/3) more           5.2
QR: all of Q                                   4 (m² k − m k² + k³/3) more  5.2
=============================================  ===========================  =============

Eigenvalues without vectors count like those with vectors, which torch computes too while its operators are watched.

Not counted: what acts on one number at a time (activations, losses, the moments of Adam), sums and norms, other
decompositions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from apo_bench.measure.kinds import Kind, prepare_kind, step_kinds
from apo_bench.problem.precision import LossScale
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import UpdateRule

if TYPE_CHECKING:
    from apo_bench.data.examples import Batch


_aten = torch.ops.aten


@dataclass(frozen=True)
class ExactCost:
    """What a step costs, counted.

    Attributes:
        flops_per_step: Floating-point operations, a mean over a whole cycle of the rule's intervals.
        operator_calls_per_step: Calls of torch operators, likewise. Views count, but for ``detach``; where 16 bit is
            emulated, so do the emulation's conversions.
        by_kind: Both by the name of the kind of step (`apo_bench.measure.kinds`).
    """

    flops_per_step: float
    operator_calls_per_step: float
    by_kind: Mapping[str, tuple[int, int]]


def exact_cost(rule: UpdateRule, problem: Problem, draw: Callable[[], "Batch"]) -> ExactCost | None:
    """Count what a step of a rule costs, the network's passes included: the loss, the update, all that is periodic.

    Takes an uncounted step, in which a fresh rule makes its state, and then one of each kind, all on one batch, with
    the network as it is without `torch.compile`. Where batches differ in shape (padded sequences) the count is that of
    the batch drawn. Changes the parameters and the state of the rule: for the end of a run.

    Args:
        rule: Counted as it is now.
        problem: What it steps on.
        draw: Draws the batch.

    Returns:
        The count; `None` where loss scaling kept skipping a step, or what is periodic in it, until attempts ran out.

    Raises:
        Exception: Whatever the rule raises.
    """
    batch = draw()
    if _count_step(rule, problem, batch, None) is None:
        return None
    kinds = step_kinds(rule)
    by_kind = {}
    for kind in kinds:
        counted = _count_step(rule, problem, batch, kind)
        if counted is None:
            return None
        by_kind[kind.name] = counted
    flops, calls = (sum(kind.share * by_kind[kind.name][place] for kind in kinds) for place in (0, 1))
    return ExactCost(float(flops), float(calls), by_kind)


def _count_step(rule: UpdateRule, problem: Problem, batch: "Batch", kind: Kind | None) -> tuple[int, int] | None:
    """FLOPs and operator calls of a step of a kind, or of the one that is next; taken again where something overflowed.

    A stream of gradients that overflows may leave the step applied without what the stream is for, a meta-update or an
    estimate of curvature. Its loss scale falls then.
    """
    for _ in range(_ATTEMPTS):
        if kind is not None:
            prepare_kind(rule, kind)
        before = problem.state_dict()
        calls = _OperatorCalls()
        with problem.uncompiled(), calls, FlopCounterMode(display=False, custom_mapping=_FORMULAS) as flops:
            applied = rule.step(batch).applied
        fell = any(
            scale["value"] < before.get(stream, _FRESH_SCALE)["value"] for stream, scale in problem.state_dict().items()
        )
        if applied and not fell:
            return int(flops.get_total_flops()), calls.count
    return None


_ATTEMPTS = 50
"""Enough for a loss scale to fall from 2³² to where nothing overflows in float16."""
_FRESH_SCALE = LossScale().state_dict()


class _OperatorCalls(TorchDispatchMode):
    """Counts the calls of torch's operators while active, as they reach the device's kernels or make views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        self.count = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Count the call and make it.

        Left out are marks for the profiler, and detaching, which autograd does to what it saves only while watched.
        """
        if getattr(func, "namespace", None) != "profiler" and func is not _aten.detach.default:
            self.count += 1
        return func(*args, **(kwargs or {}))


# Formulas of what torch's own counter misses. They are called as the operators are, with shapes for tensors.
Shape = Sequence[int]


def _matrices(shape: Shape) -> tuple[int, int, int]:
    """How many matrices a batch of them has, and their rows and columns."""
    return prod(shape[:-2]), shape[-2], shape[-1]


def _cholesky(matrix: Shape, *_: Any, **__: Any) -> int:
    count, n, _n = _matrices(matrix)
    return count * n**3 // 3


def _cholesky_inverse(factor: Shape, *_: Any, **__: Any) -> int:
    count, n, _n = _matrices(factor)
    return count * 2 * n**3 // 3


def _cholesky_solve(right: Shape, factor: Shape, *_: Any, **__: Any) -> int:
    return 2 * factor[-1] * prod(right)


def _solve_triangular(matrix: Shape, right: Shape, *_: Any, **__: Any) -> int:
    return matrix[-1] * prod(right)


def _solve(matrix: Shape, right: Shape, *_: Any, **__: Any) -> int:
    count, n, _n = _matrices(matrix)
    return count * 2 * n**3 // 3 + 2 * n * prod(right)


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


def _add_batched(_added: Shape, one: Shape, other: Shape, **_: Any) -> int:
    return 2 * prod(one) * other[-1]


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Scores and their product with the values."""
    *batch, length, width = query
    return 2 * prod(batch) * length * key[-2] * (width + value[-1])


def _attention_backward(_gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Scores once more, and the gradients in values, scores, queries and keys."""
    *batch, length, width = query
    return 2 * prod(batch) * length * key[-2] * (3 * width + 2 * value[-1])


_FORMULAS: dict[Any, Callable[..., int]] = {
    _aten.linalg_cholesky_ex: _cholesky,
    _aten.cholesky_inverse: _cholesky_inverse,
    _aten.cholesky_solve: _cholesky_solve,
    _aten.linalg_solve_triangular: _solve_triangular,
    _aten._linalg_solve_ex: _solve,  # noqa: SLF001 - its name in torch
    _aten.linalg_inv_ex: _inverse,
    _aten._linalg_eigh: _eigh,  # noqa: SLF001
    _aten.linalg_qr: _qr,
    _aten.dot: _dot,
    _aten.vdot: _dot,
    _aten.mv: _matrix_vector,
    _aten.addmv: _add_matrix_vector,
    _aten.addr: _add_outer,
    _aten.addbmm: _add_batched,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,  # noqa: SLF001
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,  # noqa: SLF001
}
