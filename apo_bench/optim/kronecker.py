"""Algebra of the structured preconditioner of APO-P, as pure functions of tensors.

    P = (A ⊗ B) diag(vec S)² (A ⊗ B)ᵀ          [poster, "Structured Preconditioner Adaptation"]

in matrix form, with W of out × in and vec by columns,

    P vec(W) = vec( B (S² ∘ (Bᵀ W A)) Aᵀ ).

Shapes: ``A_II`` is in × in, ``B_OO`` out × out, ``S_OI`` and gradients ``G_OI`` out × in; all may carry the same
leading batch dimensions, over which every function is independent.

The inputs of a wide convolution are many: K places of the kernel times C channels, and A is (K C)². `SpatialFactors`
takes A itself as a Kronecker product of a K × K and a C × C matrix; everything else stays the same.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Inputs = Float[Tensor, "*batch I I"]
Outputs = Float[Tensor, "*batch O O"]
Weights = Float[Tensor, "*batch O I"]
Channels = Float[Tensor, "*batch C C"]
Places = Float[Tensor, "*batch K K"]
Symmetric = Float[Tensor, "*batch D D"]


class Factors(NamedTuple):
    """The learned matrices of one layer.

    Attributes:
        A_II: Input side.
        B_OO: Output side.
        S_OI: Scales in the basis of A and B; P depends on their squares.
    """

    A_II: Inputs
    B_OO: Outputs
    S_OI: Weights

    def times_A(self, W_OI: Weights) -> Weights:  # noqa: N802 - A is the symbol
        """W A."""
        return W_OI @ self.A_II

    def times_A_transposed(self, W_OI: Weights) -> Weights:  # noqa: N802
        """W Aᵀ."""
        return W_OI @ self.A_II.mT

    def gradient_in_A(self, X_OI: Weights, Z_OI: Weights) -> tuple[Tensor, ...]:  # noqa: N802
        """Gradient of ⟨X A, Z⟩ in the parts of A."""
        return (X_OI.mT @ Z_OI,)

    def gram(self) -> tuple["Factors", Float[Tensor, "*batch I"]]:
        """The same with AᵀA in A's place, entries squared, and the diagonal of AᵀA."""
        C_II = self.A_II.mT @ self.A_II
        return self._replace(A_II=C_II.square()), C_II.diagonal(dim1=-2, dim2=-1)


class SpatialFactors(NamedTuple):
    """The learned matrices of one convolution, with A = A_KK ⊗ A_CC; an input column for the bias is apart.

    Attributes:
        A_CC: Channels.
        A_KK: Places of the kernel.
        B_OO: Output side.
        S_OI: Scales; the columns run over places, then channels, then the bias.
    """

    A_CC: Channels
    A_KK: Places
    B_OO: Outputs
    S_OI: Weights

    @property
    def A_II(self) -> Inputs:  # noqa: N802
        """A as a matrix; for tests and small layers."""
        A_II = torch.eye(self.S_OI.shape[-1], dtype=self.A_CC.dtype, device=self.A_CC.device)
        columns = self.A_KK.shape[-1] * self.A_CC.shape[-1]
        A_II[:columns, :columns] = torch.kron(self.A_KK, self.A_CC)
        return A_II

    def times_A(self, W_OI: Weights) -> Weights:  # noqa: N802
        """W A."""
        return self._transformed(W_OI, self.A_CC, self.A_KK.mT)

    def times_A_transposed(self, W_OI: Weights) -> Weights:  # noqa: N802
        """W Aᵀ."""
        return self._transformed(W_OI, self.A_CC.mT, self.A_KK)

    def gradient_in_A(self, X_OI: Weights, Z_OI: Weights) -> tuple[Tensor, ...]:  # noqa: N802
        """Gradient of ⟨X A, Z⟩ in A_CC and A_KK."""
        X_OKC, Z_OKC = self._kernels(X_OI), self._kernels(Z_OI)
        in_places = (_over_outputs(self.A_KK.mT) @ X_OKC).flatten(-3, -2)
        in_channels = X_OKC @ _over_outputs(self.A_CC)
        return (
            in_places.mT @ Z_OKC.flatten(-3, -2),
            in_channels.transpose(-3, -2).flatten(-2) @ Z_OKC.transpose(-3, -2).flatten(-2).mT,
        )

    def gram(self) -> tuple["SpatialFactors", Float[Tensor, "*batch I"]]:
        """The same with AᵀA in A's place, entries squared, and the diagonal of AᵀA."""
        C_CC, C_KK = self.A_CC.mT @ self.A_CC, self.A_KK.mT @ self.A_KK
        diagonals = C_KK.diagonal(dim1=-2, dim2=-1).unsqueeze(-1) * C_CC.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
        bias = self.S_OI.shape[-1] - diagonals.shape[-1] * diagonals.shape[-2]
        diagonal = torch.nn.functional.pad(diagonals.flatten(-2), (0, bias), value=1.0)
        return self._replace(A_CC=C_CC.square(), A_KK=C_KK.square()), diagonal

    def _kernels(self, W_OI: Weights) -> Float[Tensor, "*batch O K C"]:
        """Rows as kernels ``(out, places, channels)``, without the bias."""
        places, channels = self.A_KK.shape[-1], self.A_CC.shape[-1]
        kernels: Float[Tensor, "*batch O K C"] = W_OI[..., : places * channels].unflatten(-1, (places, channels))
        return kernels

    def _transformed(self, W_OI: Weights, channels_CC: Channels, places_KK: Places) -> Weights:
        kernels = _over_outputs(places_KK) @ (self._kernels(W_OI) @ _over_outputs(channels_CC))
        columns = kernels.shape[-1] * kernels.shape[-2]
        return torch.cat([kernels.flatten(-2), W_OI[..., columns:]], dim=-1)


_LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined] # torch does not list it
AnyFactors = Factors | SpatialFactors


def _over_outputs(matrix: Tensor) -> Tensor:
    """A matrix that multiplies each output's kernel; without batch dimensions torch makes one large product of them."""
    return matrix.unsqueeze(-3) if matrix.ndim > 2 else matrix  # noqa: PLR2004 - a matrix has two


def identity(out_features: int, in_features: int, *, dtype: torch.dtype, device: torch.device) -> Factors:
    """Factors whose preconditioner is the identity: A = B = I, S = 1."""
    return Factors(
        torch.eye(in_features, dtype=dtype, device=device),
        torch.eye(out_features, dtype=dtype, device=device),
        torch.ones(out_features, in_features, dtype=dtype, device=device),
    )


def spatial_identity(
    out_features: int, in_features: int, places: int, *, dtype: torch.dtype, device: torch.device
) -> SpatialFactors:
    """The same for a kernel of ``places`` entries a channel; where in_features / places has a rest, it is the bias."""
    return SpatialFactors(
        torch.eye(in_features // places, dtype=dtype, device=device),
        torch.eye(places, dtype=dtype, device=device),
        torch.eye(out_features, dtype=dtype, device=device),
        torch.ones(out_features, in_features, dtype=dtype, device=device),
    )


def precondition(factors: AnyFactors, G_OI: Weights) -> Weights:
    """P vec(G) in matrix form, B (S² ∘ (Bᵀ G A)) Aᵀ; the same shape as ``G_OI``.

    >>> I = identity(2, 3, dtype=torch.float64, device=torch.device("cpu"))
    >>> G = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    >>> bool((precondition(I, G) == G).all())
    True
    """
    B, S = factors.B_OO, factors.S_OI
    return factors.times_A_transposed(B @ (S.square() * (B.mT @ factors.times_A(G_OI))))


def meta_gradient(factors: AnyFactors, G_OI: Weights, q_OI: Weights, rate: float) -> AnyFactors:
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
    B, S = factors.B_OO, factors.S_OI
    GA_OI, qA_OI = factors.times_A(G_OI), factors.times_A(q_OI)
    G_tilde, q_tilde = B.mT @ GA_OI, B.mT @ qA_OI
    squared = S.square()
    G_scaled, q_scaled = squared * G_tilde, squared * q_tilde
    in_A = zip(factors.gradient_in_A(B.mT @ G_OI, q_scaled), factors.gradient_in_A(B.mT @ q_OI, G_scaled), strict=True)
    return type(factors)._make(
        [
            *(-rate * (one + other) for one, other in in_A),
            -rate * (GA_OI @ q_scaled.mT + qA_OI @ G_scaled.mT),
            (-2.0 * rate) * S * G_tilde * q_tilde,
        ]
    )


def dense(factors: AnyFactors) -> Float[Tensor, "OI OI"]:
    """P as a matrix of (in · out) × (in · out), acting on vec by columns; for tests and small layers."""
    kron = torch.kron(factors.A_II, factors.B_OO)
    scales = factors.S_OI.mT.reshape(-1)
    return (kron * scales.square()) @ kron.mT


class NoEigenvectorsError(ArithmeticError):
    """The solver of eigenvalues fails."""


def eigenvectors(matrix_DD: Symmetric) -> tuple[Float[Tensor, "*batch D"], Symmetric]:
    """Eigenvalues and eigenvectors of a symmetric matrix, computed in float64 where the solver fails in float32.

    On CUDA it is known to fail for matrices of low rank.

    Raises:
        NoEigenvectorsError: The solver fails in float64 too.
    """
    for dtype in dict.fromkeys((matrix_DD.dtype, torch.float64)):
        try:
            values, vectors = torch.linalg.eigh(matrix_DD.to(dtype))
        except RuntimeError as error:  # which cuSOLVER's own errors become
            if not isinstance(error, _LinAlgError) and "cusolver" not in str(error).lower():
                raise
            failure = error
        else:
            return values.to(matrix_DD.dtype), vectors.to(matrix_DD.dtype)
    raise NoEigenvectorsError(str(failure)) from failure


def damped_kfac(A_factor_II: Inputs, G_factor_OO: Outputs, fisher_weight: float, damping: float) -> Factors:
    """Factors of (λ_F Ā ⊗ Ḡ + λ_W I)⁻¹: unfactored damped KFAC is exactly representable.

    A = U_A, B = U_G and S = (λ_F s_G s_Aᵀ + λ_W)^(−1/2), from the eigendecompositions of both factors.

    Args:
        A_factor_II: Ā, second moment of the inputs, symmetric positive semidefinite.
        G_factor_OO: Ḡ, second moment of the output gradients, likewise.
        fisher_weight: λ_F.
        damping: λ_W, positive.
    """
    s_A, U_A = eigenvectors(A_factor_II)
    s_G, U_G = eigenvectors(G_factor_OO)
    s_A, s_G = s_A.clamp_min(0.0), s_G.clamp_min(0.0)  # moments that were rounded to 16 bit have negative ones
    eigenvalues_OI = fisher_weight * s_G.unsqueeze(-1) * s_A.unsqueeze(-2) + damping
    return Factors(U_A, U_G, eigenvalues_OI.rsqrt())


def distance_from_identity(factors: AnyFactors) -> float:
    """‖P − I‖ / ‖I‖ in the Frobenius norm, without forming P.

    With C = AᵀA and D = BᵀB, ‖P‖² = ⟨S², D∘D S² C∘C⟩ and tr P = ⟨S², diag(D) diag(C)ᵀ⟩.
    """
    B, squared = factors.B_OO, factors.S_OI.square()
    D_OO = B.mT @ B
    gram, diagonal = factors.gram()
    norm = (squared * (D_OO.square() @ gram.times_A(squared))).sum()
    trace = (squared * torch.outer(D_OO.diagonal(), diagonal)).sum()
    size = squared.numel()
    return float(((norm - 2.0 * trace + size).clamp_min(0.0) / size).sqrt())
