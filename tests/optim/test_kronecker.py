"""The algebra of APO-P against dense matrices, in float64. Statements T2, T3, T6."""

import doctest

import pytest
import torch
from torch import Tensor

from apo_bench.optim import kronecker
from apo_bench.optim.kronecker import (
    Factors,
    SpatialFactors,
    damped_kfac,
    dense,
    distance_from_identity,
    identity,
    meta_gradient,
    precondition,
    spatial_identity,
)

SHAPES = [(4, 3), (3, 4), (1, 5), (5, 1), (2, 2)]


def _factors(out_features: int, in_features: int, *batch: int) -> Factors:
    return Factors(
        torch.randn(*batch, in_features, in_features, dtype=torch.float64),
        torch.randn(*batch, out_features, out_features, dtype=torch.float64),
        torch.randn(*batch, out_features, in_features, dtype=torch.float64),
    )


def _vec(matrix: Tensor) -> Tensor:
    return matrix.mT.reshape(-1)


def _second_moment(size: int) -> Tensor:
    samples = torch.randn(size + 2, size, dtype=torch.float64)
    return samples.mT @ samples / (size + 2)


def test_docstring_examples() -> None:
    assert doctest.testmod(kronecker, extraglobs={"torch": torch}).failed == 0


@pytest.mark.parametrize(("out_features", "in_features"), SHAPES)
def test_t2_the_matrix_form_equals_the_kronecker_form(out_features: int, in_features: int) -> None:
    factors = _factors(out_features, in_features)
    gradient = torch.randn(out_features, in_features, dtype=torch.float64)
    kron = torch.kron(factors.A_II, factors.B_OO)
    expected = kron @ torch.diag(_vec(factors.S_OI)) @ torch.diag(_vec(factors.S_OI)) @ kron.mT
    torch.testing.assert_close(dense(factors), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(_vec(precondition(factors, gradient)), expected @ _vec(gradient), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("out_features", "in_features"), SHAPES)
def test_t2_the_preconditioner_is_positive_semidefinite_and_the_identity_at_the_start(
    out_features: int, in_features: int
) -> None:
    matrix = dense(_factors(out_features, in_features))
    assert torch.equal(matrix, matrix.mT) or torch.allclose(matrix, matrix.mT, rtol=1e-12)
    scale = float(torch.linalg.matrix_norm(matrix, 2))
    assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-12 * scale
    start = identity(out_features, in_features, dtype=torch.float64, device=torch.device("cpu"))
    assert torch.equal(dense(start), torch.eye(out_features * in_features, dtype=torch.float64))


@pytest.mark.parametrize(("out_features", "in_features"), SHAPES)
def test_t3_unfactored_damped_kfac_is_exactly_representable(out_features: int, in_features: int) -> None:
    A_bar, G_bar = _second_moment(in_features), _second_moment(out_features)
    size = out_features * in_features
    damped = 0.7 * torch.kron(A_bar, G_bar) + 0.3 * torch.eye(size, dtype=torch.float64)
    got = dense(damped_kfac(A_bar, G_bar, 0.7, 0.3))
    assert float((got @ damped - torch.eye(size, dtype=torch.float64)).abs().max()) < 2e-14 * size


@pytest.mark.parametrize(("out_features", "in_features"), SHAPES)
def test_t6_the_closed_form_equals_autograd_through_the_unrolled_step(out_features: int, in_features: int) -> None:
    """Q is a nonlinear function of θ′, which autograd differentiates through θ′ = θ − η P g."""
    rate = 0.3
    weight = torch.randn(out_features, in_features, dtype=torch.float64)
    gradient = torch.randn(out_features, in_features, dtype=torch.float64)
    target = torch.randn(out_features, in_features, dtype=torch.float64)

    def objective(ahead: Tensor) -> Tensor:
        return torch.tanh(ahead * target).square().sum() + (ahead - target).pow(4).mean()

    factors = Factors(*(part.requires_grad_() for part in _factors(out_features, in_features)))
    ahead = weight - rate * precondition(factors, gradient)
    expected = torch.autograd.grad(objective(ahead), list(factors))
    leaf = ahead.detach().requires_grad_()
    (q,) = torch.autograd.grad(objective(leaf), leaf)
    got = meta_gradient(Factors(*(part.detach() for part in factors)), gradient, q, rate)
    for one, other in zip(got, expected, strict=True):
        assert float((one - other).abs().max() / other.abs().max()) < 1e-10


def test_leading_dimensions_are_independent_layers() -> None:
    factors = _factors(3, 4, 5)
    gradient, q = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    together = precondition(factors, gradient)
    gradients = meta_gradient(factors, gradient, q, 0.1)
    for layer in range(5):
        one = Factors(*(part[layer] for part in factors))
        torch.testing.assert_close(together[layer], precondition(one, gradient[layer]))
        for all_layers, single in zip(gradients, meta_gradient(one, gradient[layer], q[layer], 0.1), strict=True):
            torch.testing.assert_close(all_layers[layer], single)


SPATIAL = [(3, 4, 2, 0), (2, 9, 3, 1), (5, 4, 1, 1), (1, 1, 3, 0)]
"""Outputs, places of the kernel, channels, bias."""


def _spatial(out_features: int, places: int, channels: int, bias: int, *batch: int) -> SpatialFactors:
    return SpatialFactors(
        torch.randn(*batch, channels, channels, dtype=torch.float64),
        torch.randn(*batch, places, places, dtype=torch.float64),
        torch.randn(*batch, out_features, out_features, dtype=torch.float64),
        torch.randn(*batch, out_features, places * channels + bias, dtype=torch.float64),
    )


@pytest.mark.parametrize("shape", SPATIAL)
def test_channels_and_space_factored_equal_the_full_structure_with_that_a(shape: tuple[int, int, int, int]) -> None:
    out_features, places, channels, bias = shape
    factors = _spatial(*shape)
    full = Factors(factors.A_II, factors.B_OO, factors.S_OI)
    gradient = torch.randn(out_features, places * channels + bias, dtype=torch.float64)
    torch.testing.assert_close(precondition(factors, gradient), precondition(full, gradient), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(dense(factors), dense(full), rtol=1e-11, atol=1e-11)
    assert distance_from_identity(factors) == pytest.approx(distance_from_identity(full), rel=1e-10)
    start = spatial_identity(
        out_features, places * channels + bias, places, dtype=torch.float64, device=torch.device("cpu")
    )
    assert torch.equal(precondition(start, gradient), gradient)
    assert distance_from_identity(start) == 0.0


@pytest.mark.parametrize("shape", SPATIAL)
def test_t6_the_closed_form_of_the_factored_structure(shape: tuple[int, int, int, int]) -> None:
    factors = SpatialFactors(*(part.requires_grad_() for part in _spatial(*shape)))
    gradient, q = torch.randn(2, *factors.S_OI.shape, dtype=torch.float64)
    expected = torch.autograd.grad((-0.3 * precondition(factors, gradient) * q).sum(), list(factors))
    got = meta_gradient(SpatialFactors(*(part.detach() for part in factors)), gradient, q, 0.3)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_leading_dimensions_of_the_factored_structure_are_independent_layers() -> None:
    factors = _spatial(3, 4, 2, 1, 5)
    gradient, q = torch.randn(2, 5, 3, 9, dtype=torch.float64)
    together, gradients = precondition(factors, gradient), meta_gradient(factors, gradient, q, 0.1)
    for layer in range(5):
        one = SpatialFactors(*(part[layer] for part in factors))
        torch.testing.assert_close(together[layer], precondition(one, gradient[layer]))
        for all_layers, single in zip(gradients, meta_gradient(one, gradient[layer], q[layer], 0.1), strict=True):
            torch.testing.assert_close(all_layers[layer], single)


def test_nothing_is_made_on_another_device() -> None:
    """On the meta device, where a tensor of the CPU would be refused."""
    meta = torch.device("meta")
    for factors in (
        identity(3, 7, dtype=torch.float32, device=meta),
        spatial_identity(3, 9, 4, dtype=torch.float32, device=meta),
    ):
        G, q = torch.ones_like(factors.S_OI), torch.ones_like(factors.S_OI)
        parts = (precondition(factors, G), *meta_gradient(factors, G, q, 0.1), *factors.gram()[0])
        assert {part.device.type for part in parts} == {"meta"}
        assert [part.shape for part in meta_gradient(factors, G, q, 0.1)] == [part.shape for part in factors]


def test_damped_kfac_of_rounded_moments_is_finite() -> None:
    """Moments stored in 16 bit are not positive semidefinite any more; a negative eigenvalue counts as 0."""
    A = torch.diag(torch.tensor([1.0, -1e-2], dtype=torch.float64))
    G = torch.diag(torch.tensor([100.0, -1.0], dtype=torch.float64))
    P = dense(damped_kfac(A, G, 1.0, 0.1))
    expected = torch.diag(torch.tensor([1.0 / 100.1, 10.0, 10.0, 10.0], dtype=torch.float64))
    torch.testing.assert_close(P, expected, rtol=1e-12, atol=1e-12)
