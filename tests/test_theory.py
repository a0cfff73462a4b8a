"""What is derived of the method, each statement by its number, in float64.

Shapes: a layer's gradients and steps are matrices ``G_OI``; vec is by columns, so that a matrix over all weights of a
layer is indexed in × out, as in `kronecker`.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_objectives import NOTHING, OBJECTIVES
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev

from apo_bench.data.examples import Batch
from apo_bench.models.alexnet import alexnet
from apo_bench.models.lenet import lenet
from apo_bench.models.resnet import resnet18
from apo_bench.models.vgg import vgg16
from apo_bench.optim import kronecker
from apo_bench.optim.apo_lr import APOLR
from apo_bench.optim.apo_p import APOP
from apo_bench.optim.kronecker import Factors, damped_kfac, dense, identity, meta_gradient, precondition
from apo_bench.optim.meta import MetaOptimizer
from apo_bench.optim.proximal import ProximalObjective, ProximalWeights
from apo_bench.problem.objectives import CrossEntropy, Objective, SquaredError
from apo_bench.problem.precision import PrecisionPolicy
from apo_bench.problem.problem import Problem
from apo_bench.records.spec import Precision

CPU = torch.device("cpu")
F64 = torch.float64
WEIGHTS = ProximalWeights(fsd=0.7, wsd=0.3)
POLICY = PrecisionPolicy(Precision.FP32, CPU)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "lenet": lambda: lenet(in_channels=1, image_size=28, classes=3),
    "alexnet": lambda: alexnet(in_channels=1, image_size=28, classes=3, width=4),
    "vgg16": lambda: vgg16(in_channels=1, image_size=28, classes=3, width=4),
    "resnet18": lambda: resnet18(in_channels=1, classes=3, width=4),
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)),
}


def _vec(matrix: Tensor) -> Tensor:
    return matrix.mT.reshape(*matrix.shape[:-2], -1)


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def _hessian(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Reverse over reverse; `torch.func.hessian` goes forward and warns of torch's own use of TorchScript."""
    twice: Callable[[Tensor], Tensor] = jacrev(jacrev(function))
    return twice


class _Network:
    """A small network as a function of one vector of parameters, with its curvature by torch.func."""

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()
        self.inputs = torch.randn(5, 4, dtype=F64)
        self.start = torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])

    def outputs(self, vector: Tensor) -> Tensor:
        parameters = dict(self.model.named_parameters())
        parts = vector.split([parameter.numel() for parameter in parameters.values()])
        state = {name: part.view_as(like) for (name, like), part in zip(parameters.items(), parts, strict=True)}
        out: Tensor = functional_call(self.model, state, self.inputs)
        return out

    def gauss_newton(self, objective: Objective) -> Tensor:
        """The mean over examples of Jᵀ H J, with H the Hessian of the loss in the outputs."""
        outputs = self.outputs(self.start)
        jacobian_BCP = jacrev(self.outputs)(self.start)
        targets = objective.sample_targets(outputs, NOTHING, torch.Generator().manual_seed(0))
        total = torch.zeros(len(self.start), len(self.start), dtype=F64)
        for f_C, target, J_CP in zip(outputs, targets, jacobian_BCP, strict=True):
            H_CC = _hessian(lambda f: objective.loss(f[None], Batch((), target[None])))(f_C)  # noqa: B023 - used at once
            total += J_CP.mT @ H_CC @ J_CP
        return total / len(outputs)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_t4_the_discrepancys_hessian_is_the_gauss_newton_matrix(name: str, reverse: bool) -> None:  # noqa: FBT001
    """In either direction of the divergence."""
    objective, _ = OBJECTIVES[name]
    network = _Network()
    old = network.outputs(network.start)

    def discrepancy(vector: Tensor) -> Tensor:
        new = network.outputs(vector)
        return objective.discrepancy(*((old, new) if reverse else (new, old)), NOTHING)

    assert float(discrepancy(network.start).abs()) < 1e-15
    assert float(grad(discrepancy)(network.start).abs().max()) < 1e-15
    assert _relative(_hessian(discrepancy)(network.start), network.gauss_newton(objective)) < 1e-12


@pytest.mark.parametrize("name", OBJECTIVES)
def test_t4_the_hessians_square_root_gives_the_gauss_newton_matrix(name: str) -> None:
    objective, _ = OBJECTIVES[name]
    network = _Network()
    problem = Problem(network.model, objective, POLICY, lambda: Batch((), torch.empty(0)))
    outputs = problem.outputs(Batch((network.inputs,), torch.empty(0)))
    jacobian_BCP = jacrev(network.outputs)(network.start)
    products = [
        torch.einsum("bcp,bc->bp", jacobian_BCP, v_BC) for v_BC in problem.hessian_square_root(outputs, NOTHING)
    ]
    got = sum(product.mT @ product for product in products) / len(outputs)
    assert _relative(got, network.gauss_newton(objective)) < 1e-12


def _every_target(name: str, outputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Targets and their probability by example; for the Gaussian, points with its first two moments."""
    count, classes = outputs.shape
    _, distribution = OBJECTIVES[name]
    if name == "SquaredError":
        for point in (classes**0.5) * torch.cat([torch.eye(classes, dtype=F64), -torch.eye(classes, dtype=F64)]):
            yield outputs + point, torch.full((count,), 0.5 / classes, dtype=F64)
    elif name == "CrossEntropy":
        for label in range(classes):
            targets = torch.full((count,), label)
            yield targets, distribution(outputs).log_prob(targets).exp()
    else:
        for bits in itertools.product([0.0, 1.0], repeat=classes):
            targets = torch.tensor(bits, dtype=F64).expand(count, classes)
            yield targets, distribution(outputs).log_prob(targets).sum(1).exp()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_t4_and_both_are_the_fisher_matrix(name: str) -> None:
    """The second moment of the gradient over the model's own predictive distribution, summed exactly."""
    objective, _ = OBJECTIVES[name]
    network = _Network()
    outputs = network.outputs(network.start)
    jacobian_BCP = jacrev(network.outputs)(network.start)
    fisher = torch.zeros(len(network.start), len(network.start), dtype=F64)
    for targets, probability_B in _every_target(name, outputs):
        leaf = outputs.detach().requires_grad_()
        (residual_BC,) = torch.autograd.grad(objective.loss(leaf, Batch((), targets)) * len(leaf), leaf)
        g_BP = torch.einsum("bcp,bc->bp", jacobian_BCP, residual_BC)
        fisher += (g_BP * probability_B[:, None]).mT @ g_BP / len(outputs)
    assert _relative(fisher, network.gauss_newton(objective)) < 1e-12


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_t4_the_discrepancy_of_unmoved_parameters_vanishes_with_its_gradient(name: str, reverse: bool) -> None:  # noqa: FBT001
    """For every model of the suite, in training mode: q is the step's own gradient, however large λ_FSD is."""
    model = MODELS[name]().double()
    batches = [Batch((torch.randn(8, 1, 28, 28, dtype=F64),), torch.randint(0, 3, (8,))) for _ in range(2)]
    problem = Problem(model, CrossEntropy(), POLICY, lambda: batches[1])
    state = problem.random_state()
    g = problem.gradients(problem.loss(problem.outputs(batches[0]), batches[0])).values
    q = ProximalObjective(problem, batches[0], state, ProximalWeights(fsd=100.0, wsd=100.0, reverse=reverse)).gradient()
    for got, want in zip(q.values, g, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


class _LinearizedSquaredError(SquaredError):
    """Squared error linearized at a frozen θ: the targets are the residuals there, and the loss is ⟨f, residual⟩."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return (outputs * batch.targets).sum() / len(outputs)


class _FrozenLayer:
    """A linear layer, 3 inputs and 2 outputs, that every step finds at the same θ, under the linearized loss.

    The FSD's Hessian is the Kronecker product of the second moment of B′'s inputs with I, so that
    (λ_FSD G + λ_WSD I)⁻¹ is a P with the structure of APO-P; a batch can be made for any gradient.
    """

    def __init__(self, moment_II: Tensor | None = None) -> None:
        self.model = nn.Linear(3, 2, bias=False).double()
        self.start = self.model.weight.detach().clone()
        self.inputs = torch.randn(6, 3, dtype=F64)
        other = torch.randn(5, 3, dtype=F64)
        if moment_II is not None:
            other = 3**0.5 * torch.linalg.cholesky(moment_II).mT
        self.moment_II = other.mT @ other / len(other)
        self.problem = Problem(
            self.model, _LinearizedSquaredError(), POLICY, lambda: Batch((other,), torch.empty(len(other), 2))
        )
        self.M = WEIGHTS.fsd * torch.kron(self.moment_II, torch.eye(2, dtype=F64)) + WEIGHTS.wsd * torch.eye(
            6, dtype=F64
        )
        self.best = damped_kfac(self.moment_II, torch.eye(2, dtype=F64), WEIGHTS.fsd, WEIGHTS.wsd)

    def batch(self, G_OI: Tensor) -> Batch:
        """A batch whose gradient is ``G_OI``."""
        gram = self.inputs.mT @ self.inputs / len(self.inputs)
        return Batch((self.inputs,), self.inputs @ torch.linalg.solve(gram, G_OI.mT))

    def rule(self, factors: Factors | None = None, **options: Any) -> APOP:
        """APO-P at the frozen θ, with P of the given factors."""
        rule = APOP(self.problem, lr=1.0, weights=WEIGHTS, **{"interval": 1, "momentum": 0.0, **options})
        if factors is not None:
            for part, value in zip(rule.factors[0], factors, strict=True):
                part.copy_(value)
        return rule

    def step(self, rule: Any, G_OI: Tensor) -> None:
        """Step on a batch of this gradient and put θ back."""
        rule.step(self.batch(G_OI))
        with torch.no_grad():
            self.model.weight.copy_(self.start)

    def meta_gradient(self, factors: Factors, G_OI: Tensor, loss_OI: Tensor) -> Factors:
        """∂Q/∂(A, B, S) when ``G_OI`` made the step and the loss term's batch has the gradient ``loss_OI``."""
        state = self.problem.random_state()
        objective = ProximalObjective(self.problem, self.batch(loss_OI), state, WEIGHTS)
        with torch.no_grad():
            self.model.weight.copy_(self.start - precondition(factors, G_OI))
        (q_OI,) = objective.gradient().values
        with torch.no_grad():
            self.model.weight.copy_(self.start)
        assert q_OI is not None
        return meta_gradient(factors, G_OI, q_OI, 1.0)


@pytest.fixture
def meta_gradients(monkeypatch: pytest.MonkeyPatch) -> list[Factors]:
    """The meta-gradients that production code computes, as they come."""
    caught: list[Factors] = []
    original = kronecker.meta_gradient

    def spy(*arguments: Any) -> Factors:
        caught.append(original(*arguments))
        return caught[-1]

    monkeypatch.setattr(kronecker, "meta_gradient", spy)
    return caught


def _size(gradients: list[Factors]) -> float:
    """Norm of the mean of meta-gradients."""
    means = [torch.stack(parts).mean(0) for parts in zip(*gradients, strict=True)]
    return float(torch.cat([mean.flatten() for mean in means]).norm())


def _second_moments() -> dict[str, Callable[[], Tensor]]:
    spread = torch.tensor([[0.3, 1.0, 2.0], [1.5, 0.5, 0.8]], dtype=F64)
    mean = torch.tensor([[1.0, -0.5, 0.2], [0.3, 0.8, -1.0]], dtype=F64)
    return {
        "isotropic": lambda: torch.randn(2, 3, dtype=F64),
        "skewed": lambda: mean + spread * torch.randn(2, 3, dtype=F64),
    }


@pytest.mark.parametrize("moments", _second_moments())
def test_t1_meta_descent_reaches_the_damped_inverse_curvature_whatever_the_second_moment(moments: str) -> None:
    """P* = (λ_FSD G + λ_WSD I)⁻¹, by APO-P's own steps on batches of random gradients, from the identity."""
    layer, draw = _FrozenLayer(), _second_moments()[moments]
    rule = layer.rule(meta_lr=5e-3)
    best = torch.linalg.inv(layer.M)
    assert _relative(dense(rule.factors[0]), best) > 0.3
    for _ in range(900):
        layer.step(rule, draw())
    assert _relative(dense(rule.factors[0]), best) < 1e-6


def test_t1b_the_best_learning_rate_under_the_linearized_loss() -> None:
    """η* = E‖g‖² / E[gᵀ (λ_FSD G + λ_WSD I) g]: stationary for APO-LR, and reached from a tenth and from threefold.

    Unlike T1's, it is the best of the mean alone and not for each gradient, hence a meta-learning-rate that falls.
    """
    layer, draw = _FrozenLayer(), _second_moments()["skewed"]
    gradients = [draw() for _ in range(20)]
    vectors = torch.stack([_vec(G_OI) for G_OI in gradients])
    best = float(vectors.square().sum() / ((vectors @ layer.M) * vectors).sum())

    def rule(rate: float, meta_lr: float) -> APOLR:
        base = torch.optim.SGD(layer.problem.parameters, lr=rate)
        return APOLR(
            layer.problem, base, weights=WEIGHTS, meta_lr=meta_lr, meta_optimizer=MetaOptimizer.SGD, interval=1
        )

    def meta_gradients(rate: float) -> Tensor:
        fixed, found = rule(rate, 0.0), []
        for G_OI in gradients:
            layer.step(fixed, G_OI)
            assert fixed._psi.grad is not None
            found.append(fixed._psi.grad.item())
        return torch.tensor(found, dtype=F64)

    at_best = meta_gradients(best)
    assert abs(float(at_best.sum())) < 1e-10 * float(at_best.abs().sum())
    assert float(meta_gradients(0.9 * best).sum()) < 0.0 < float(meta_gradients(1.1 * best).sum())
    for initial in (0.1 * best, 3.0 * best):
        adaptive = rule(initial, 0.0)
        for meta_lr in [1e-2] * 15 + [1e-3] * 10:
            adaptive._meta.param_groups[0]["lr"] = meta_lr
            for G_OI in gradients:
                layer.step(adaptive, G_OI)
        assert adaptive.learning_rates[0] == pytest.approx(best, rel=0.01)


def _objective(P: Tensor, M: Tensor, stepping: Tensor, in_loss: Tensor) -> Tensor:
    """The mean of Q over rows of gradients: the first make the step, the others are in the loss term."""
    step = stepping @ P.mT
    return (-(step * in_loss).sum(1) + 0.5 * ((step @ M) * step).sum(1)).mean()


def test_t1c_with_an_independent_batch_the_best_full_preconditioner_has_rank_one() -> None:
    """P* = (λ_FSD G + λ_WSD I)⁻¹ ḡ ḡᵀ Σ⁻¹ over all pairs of gradients, and the inverse curvature over equal pairs."""
    curvature = _FrozenLayer().M
    g = torch.randn(15, 6, dtype=F64) + torch.linspace(-1.0, 1.0, 6, dtype=F64)
    mean, second_moment = g.mean(0), g.mT @ g / len(g)
    inverse = torch.linalg.inv(curvature)
    rank_one = inverse @ torch.outer(mean, mean) @ torch.linalg.inv(second_moment)
    assert torch.linalg.matrix_rank(rank_one) == 1

    def slope(P: Tensor, *, independent: bool) -> float:
        leaf = P.clone().requires_grad_()
        stepping = g.repeat_interleave(len(g), 0) if independent else g
        in_loss = g.repeat(len(g), 1) if independent else g
        return float(torch.autograd.grad(_objective(leaf, curvature, stepping, in_loss), leaf)[0].norm())

    assert slope(rank_one, independent=True) < 1e-12 * slope(inverse, independent=True)
    assert slope(inverse, independent=False) < 1e-12 * slope(rank_one, independent=False)


class _SharedBasis:
    """Gradients whose mean and second moment have the eigenvectors of the curvature: single weights.

    Then every P* is diagonal in the weights: a P of APO-P with A = B = I and S² on the diagonal.
    """

    def __init__(self, mean: float, noise: float) -> None:
        self.layer = _FrozenLayer(torch.diag(torch.tensor([0.5, 1.0, 2.0], dtype=F64)))
        self.mean_OI = torch.tensor([[mean, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=F64)
        deviations = noise * torch.tensor([1.0, 0.7, 1.3, 0.8, 1.1, 0.9], dtype=F64).diag().reshape(6, 2, 3)
        self.gradients = torch.cat([self.mean_OI + deviations, self.mean_OI - deviations])
        self.curvature_OI = self.layer.M.diagonal().reshape(3, 2).mT
        self.second_moment_OI = self.gradients.square().mean(0)
        self.mean_square_OI = self.mean_OI.square()

    def factors(self, diagonal_OI: Tensor) -> Factors:
        """P that multiplies each weight's gradient by an entry of ``diagonal_OI``."""
        return identity(2, 3, dtype=F64, device=CPU)._replace(S_OI=diagonal_OI.sqrt())


def test_t1c_production_reuses_the_batch(meta_gradients: list[Factors]) -> None:
    """Its meta-gradient vanishes at T1's P and not at T1c's; with another batch in the loss term it is the reverse."""
    case = _SharedBasis(mean=1.0, noise=1.5)
    inverse = case.factors(1.0 / case.curvature_OI)
    rank_one = case.factors(case.mean_square_OI / (case.curvature_OI * case.second_moment_OI))
    assert torch.linalg.matrix_rank(dense(rank_one)) == 1

    def production(factors: Factors) -> float:
        meta_gradients.clear()
        rule = case.layer.rule(factors, meta_lr=0.0)
        for G_OI in case.gradients:
            case.layer.step(rule, G_OI)
        assert len(meta_gradients) == len(case.gradients)
        return _size(meta_gradients)

    def independent(factors: Factors) -> float:
        pairs = itertools.product(case.gradients, repeat=2)
        return _size([case.layer.meta_gradient(factors, G_OI, loss_OI) for G_OI, loss_OI in pairs])

    assert production(inverse) < 1e-12 * production(rank_one)
    assert independent(rank_one) < 1e-12 * independent(inverse)


def _steady_slope(
    P: Tensor, M: Tensor, gradients: Tensor, momentum: float, *, weight: float, momentum_first: bool
) -> Tensor:
    """∂ E[Q] / ∂P after several steps of many runs at a frozen θ, by autograd through the last step alone.

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
    return inverse @ second @ torch.linalg.inv(weight * second + weight * momentum / (1.0 - momentum) * square)


def _best_before(inverse: Tensor, second: Tensor, square: Tensor, momentum: float, weight: float) -> Tensor:
    """T9's P* for θ′ = θ − P m, m ← μ m + weight · g.

    P* = M⁻¹ E[g mᵀ] E[m mᵀ]⁻¹, and with a = μ / (1 − μ)

        E[g mᵀ] = weight (Σ + a ḡ ḡᵀ),    E[m mᵀ] = weight² (Σ + 2 a ḡ ḡᵀ) / (1 − μ²).
    """
    a = momentum / (1.0 - momentum)
    factor = (1.0 - momentum**2) / weight
    return factor * inverse @ (second + a * square) @ torch.linalg.inv(second + 2.0 * a * square)


@pytest.mark.parametrize("dampened", [False, True])
@pytest.mark.parametrize("momentum_first", [False, True])
def test_t9_the_best_preconditioner_with_momentum(momentum_first: bool, dampened: bool) -> None:  # noqa: FBT001
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


@pytest.mark.parametrize("mean", [0.0, 0.7])
@pytest.mark.parametrize("dampening", [0.0, 0.5])
def test_t9_production_is_stationary_there(dampening: float, mean: float, meta_gradients: list[Factors]) -> None:
    """And not at M⁻¹, nor where momentum after P would have it; one weight alone has a gradient, mean ± 1."""
    momentum, length = 0.5, 8
    layer = _FrozenLayer(torch.diag(torch.tensor([0.5, 1.0, 2.0], dtype=F64)))
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
        return _size(meta_gradients[length - 1 :])

    at_best = slope(_best_before(*arguments))
    assert at_best < 0.03 * slope(inverse)
    assert at_best < 0.03 * slope(_best_after(*arguments))


def test_t9_dampening_keeps_the_total_displacement_of_a_gradient() -> None:
    """Over all steps a gradient moves θ by P g with dampening = μ, and by P g / (1 − μ) without dampening."""
    layer = _FrozenLayer()
    G_OI = torch.randn(2, 3, dtype=F64)
    expected = precondition(layer.best, G_OI)
    for dampening, factor in ((None, 1.0), (0.0, 5.0)):
        rule = layer.rule(layer.best, meta_lr=0.0, interval=1000, momentum=0.8, dampening=dampening)
        zero = torch.zeros_like(G_OI)
        layer.step(rule, zero)  # the very first gradient is never dampened, as in torch.optim.SGD
        for gradient in (G_OI, *[zero] * 160):
            rule.step(layer.batch(gradient))
        moved = layer.start - layer.model.weight.detach()
        torch.testing.assert_close(moved, factor * expected, rtol=1e-12, atol=1e-12)
        with torch.no_grad():
            layer.model.weight.copy_(layer.start)


@pytest.mark.parametrize("dampening", [None, 0.0])
def test_t9_where_noise_dominates_the_total_displacement_is_not_too_long_by_1_over_1_minus_momentum(
    dampening: float | None,
) -> None:
    """Over all steps APO-P's own descent lets a gradient of pure noise move θ by (1 + μ) M⁻¹ g, dampened or not.

    Momentum before P is what bounds it: with momentum after P it would be M⁻¹ g / (1 − μ), here 5 M⁻¹ g. Dampening
    cancels against the P* that belongs to it; it keeps P = I, the start, from being 1 / (1 − μ) times too long.
    """
    layer, momentum = _FrozenLayer(), 0.8
    rule = layer.rule(meta_lr=3e-3, momentum=momentum, dampening=dampening)
    found = []
    for step in range(2500):
        if step == 1000:
            assert rule._meta is not None
            rule._meta.param_groups[0]["lr"] = 1e-3
        layer.step(rule, torch.randn(2, 3, dtype=F64))
        found.append(dense(rule.factors[0]))
    average = torch.stack(found[1000:]).mean(0)  # with momentum P* is the best of the mean alone, and P trembles
    total = average * (1.0 if dampening is None else 1.0 / (1.0 - momentum))
    assert _relative(total, (1.0 + momentum) * torch.linalg.inv(layer.M)) < 0.05
