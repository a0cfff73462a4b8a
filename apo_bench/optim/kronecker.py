"""Algebra of the structured preconditioner of APO-P, as pure functions of tensors.

    P = (A ⊗ B) diag(vec S)² (A ⊗ B)ᵀ          [poster, "Structured Preconditioner Adaptation"]

in matrix form, with W of out × in and vec by columns,

    P vec(W) = vec( B (S² ∘ (Bᵀ W A)) Aᵀ ).

Shapes: ``A_II`` is in × in, ``B_OO`` out × out, ``S_OI`` and gradients ``G_OI`` out × in; all may carry the same
leading batch dimensions, over which every function is independent.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Factors(NamedTuple):
    """The learned matrices of one layer.

    Attributes:
        A_II: Input side.
        B_OO: Output side.
        S_OI: Scales in the basis of A and B; P depends on their squares.
    """

    A_II: Tensor
    B_OO: Tensor
    S_OI: Tensor


def identity(out_features: int, in_features: int, *, dtype: torch.dtype, device: torch.device) -> Factors:
    """Factors whose preconditioner is the identity: A = B = I, S = 1."""
    return Factors(
        torch.eye(in_features, dtype=dtype, device=device),
        torch.eye(out_features, dtype=dtype, device=device),
        torch.ones(out_features, in_features, dtype=dtype, device=device),
    )


def rotate(factors: Factors, G_OI: Tensor) -> Tensor:
    """Bᵀ G A: a gradient in the basis of the factors."""
    return factors.B_OO.mT @ G_OI @ factors.A_II


def precondition(factors: Factors, G_OI: Tensor) -> Tensor:
    """P vec(G) in matrix form, B (S² ∘ (Bᵀ G A)) Aᵀ; the same shape as ``G_OI``.

    >>> I = identity(2, 3, dtype=torch.float64, device=torch.device("cpu"))
    >>> G = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    >>> bool((precondition(I, G) == G).all())
    True
    """
    return factors.B_OO @ (factors.S_OI.square() * rotate(factors, G_OI)) @ factors.A_II.mT


def meta_gradient(factors: Factors, G_OI: Tensor, q_OI: Tensor, rate: float) -> Factors:
    """∂Q/∂(A, B, S) for θ′ = θ − η P g, where q = ∂Q/∂θ′ does not look through P.

    With G̃ = Bᵀ G A and Q̃ = Bᵀ q A,

        ∂Q/∂S = −2 η S ∘ G̃ ∘ Q̃
        ∂Q/∂A = −η (Gᵀ B (S² ∘ Q̃) + qᵀ B (S² ∘ G̃))
        ∂Q/∂B = −η (G A (S² ∘ Q̃)ᵀ + q A (S² ∘ G̃)ᵀ).

    Args:
        factors: A, B and S.
        G_OI: The gradient to which P was applied.
        q_OI: Gradient of the proximal objective at θ′.
        rate: Learning rate η.
    """
    A, B, S = factors
    GA_OI, qA_OI = G_OI @ A, q_OI @ A
    G_tilde, q_tilde = B.mT @ GA_OI, B.mT @ qA_OI
    squared = S.square()
    G_scaled, q_scaled = squared * G_tilde, squared * q_tilde
    return Factors(
        -rate * ((G_OI.mT @ B) @ q_scaled + (q_OI.mT @ B) @ G_scaled),
        -rate * (GA_OI @ q_scaled.mT + qA_OI @ G_scaled.mT),
        (-2.0 * rate) * S * G_tilde * q_tilde,
    )


def dense(factors: Factors) -> Tensor:
    """P as a matrix of (in · out) × (in · out), acting on vec by columns; for tests and small layers."""
    kron = torch.kron(factors.A_II, factors.B_OO)
    scales = factors.S_OI.mT.reshape(-1)
    return (kron * scales.square()) @ kron.mT


def damped_kfac(A_factor_II: Tensor, G_factor_OO: Tensor, fisher_weight: float, damping: float) -> Factors:
    """Factors of (λ_F Ā ⊗ Ḡ + λ_W I)⁻¹: unfactored damped KFAC is exactly representable.

    A = U_A, B = U_G and S = (λ_F s_G s_Aᵀ + λ_W)^(−1/2), from the eigendecompositions of both factors.

    Args:
        A_factor_II: Ā, second moment of the inputs, symmetric positive semidefinite.
        G_factor_OO: Ḡ, second moment of the output gradients, likewise.
        fisher_weight: λ_F.
        damping: λ_W, positive.
    """
    s_A, U_A = torch.linalg.eigh(A_factor_II)
    s_G, U_G = torch.linalg.eigh(G_factor_OO)
    eigenvalues_OI = fisher_weight * s_G.unsqueeze(-1) * s_A.unsqueeze(-2) + damping
    return Factors(U_A, U_G, eigenvalues_OI.rsqrt())


def distance_from_identity(factors: Factors) -> float:
    """‖P − I‖ / ‖I‖ in the Frobenius norm, without forming P.

    With C = AᵀA and D = BᵀB, ‖P‖² = ⟨S², D∘D S² C∘C⟩ and tr P = ⟨S², diag(D) diag(C)ᵀ⟩.
    """
    A, B, S = factors
    C_II, D_OO, squared = A.mT @ A, B.mT @ B, S.square()
    norm = (squared * (D_OO.square() @ squared @ C_II.square())).sum()
    trace = (squared * torch.outer(D_OO.diagonal(), C_II.diagonal())).sum()
    size = S.numel()
    return float(((norm - 2.0 * trace + size).clamp_min(0.0) / size).sqrt())
