"""What is derived of the method, each statement by its number, in float64.

Shapes: a layer's gradients and steps are matrices ``G_OI``; vec is by columns, so that a matrix over all weights of a
layer is indexed in × out, as in `kronecker`.
"""

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from support.devices import CPU
from support.objectives import NOTHING, OBJECTIVES
from support.theory import F64, POLICY, WEIGHTS, FrozenLayer, relative, size_of
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev

from apo_bench.data.examples import Batch
from apo_bench.models.alexnet import alexnet
from apo_bench.models.lenet import lenet
from apo_bench.models.resnet import resnet18
from apo_bench.models.vgg import vgg16
from apo_bench.optim.apo_lr import APOLR
from apo_bench.optim.kronecker import Factors, dense, identity
from apo_bench.optim.meta import MetaOptimizer
from apo_bench.optim.proximal import ProximalObjective, ProximalWeights
from apo_bench.problem.objectives import CrossEntropy, Objective
from apo_bench.problem.problem import Problem

MODELS: dict[str, Callable[[], nn.Module]] = {
    "lenet": lambda: lenet(in_channels=1, image_size=28, classes=3),
    "alexnet": lambda: alexnet(in_channels=1, image_size=28, classes=3, width=4),
    "vgg16": lambda: vgg16(in_channels=1, image_size=28, classes=3, width=4),
    "resnet18": lambda: resnet18(in_channels=1, classes=3, width=4),
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)),
}


def _vec(matrix: Tensor) -> Tensor:
    return matrix.mT.reshape(*matrix.shape[:-2], -1)


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
def test_t4_the_discrepancys_hessian_is_the_gauss_newton_matrix(name: str, reverse: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """In either direction of the divergence."""
    objective, _ = OBJECTIVES[name]
    network = _Network()
    old = network.outputs(network.start)

    def discrepancy(vector: Tensor) -> Tensor:
        new = network.outputs(vector)
        return objective.discrepancy(*((old, new) if reverse else (new, old)), NOTHING)

    assert float(discrepancy(network.start).abs()) < 1e-15
    assert float(grad(discrepancy)(network.start).abs().max()) < 1e-15
    assert relative(_hessian(discrepancy)(network.start), network.gauss_newton(objective)) < 1e-12


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
    assert relative(got, network.gauss_newton(objective)) < 1e-12  # type: ignore[arg-type] # torch types it loosely


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
    assert relative(fisher, network.gauss_newton(objective)) < 1e-12


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_t4_the_discrepancy_of_unmoved_parameters_vanishes_with_its_gradient(name: str, reverse: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """For every model of the suite, in training mode: q is the step's own gradient, however large λ_FSD is."""
    model = MODELS[name]().double()
    batches = [Batch((torch.randn(8, 1, 28, 28, dtype=F64),), torch.randint(0, 3, (8,))) for _ in range(2)]
    problem = Problem(model, CrossEntropy(), POLICY, lambda: batches[1])
    state = problem.random_state()
    g = problem.gradients(problem.loss(problem.outputs(batches[0]), batches[0])).values
    q = ProximalObjective(problem, batches[0], state, ProximalWeights(fsd=100.0, wsd=100.0, reverse=reverse)).gradient()
    for got, want in zip(q.values, g, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


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
    layer, draw = FrozenLayer(), _second_moments()[moments]
    rule = layer.rule(meta_lr=5e-3)
    best = torch.linalg.inv(layer.M)
    assert relative(dense(rule.factors[0]), best) > 0.3
    for _ in range(900):
        layer.step(rule, draw())
    assert relative(dense(rule.factors[0]), best) < 1e-6


def test_t1b_the_best_learning_rate_under_the_linearized_loss() -> None:
    """η* = E‖g‖² / E[gᵀ (λ_FSD G + λ_WSD I) g]: stationary for APO-LR, and reached from a tenth and from threefold.

    Unlike T1's, it is the best only of the mean, not for each gradient, hence a meta-learning-rate that falls.
    """
    layer, draw = FrozenLayer(), _second_moments()["skewed"]
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
    curvature = FrozenLayer().M
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
        self.layer = FrozenLayer(torch.diag(torch.tensor([0.5, 1.0, 2.0], dtype=F64)))
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
        return size_of(meta_gradients)

    def independent(factors: Factors) -> float:
        pairs = itertools.product(case.gradients, repeat=2)
        return size_of([case.layer.meta_gradient(factors, G_OI, loss_OI) for G_OI, loss_OI in pairs])

    assert production(inverse) < 1e-12 * production(rank_one)
    assert independent(rank_one) < 1e-12 * independent(inverse)
