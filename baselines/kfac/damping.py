"""Damped inverses of A ⊗ G.

Factored Tikhonov damping (Martens and Grosse, 2015, section 6.3) splits λ between the factors,

    (A + π √λ I) ⊗ (G + √λ/π I),    π² = (tr A / dim A) / (tr G / dim G);

unfactored damping, A ⊗ G + λ I, needs the eigenvectors of both.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from apo_bench.optim import kronecker

Inputs = Float[Tensor, "I I"]
Outputs = Float[Tensor, "O O"]
Weights = Float[Tensor, "O I"]
Scalar = Float[Tensor, ""]
Symmetric = Float[Tensor, "D D"]


LARGE = 512
"""Inputs from which on a factorization on a CPU saves more than the solves cost."""


class NotInvertibleError(ArithmeticError):
    """A factor has no inverse, or holds numbers that are not finite."""


class Damping(StrEnum):
    """Where λ is added."""

    FACTORED = "factored"
    UNFACTORED = "unfactored"


class Solver(StrEnum):
    """How the factors are inverted."""

    CHOLESKY = "cholesky"
    EIGEN = "eigen"


class Inverses(NamedTuple):
    """Damped inverses of both factors."""

    A_inverse_II: Inputs
    G_inverse_OO: Outputs

    def precondition(self, W_OI: Weights) -> Weights:
        """G⁻¹ W A⁻¹; both orders of the two products cost the same."""
        return self.G_inverse_OO @ W_OI @ self.A_inverse_II


class Triangle(NamedTuple):
    """A damped A as UᵀU with U upper triangular, and the damped inverse of G.

    Two triangular solves with U cost what the product with A⁻¹ costs, O I² each, and U costs a third of A⁻¹.
    """

    A_upper_II: Inputs
    G_inverse_OO: Outputs

    def precondition(self, W_OI: Weights) -> Weights:
        """G⁻¹ W U⁻¹ U⁻ᵀ."""
        U_II = self.A_upper_II
        half_OI = torch.linalg.solve_triangular(U_II, self.G_inverse_OO @ W_OI, upper=True, left=False)
        whole_OI: Tensor = torch.linalg.solve_triangular(U_II.mT, half_OI, upper=False, left=False)
        return whole_OI


class Eigenbasis(NamedTuple):
    """Eigenvectors of both factors and the damped inverse eigenvalues of their product."""

    U_A: Inputs
    U_G: Outputs
    inverse_OI: Weights

    def precondition(self, W_OI: Weights) -> Weights:
        """U_G ((U_Gᵀ W U_A) ∘ inverse) U_Aᵀ."""
        return self.U_G @ ((self.U_G.mT @ W_OI @ self.U_A) * self.inverse_OI) @ self.U_A.mT


def split(A_II: Inputs, G_OO: Outputs, damping: float) -> tuple[Scalar, Scalar]:
    """π √λ and √λ/π as scalar tensors; π = 1 where a factor vanishes.

    >>> [float(part) for part in split(torch.eye(2) * 4.0, torch.eye(3), 0.25)]
    [1.0, 0.25]
    """
    traces = A_II.diagonal().mean(), G_OO.diagonal().mean()
    pi = (traces[0] / traces[1]).sqrt()
    pi = torch.where(pi.isfinite() & (pi > 0), pi, torch.ones_like(pi))
    root = damping**0.5
    return pi * root, root / pi


def inverse(matrix: Symmetric, damping: Scalar) -> Symmetric:
    """(M + d I)⁻¹ of a symmetric positive semidefinite matrix by Cholesky, in float64 where float32 does not do.

    Raises:
        NotInvertibleError: The damped matrix is not positive definite, or not finite.
    """
    for factor in _cholesky_factors(matrix, damping):
        found = torch.cholesky_inverse(factor).to(matrix.dtype)
        # of a positive definite matrix no entry is larger than the largest on the diagonal
        if bool(found.diagonal().isfinite().all()):
            return found
    raise NotInvertibleError


def upper_factor(matrix: Symmetric, damping: Scalar) -> Symmetric:
    """U, upper triangular, with UᵀU = M + d I, in float64 where float32 does not do.

    Raises:
        NotInvertibleError: The damped matrix is not positive definite, or not finite.
    """
    for factor in _cholesky_factors(matrix, damping):
        upper: Tensor = factor.mT.to(matrix.dtype).contiguous()
        return upper
    raise NotInvertibleError


def _cholesky_factors(matrix: Symmetric, damping: Scalar) -> Iterator[Symmetric]:
    """L, lower triangular, with L Lᵀ = M + d I: in the matrix's format, then in float64, where there is one."""
    for dtype in (matrix.dtype, torch.float64):
        damped = matrix.to(dtype, copy=True)
        damped.diagonal().add_(damping)
        factor, info = torch.linalg.cholesky_ex(damped)
        if int(info) == 0:
            yield factor


def damped_inverses(A_II: Inputs, G_OO: Outputs, damping: float) -> Inverses:
    """Both inverses under factored damping, by Cholesky."""
    for_A, for_G = split(A_II, G_OO, damping)
    return Inverses(inverse(A_II, for_A), inverse(G_OO, for_G))


def damped_solver(A_II: Inputs, G_OO: Outputs, damping: float) -> Inverses | Triangle:
    """The same, in the form that costs least on the matrices' device: a `Triangle` for a large A on a CPU.

    There an explicit inverse takes three times as long to make. On a card solving for few rows is slow.
    """
    if A_II.shape[0] < LARGE or A_II.device.type != "cpu":
        return damped_inverses(A_II, G_OO, damping)
    for_A, for_G = split(A_II, G_OO, damping)
    return Triangle(upper_factor(A_II, for_A), inverse(G_OO, for_G))


def damped_eigenbasis(A_II: Inputs, G_OO: Outputs, damping: float, form: Damping) -> Inverses | Eigenbasis:
    """The same by eigendecomposition, under either form of damping.

    Factored damping keeps the Kronecker form, so the inverses are formed: two products a step instead of four.
    """
    (s_A, U_A), (s_G, U_G) = eigenvectors(A_II), eigenvectors(G_OO)
    if form is Damping.FACTORED:
        for_A, for_G = split(A_II, G_OO, damping)
        return Inverses((U_A / (s_A + for_A)) @ U_A.mT, (U_G / (s_G + for_G)) @ U_G.mT)
    return Eigenbasis(U_A, U_G, (torch.outer(s_G, s_A) + damping).reciprocal_())


def eigenvectors(matrix: Symmetric) -> tuple[Float[Tensor, "D"], Symmetric]:
    """Eigenvalues, not below zero, and eigenvectors of a symmetric positive semidefinite matrix.

    Raises:
        NotInvertibleError: The matrix is not finite, or the solver fails in float64 too.
    """
    if not bool(matrix.isfinite().all()):
        raise NotInvertibleError
    try:
        values, vectors = kronecker.eigenvectors(matrix)
    except kronecker.NoEigenvectorsError as error:
        raise NotInvertibleError from error
    return values.clamp_min_(0.0), vectors
