"""APO-P: exact in float64, bit for bit SGD with momentum at meta-rate 0, and right under every precision."""

import copy
import gc
from typing import Any

import pytest
import torch
from support.devices import CPU, policy_for
from support.problems import WEIGHTS, problem_of, some_batch, some_network
from torch import Tensor, nn
from torch.func import functional_call

from apo_bench.data.examples import Batch
from apo_bench.errors import UsageError
from apo_bench.optim import kronecker
from apo_bench.optim.apo_lr import APOLR
from apo_bench.optim.apo_p import APOP, Structure
from apo_bench.optim.kronecker import AnyFactors, Factors, damped_kfac, dense
from apo_bench.optim.layers import find_layers, from_matrix, to_matrix
from apo_bench.optim.meta import MetaOptimizer
from apo_bench.optim.proximal import ProximalWeights
from apo_bench.plugins.optimizer import resolve_hyperparameters
from apo_bench.plugins.registry import optimizers
from apo_bench.problem.objectives import CrossEntropy, SquaredError
from apo_bench.problem.problem import Problem
from apo_bench.records.spec import Budget, Device, OptimizerSpec, Precision, RunSpec
from apo_bench.tasks.images import fashion_mnist_20k_lenet
from apo_bench.training.trainer import prepare


def test_during_warm_up_the_parameters_follow_sgd_while_p_is_learned() -> None:
    ends = []
    for meta_lr in (0.0, 1e-2):
        problem = problem_of(some_network())
        rule = APOP(problem, lr=0.1, weights=WEIGHTS, meta_lr=meta_lr, interval=2, warmup_steps=6)
        torch.manual_seed(5)
        for seed in range(6):
            rule.step(some_batch(seed))
        ends.append(copy.deepcopy(problem.model.state_dict()))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)
    assert rule.readings()["distance_from_identity_0"] > 1e-3
    rule.step(some_batch(6))
    assert not torch.equal(problem.model.state_dict()["0.weight"], ends[0]["0.weight"])


@pytest.mark.parametrize("structure", Structure)
def test_t6_the_meta_gradient_equals_autograd_through_the_unrolled_step(
    structure: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linear and convolution layers with bias, momentum, weight decay, batch normalization and dropout; float64."""
    network = some_network().double()
    problem = problem_of(network, dtype=torch.float64)
    rule = APOP(problem, lr=0.2, weights=WEIGHTS, meta_lr=1e-2, interval=3, weight_decay=1e-2, structure=structure)
    for seed in range(3):
        rule.step(some_batch(seed, torch.float64))
    caught: list[AnyFactors] = []
    original = kronecker.meta_gradient

    def spy(*arguments: Any) -> AnyFactors:
        caught.append(original(*arguments))
        return caught[-1]

    monkeypatch.setattr(kronecker, "meta_gradient", spy)
    batch = some_batch(3, torch.float64)
    start = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    factors = [type(own)._make(part.detach().clone().requires_grad_() for part in own) for own in rule.factors]
    masks = torch.get_rng_state()
    rule.step(batch)

    averages = list(rule._buffers.values())
    names = [name for name, _ in network.named_parameters()]
    directions = list(averages)
    for layer, own in zip(rule.layers, factors, strict=True):
        matrix = kronecker.precondition(own, to_matrix(layer, averages))
        for place, part in from_matrix(layer, matrix, averages).items():
            directions[place] = part
    ahead = {name: start[name] - 0.2 * direction for name, direction in zip(names, directions, strict=True)}

    def outputs(parameters: dict[str, Tensor], data: Batch) -> Tensor:
        torch.set_rng_state(masks)
        state = {name: buffer.clone() for name, buffer in buffers.items()}
        out: Tensor = functional_call(network, {**parameters, **state}, data.inputs)
        return out

    other = some_batch(99, torch.float64)
    loss = nn.functional.cross_entropy(outputs(ahead, batch), batch.targets)
    discrepancy = CrossEntropy().discrepancy(outputs(ahead, other), outputs(start, other).detach(), other)
    moved = sum((ahead[name] - start[name]).square().sum() for name in names)
    penalty = sum(ahead[name].square().sum() for name in names)
    objective = loss + 0.7 * discrepancy + 0.15 * moved + 0.5e-2 * penalty
    expected = torch.autograd.grad(objective, [part for own in factors for part in own])
    got = [part for own in caught for part in own]
    assert len(got) == {Structure.FULL: 6, Structure.SPATIAL: 7}[structure]
    for one, want in zip(got, expected, strict=True):
        assert float((one - want).abs().max() / want.abs().max()) < 1e-10


def _regression() -> tuple[Problem, Batch, Tensor, nn.Linear]:
    """Linear regression, 4 inputs and 3 outputs, whose Hessian I ⊗ XᵀX / N is the same for every batch."""
    inputs = torch.randn(30, 4, dtype=torch.float64)
    batch = Batch((inputs,), torch.randn(30, 3, dtype=torch.float64))
    model = nn.Linear(4, 3, bias=False).double()
    problem = Problem(model, SquaredError(), policy_for(model), lambda: batch)
    return problem, batch, inputs.mT @ inputs / 30, model


def test_t1d_the_best_preconditioner_on_an_exact_quadratic() -> None:
    """P* = (H + λ_FSD G + λ_WSD I)⁻¹: there the meta-gradient of production code vanishes."""
    problem, batch, moment, _ = _regression()
    gradients = []
    for start in ("best", "identity"):
        rule = APOP(problem, lr=1.0, weights=WEIGHTS, meta_lr=1e-12, momentum=0.0)
        if start == "best":
            best = damped_kfac(moment, torch.eye(3, dtype=torch.float64), 1.0 + WEIGHTS.fsd, WEIGHTS.wsd)
            for part, value in zip(rule.factors[0], best, strict=True):
                part.copy_(value)
        saved = copy.deepcopy(problem.model.state_dict())
        rule.step(batch)
        problem.model.load_state_dict(saved)
        assert rule._meta is not None
        moments = [rule._meta.state[part]["exp_avg"] for part in rule.factors[0]]
        gradients.append(max(float(value.abs().max()) for value in moments))
    assert gradients[0] < 1e-8 * gradients[1]


def test_t7_without_proximity_it_is_newtons_method() -> None:
    problem, batch, moment, model = _regression()
    rule = APOP(problem, lr=1.0, weights=ProximalWeights(fsd=0.0, wsd=0.0), meta_lr=0.0, momentum=0.0)
    newton = damped_kfac(moment, torch.eye(3, dtype=torch.float64), 1.0, 1e-300)
    for part, value in zip(rule.factors[0], newton, strict=True):
        part.copy_(value)
    rule.step(batch)
    solution = torch.linalg.lstsq(batch.inputs[0], batch.targets).solution.mT
    torch.testing.assert_close(model.weight.detach(), solution, rtol=1e-10, atol=1e-12)


def test_t5_adam_reaches_the_best_preconditioner_from_the_identity() -> None:
    """At a frozen θ, with gradients of many directions."""
    problem, batch, moment, model = _regression()
    rule = APOP(problem, lr=1.0, weights=WEIGHTS, meta_lr=3e-3, interval=1, momentum=0.0)
    best = torch.linalg.inv(
        torch.kron(1.7 * moment + 0.3 * torch.eye(4, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    )
    weight = model.weight.detach().clone()

    def error() -> float:
        return float((dense(rule.factors[0]) - best).norm() / best.norm())

    before = error()
    for _ in range(3000):
        rule.step(Batch(batch.inputs, torch.randn(30, 3, dtype=torch.float64) * 3.0))
        with torch.no_grad():
            model.weight.copy_(weight)
    assert error() < 0.1 * before


def test_distance_from_identity_equals_the_dense_one() -> None:
    for shape in ((3, 4), (5, 2)):
        out_features, in_features = shape
        factors = Factors(
            torch.randn(in_features, in_features, dtype=torch.float64),
            torch.randn(out_features, out_features, dtype=torch.float64),
            torch.randn(out_features, in_features, dtype=torch.float64),
        )
        matrix = dense(factors)
        unit = torch.eye(len(matrix), dtype=torch.float64)
        expected = float((matrix - unit).norm() / unit.norm())
        assert kronecker.distance_from_identity(factors) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP16, Precision.PURE_BF16])
def test_p_moves_in_float32_under_every_precision(precision: Precision) -> None:
    """Stored in 16 bit, S = 1 with steps of 1e-4 would stay 1."""
    problem = problem_of(some_network(), precision)
    rule = APOP(problem, lr=0.1, weights=WEIGHTS, meta_lr=1e-4, interval=1)
    for seed in range(8):
        rule.step(some_batch(seed))
    assert {part.dtype for factors in rule.factors for part in factors} == {torch.float32}
    assert all(not torch.equal(factors.S_OI, torch.ones_like(factors.S_OI)) for factors in rule.factors)
    assert rule.meta_updates >= 5


def test_an_overflow_of_q_skips_p_and_not_the_step() -> None:
    problem = problem_of(some_network(dropout=0.0), Precision.FP16)
    rule = APOP(problem, lr=0.1, weights=WEIGHTS, meta_lr=1e-2, interval=1)
    problem._scale("meta").value = 2.0**50
    before = problem.parameters[0].detach().clone()
    assert rule.step(some_batch(0)).applied
    assert rule.meta_updates == 0
    assert rule.readings()["distance_from_identity_0"] == 0.0
    assert not torch.equal(before, problem.parameters[0])


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.PURE_BF16])
def test_save_load_continue_equals_uninterrupted(precision: Precision) -> None:
    def made() -> tuple[Problem, APOP]:
        problem = problem_of(some_network(), precision)
        return problem, APOP(problem, lr=0.1, weights=WEIGHTS, meta_lr=1e-2, interval=2)

    problem, rule = made()
    for seed in range(5):
        rule.step(some_batch(seed))
    saved = copy.deepcopy((problem.model.state_dict(), problem.state_dict(), rule.state_dict()))
    torch.manual_seed(8)
    expected = [rule.step(some_batch(seed)).loss.item() for seed in range(5, 10)]
    other_problem, other = made()
    other_problem.model.load_state_dict(saved[0])
    other_problem.load_state_dict(saved[1])
    other.load_state_dict(saved[2])
    torch.manual_seed(8)
    assert [other.step(some_batch(seed)).loss.item() for seed in range(5, 10)] == expected


def test_state_bytes_equal_a_hand_count() -> None:
    """Momentum for every parameter; A, B, S of each layer and twice as much for Adam, with a counter each."""
    problem = problem_of(some_network())
    rule = APOP(problem, lr=0.1, weights=WEIGHTS)
    rule.step(some_batch(0))
    parameters = sum(parameter.numel() for parameter in problem.parameters)
    convolution, linear = (10**2 + 4**2 + 4 * 10), (65**2 + 3**2 + 3 * 65)
    counts = {name: sum(tensor.numel() for tensor in group) for name, group in rule.state_tensors().items()}
    assert counts == {
        "optimizer": parameters,
        "preconditioner": convolution + linear,
        "meta": 2 * (convolution + linear) + 6,
    }


@pytest.mark.parametrize("kind", ["APO-P", "APO-LR"])
def test_the_lookahead_holds_one_copy_of_the_parameters_and_one_gradient(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside what SGDm holds: parameters, gradient, momentum. Counted when the meta-gradient is made."""
    model = nn.Linear(37, 53, bias=False)
    inputs, targets = torch.randn(8, 37), torch.randint(0, 53, (8,))
    problem = Problem(model, CrossEntropy(), policy_for(model), lambda: Batch((inputs,), targets))
    rule: Any
    counts: list[int] = []

    def count(*_: Any) -> None:
        gc.collect()
        kinds = (Tensor, nn.Parameter)  # isinstance would wake up strangers
        alive = [held for held in gc.get_objects() if type(held) in kinds and held.shape == (53, 37)]
        counts.append(len({held.data_ptr() for held in alive}))

    if kind == "APO-P":
        rule = APOP(problem, lr=0.1, weights=WEIGHTS, interval=1, weight_decay=0.1)
        state = 3  # S and Adam's two moments of it
        original = kronecker.meta_gradient
        monkeypatch.setattr(kronecker, "meta_gradient", lambda *a: (count(), original(*a))[1])  # type: ignore[func-returns-value] # counts, and passes on
    else:
        optimizer = torch.optim.SGD(problem.parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
        rule = APOLR(problem, optimizer, weights=WEIGHTS, interval=1)
        state = 0
        step = rule._meta.step
        monkeypatch.setattr(rule._meta, "step", lambda: (count(), step())[1])  # type: ignore[func-returns-value] # counts, and passes on
    for _ in range(3):
        rule.step(Batch((inputs,), targets))
    assert counts[-1] == 3 + 2 + state


def test_layers_are_found_and_put_back() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, groups=2, bias=False),
        nn.Linear(5, 3),
        nn.LayerNorm(3),
    )
    shared = nn.Linear(3, 3, bias=False)
    model.extend([shared, shared])
    parameters = list(model.parameters())
    layers, rest = find_layers(model, parameters)
    assert [(layer.out_features, layer.in_features) for layer in layers] == [(4, 19), (3, 6), (3, 3)]
    assert len(rest) == 2 + 1 + 2
    for layer in layers:
        back = from_matrix(layer, to_matrix(layer, parameters), parameters)
        assert all(torch.equal(part, parameters[place]) for place, part in back.items())


def test_frozen_and_unused_parameters_stay() -> None:
    network = some_network()
    network.register_parameter("unused", nn.Parameter(torch.ones(3)))
    network[5].bias.requires_grad_(requires_grad=False)  # type: ignore[call-arg] # torch types submodules loosely
    frozen = network[5].bias.detach().clone()  # type: ignore[operator] # torch types submodules loosely
    problem = problem_of(network)
    rule = APOP(problem, lr=0.1, weights=WEIGHTS, meta_lr=1e-2, interval=1, weight_decay=0.1)
    for seed in range(4):
        rule.step(some_batch(seed))
    assert torch.equal(network.unused, torch.ones(3))  # type: ignore[arg-type] # torch types it loosely
    assert torch.equal(network[5].bias, frozen)  # type: ignore[arg-type] # torch types it loosely
    assert rule.meta_updates == 4


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match=r"APO-P: interval must be at least 1 \(got 0\)"):
        APOP(problem_of(some_network()), lr=0.1, weights=WEIGHTS, interval=0)


def test_channels_and_space_factored_learn_too_and_hold_less() -> None:
    """A convolution of 1 channel, 9 places and a bias: 1² + 9² instead of 10²."""
    problem = problem_of(some_network())
    rule = APOP(problem, lr=0.1, weights=WEIGHTS, meta_lr=1e-2, interval=1, structure=Structure.SPATIAL)
    start = copy.deepcopy(problem.model.state_dict())
    for seed in range(4):
        rule.step(some_batch(seed))
    assert not torch.equal(start["0.weight"], problem.model.state_dict()["0.weight"])
    assert rule.readings()["distance_from_identity_0"] > 1e-3
    held = sum(tensor.numel() for tensor in rule.state_tensors()["preconditioner"])
    assert held == (1 + 81 + 4**2 + 4 * 10) + (65**2 + 3**2 + 3 * 65)


@pytest.mark.parametrize("meta_optimizer", MetaOptimizer)
def test_every_meta_optimizer_moves_p(meta_optimizer: MetaOptimizer) -> None:
    problem = problem_of(some_network())
    rule = APOP(problem, lr=0.1, weights=WEIGHTS, meta_lr=1e-2, interval=1, meta_optimizer=meta_optimizer)
    for seed in range(4):
        rule.step(some_batch(seed))
    assert rule.readings()["distance_from_identity_1"] > 1e-4


def test_after_p_moves_the_step_is_made_anew_from_the_same_momentum() -> None:
    """θ_after = θ − η P_new m, and m has averaged the gradient once."""
    problem = problem_of(some_network(dropout=0.0).double(), dtype=torch.float64)
    rule = APOP(problem, lr=0.2, weights=WEIGHTS, meta_lr=1e-2, interval=2, momentum=0.8, weight_decay=1e-2)
    for seed in range(2):
        rule.step(some_batch(seed, torch.float64))
    start = [parameter.detach().clone() for parameter in problem.parameters]
    momentum = [buffer.clone() for buffer in rule._buffers.values()]
    old_P = [dense(factors) for factors in rule.factors]
    batch = some_batch(2, torch.float64)
    g = problem.gradients(problem.loss(problem.outputs(batch), batch)).values
    rule.step(batch)
    assert rule.meta_updates == 2
    m = [0.8 * old + 0.2 * (new + 1e-2 * p) for old, new, p in zip(momentum, g, start, strict=True)]  # type: ignore[operator] # the loss reaches all
    for layer, factors, before in zip(rule.layers, rule.factors, old_P, strict=True):
        step = kronecker.precondition(factors, to_matrix(layer, m))
        assert not torch.allclose(dense(factors), before, atol=1e-4)
        moved = to_matrix(layer, start) - to_matrix(layer, [p.detach() for p in problem.parameters])
        torch.testing.assert_close(moved, 0.2 * step, rtol=1e-10, atol=1e-14)


def test_layers_shared_over_a_sequence_are_preconditioned_too() -> None:
    """A block of self-attention; T6 holds for every layer, since the gradient of a shared weight is one matrix."""
    torch.manual_seed(4)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    head = nn.Sequential(model, nn.Flatten(), nn.Linear(40, 3))
    batches = [Batch((torch.randn(16, 5, 8),), torch.randint(0, 3, (16,))) for _ in range(2)]
    problem = Problem(head, CrossEntropy(), policy_for(head), lambda: batches[1])
    rule = APOP(problem, lr=0.1, weights=WEIGHTS, meta_lr=1e-2, interval=1, momentum=0.0)
    losses = [float(rule.step(batches[0]).loss) for _ in range(40)]
    assert len(rule.layers) == 4  # the packed projection of queries, keys and values is no nn.Linear
    assert losses[-1] < 0.5 * losses[0]
    assert all(value > 1e-3 for name, value in rule.readings().items() if name.startswith("distance"))


@pytest.mark.slow
def test_freezing_p_changes_the_validation_curve() -> None:
    """LeNet with the declared defaults, two epochs: otherwise a result of APO-P would be one of SGDm."""
    curves = []
    competitor = optimizers()["apo-p"].load()
    for overrides in ({}, {"meta_lr": 0.0}):
        hyperparameters = resolve_hyperparameters(competitor.hyperparameters, overrides, optimizer="apo-p")
        spec = RunSpec(
            task="fashion-mnist-20k.lenet",
            optimizer=OptimizerSpec(name="apo-p", hyperparameters=hyperparameters),
            precision=Precision.FP32,
            seed=0,
            budget=Budget(epochs=2),
            device=Device.CPU,
        )
        loop = prepare(spec, fashion_mnist_20k_lenet(), competitor, CPU)
        curve = []
        while loop.state.taken < loop.setup.total_steps:
            loop.block(20)
            curve.append(loop.validate()[1])
        curves.append(torch.tensor(curve))
    assert float((curves[0] - curves[1]).abs().max()) > 1.0
