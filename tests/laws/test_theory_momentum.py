"""T9: the best preconditioner under momentum."""

import pytest
import torch
from support.devices import CPU
from support.theory import F64, WEIGHTS, FrozenLayer, relative, size_of
from torch import Tensor

from apo_bench.optim.apo_lr import APOLR
from apo_bench.optim.kronecker import Factors, dense, identity, precondition


def _steady_slope(
    P: Tensor, M: Tensor, gradients: Tensor, momentum: float, *, weight: float, momentum_first: bool
) -> Tensor:
    """∂ E[Q] / ∂P after several steps of many runs at a frozen θ, by autograd through the last step only.

    Args:
        P: The preconditioner, the same in all steps.
        M: λ_FSD G + λ_WSD I.
        gradients: ``(steps, runs, weights)``; the mean is over the runs.
        momentum: μ.
        weight: Of a new gradient in the buffer: 1, or 1 − μ for dampening = μ.
        momentum_first: Whether θ′ = θ − P m with m ← μ m + weight · g, or θ′ = θ − v with v ← μ v + weight · P g.
    """
    buffer = torch.zeros_like(gradients[0])
    for g in gradients[:-1]:
        buffer = momentum * buffer + weight * (g if momentum_first else g @ P.mT)
    leaf, g = P.clone().requires_grad_(), gradients[-1]
    step = (momentum * buffer + weight * g) @ leaf.mT if momentum_first else momentum * buffer + weight * g @ leaf.mT
    objective = (-(step * g).sum(1) + 0.5 * ((step @ M) * step).sum(1)).mean()
    return torch.autograd.grad(objective, leaf)[0]


def _best_after(inverse: Tensor, second: Tensor, square: Tensor, momentum: float, weight: float) -> Tensor:
    """T9's P* for v ← μ v + weight · P g; weight 1 is plain heavy-ball momentum."""
    return inverse @ second @ torch.linalg.inv(weight * second + weight * momentum / (1.0 - momentum) * square)  # type: ignore[no-any-return] # torch leaves it untyped


def _best_before(inverse: Tensor, second: Tensor, square: Tensor, momentum: float, weight: float) -> Tensor:
    """T9's P* for θ′ = θ − P m, m ← μ m + weight · g.

    P* = M⁻¹ E[g mᵀ] E[m mᵀ]⁻¹, and with a = μ / (1 − μ)

        E[g mᵀ] = weight (Σ + a ḡ ḡᵀ),    E[m mᵀ] = weight² (Σ + 2 a ḡ ḡᵀ) / (1 − μ²).
    """
    a = momentum / (1.0 - momentum)
    factor = (1.0 - momentum**2) / weight
    return factor * inverse @ (second + a * square) @ torch.linalg.inv(second + 2.0 * a * square)  # type: ignore[no-any-return] # torch leaves it untyped


@pytest.mark.parametrize("dampened", [False, True])
@pytest.mark.parametrize("momentum_first", [False, True])
def test_t9_the_best_preconditioner_with_momentum(momentum_first: bool, dampened: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Heavy-ball momentum μ, frozen θ, independent gradients, linearized loss.

    With momentum after P, v ← μ v + P g, it is M⁻¹ Σ (Σ + μ/(1−μ) ḡ ḡᵀ)⁻¹. With momentum before P, as in APO-P, it is
    (1 − μ²) M⁻¹ (Σ + a ḡ ḡᵀ) (Σ + 2 a ḡ ḡᵀ)⁻¹ with a = μ / (1 − μ). Dampening = μ multiplies both by 1 / (1 − μ).
    """
    momentum, steps = 0.4, 10
    weight = 1.0 - momentum if dampened else 1.0
    M = torch.tensor([[1.0, 0.4], [0.4, 0.5]], dtype=F64)
    three = torch.tensor([[1.0, 0.2], [-0.5, 1.1], [0.7, -0.4]], dtype=F64)
    mean, second = three.mean(0), three.mT @ three / 3
    histories = torch.cartesian_prod(*[torch.arange(3)] * steps)  # all of them, equally likely: no sampling error
    gradients = three[histories.mT]
    arguments = (torch.linalg.inv(M), second, torch.outer(mean, mean), momentum, weight)
    best, other = _best_before(*arguments), _best_after(*arguments)
    if not momentum_first:
        best, other = other, best

    def slope(P: Tensor) -> float:
        return float(_steady_slope(P, M, gradients, momentum, weight=weight, momentum_first=momentum_first).norm())

    forgotten = momentum**steps  # what lies before the first step
    for wrong in (torch.linalg.inv(M), other):
        assert slope(best) < 10.0 * forgotten * slope(wrong)


def _windows(length: int) -> list[int]:
    """Zeros and ones in which every window of this length occurs once: as uncorrelated as independent draws."""
    found, seen = [0] * length, {(0,) * length}
    while len(found) < 2**length + length - 1:
        window = (*found[len(found) - length + 1 :], 1)
        found.append(int(window not in seen))
        seen.add((*window[:-1], found[-1]))
    assert len(seen) == 2**length
    return found


def _best_rate(M: Tensor, second: Tensor, square: Tensor, momentum: float) -> float:
    """T9 for APO-LR around heavy ball, θ′ = θ − η v with v ← μ v + g: η* = E[gᵀ v] / E[vᵀ M v].

    With a = μ / (1 − μ) that is (1 − μ²) tr(Σ + a ḡ ḡᵀ) / tr(M (Σ + 2 a ḡ ḡᵀ)).
    """
    a = momentum / (1.0 - momentum)
    return float((1.0 - momentum**2) * (second + a * square).trace() / (M @ (second + 2.0 * a * square)).trace())


@pytest.mark.parametrize(
    ("mean", "apart", "least", "most"),
    [(0.0, False, 1.0, 1.0), (0.7, False, 0.5, 1.0), (5.0, False, 0.5, 0.7), (3.0, True, 1.7, 2.0)],
)
def test_t9_the_learning_rate_around_heavy_ball(mean: float, apart: bool, least: float, most: float) -> None:  # noqa: FBT001 - a parameter of the test
    """Production is stationary at η*, where a gradient moves θ over all steps ``least`` to ``most`` times 1 + μ of η₀*.

    η₀* = E‖g‖² / E[gᵀ M g] is the best rate without momentum, T1b's. With mean and noise in one direction it is half to
    all of 1 + μ; with the mean in a flat direction and the noise in a steep one, up to 1 / (1 − μ) times as much.
    """
    momentum, length = 0.5, 6
    layer = FrozenLayer(torch.diag(torch.tensor([0.01, 1.0, 100.0], dtype=F64)))
    flat, steep = torch.zeros(2, 2, 3, dtype=F64).unbind()
    flat[0, 0] = 1.0
    steep[0, 2 if apart else 0] = 1.0
    gradients = [mean * flat + deviation * steep for deviation in (-1.0, 1.0)]
    vectors = torch.stack([gradient.mT.reshape(-1) for gradient in gradients])
    second, average = vectors.mT @ vectors / 2, vectors.mean(0)
    moments = (layer.M, second, torch.outer(average, average))
    best, alone = _best_rate(*moments, momentum), _best_rate(*moments, 0.0)

    def slope(rate: float) -> float:
        base = torch.optim.SGD(layer.problem.parameters, lr=rate, momentum=momentum)
        rule, found = APOLR(layer.problem, base, weights=WEIGHTS, meta_lr=0.0, interval=1), []
        for place in _windows(length):
            layer.step(rule, gradients[place])
            assert rule._psi.grad is not None
            found.append(rule._psi.grad.item())
        return sum(found[length - 1 :]) / len(found[length - 1 :])

    assert slope(0.8 * best) < 0.0 < slope(1.25 * best)
    assert abs(slope(best)) < 0.03 * abs(slope(2.0 * best))
    assert least - 1e-12 <= best / (1.0 - momentum) / alone / (1.0 + momentum) <= most + 1e-12


@pytest.mark.parametrize("mean", [0.0, 0.7])
@pytest.mark.parametrize("dampening", [0.0, 0.5])
def test_t9_production_is_stationary_there(dampening: float, mean: float, meta_gradients: list[Factors]) -> None:
    """And not at M⁻¹, nor where momentum after P would have it; only one weight has a gradient, mean ± 1."""
    momentum, length = 0.5, 8
    layer = FrozenLayer(torch.diag(torch.tensor([0.5, 1.0, 2.0], dtype=F64)))
    unit = torch.zeros(2, 3, dtype=F64)
    unit[0, 0] = 1.0
    gradients = [(mean + deviation) * unit for deviation in (-1.0, 1.0)]
    inverse = 1.0 / layer.M[:1, :1]
    second, square = torch.tensor([[[mean**2 + 1.0]], [[mean**2]]], dtype=F64)
    arguments = (inverse, second, square, momentum, 1.0 - dampening)

    def slope(value: Tensor) -> float:
        meta_gradients.clear()
        factors = identity(2, 3, dtype=F64, device=CPU)._replace(S_OI=value.sqrt().expand(2, 3).clone())
        rule = layer.rule(factors, meta_lr=0.0, momentum=momentum, dampening=dampening)
        for place in _windows(length):
            layer.step(rule, gradients[place])
        return size_of(meta_gradients[length - 1 :])

    at_best = slope(_best_before(*arguments))
    assert at_best < 0.03 * slope(inverse)
    assert at_best < 0.03 * slope(_best_after(*arguments))


def test_t9_dampening_keeps_the_total_displacement_of_a_gradient() -> None:
    """Over all steps a gradient moves θ by P g with dampening = μ, and by P g / (1 − μ) without dampening."""
    layer = FrozenLayer()
    G_OI = torch.randn(2, 3, dtype=F64)
    expected = precondition(layer.best, G_OI)
    for dampening, factor in ((None, 1.0), (0.0, 5.0)):
        rule = layer.rule(layer.best, meta_lr=0.0, interval=1000, momentum=0.8, dampening=dampening)
        zero = torch.zeros_like(G_OI)
        for gradient in (G_OI, *[zero] * 160):
            rule.step(layer.batch(gradient))
        moved = layer.start - layer.model.weight.detach()
        torch.testing.assert_close(moved, factor * expected, rtol=1e-12, atol=1e-12)
        with torch.no_grad():
            layer.model.weight.copy_(layer.start)


@pytest.mark.slow
@pytest.mark.parametrize("dampening", [None, 0.0])
def test_t9_where_noise_dominates_the_total_displacement_is_not_too_long_by_1_over_1_minus_momentum(
    dampening: float | None,
) -> None:
    """Over all steps APO-P's own descent lets a gradient of pure noise move θ by (1 + μ) M⁻¹ g, dampened or not.

    Momentum before P is what bounds it: with momentum after P it would be M⁻¹ g / (1 − μ), here 5 M⁻¹ g. Dampening
    cancels against the P* that belongs to it; it keeps P = I, the start, from being 1 / (1 − μ) times too long.
    """
    layer, momentum = FrozenLayer(), 0.8
    rule = layer.rule(meta_lr=3e-3, momentum=momentum, dampening=dampening)
    found = []
    for step in range(2500):
        if step == 1000:
            assert rule._meta is not None
            rule._meta.param_groups[0]["lr"] = 1e-3
        layer.step(rule, torch.randn(2, 3, dtype=F64))
        found.append(dense(rule.factors[0]))
    average = torch.stack(found[1000:]).mean(0)  # with momentum P* is the best only of the mean, and P trembles
    total = average * (1.0 if dampening is None else 1.0 / (1.0 - momentum))
    assert relative(total, (1.0 + momentum) * torch.linalg.inv(layer.M)) < 0.05
