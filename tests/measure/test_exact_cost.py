"""FLOPs and operator calls of whole steps: equal to hand counts, whatever the precision, and never in a run's way."""

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from support.devices import CPU
from torch import Tensor, nn

from apo_bench import Batch, CrossEntropy, Precision, PrecisionPolicy, Problem, StepResult, TorchRule
from apo_bench.measure.counter import FlopCounter
from apo_bench.measure.flops import _OperatorCalls, exact_cost
from apo_bench.optim.apo_lr import APOLR
from apo_bench.optim.apo_p import APOP, Structure
from apo_bench.optim.proximal import ProximalWeights
from apo_bench.plugins.registry import optimizers
from apo_bench.problem.rule import UpdateRule
from apo_bench.records.facts import PrecisionBackend
from baselines.kfac.curvature import CorrectedCurvature
from baselines.kfac.optimizer import KFAC
from baselines.kfac.settings import Settings

N, WIDTHS = 20, (7, 5, 3)
LAYERS = ((7, 5), (5, 3))
"""Inputs and outputs; both layers have a bias."""
MATRICES = tuple((out, inputs + 1) for inputs, out in LAYERS)
"""Rows and columns of their gradients as matrices, with the bias as a column."""


def _mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(*LAYERS[0]), nn.Tanh(), nn.Linear(*LAYERS[1]))


def _batch(seed: int = 0) -> Batch:
    source = torch.Generator().manual_seed(seed)
    return Batch((torch.randn(N, WIDTHS[0], generator=source),), torch.randint(0, 3, (N,), generator=source))


def _problem(model: nn.Module | None = None, precision: Precision = Precision.FP32) -> Problem:
    policy = PrecisionPolicy(precision, CPU)
    model = model or _mlp()
    policy.prepare(model)
    return Problem(model, CrossEntropy(), policy, lambda: _batch(1))


def _flops(rule: UpdateRule, problem: Problem) -> dict[str, int]:
    cost = exact_cost(rule, problem, _batch)
    assert cost is not None
    assert cost.not_counted is None
    return {name: flops for name, (flops, _) in cost.by_kind.items() if flops is not None}


def _forward(examples: int = N) -> int:
    return sum(2 * examples * inputs * out for inputs, out in LAYERS)


def _passes(examples: int = N) -> int:
    """Forward; by the weights as much again; by the inputs too, which the first layer does not need."""
    inputs, hidden = LAYERS[0]
    return 3 * _forward(examples) - 2 * examples * inputs * hidden


@pytest.mark.parametrize("make", [torch.optim.Adam, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)])
def test_first_order_methods_cost_the_passes_alone(make: Callable[..., torch.optim.Optimizer]) -> None:
    assert _passes() == 4 * 20 * 7 * 5 + 6 * 20 * 5 * 3
    problem = _problem()
    assert _flops(TorchRule(problem, make(problem.parameters)), problem) == {"plain": _passes()}


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_each_kind_of_step_of_kfac_costs_what_a_hand_count_says(share: float) -> None:
    problem = _problem()
    rule = KFAC(problem, Settings(lr=0.01, factor_interval=2, inverse_interval=3, factor_share=share, kl_clip=1e-3))
    plain = _passes() + sum(2 * out**2 * inputs + 2 * out * inputs**2 for out, inputs in MATRICES)  # G⁻¹ W A⁻¹
    plain += sum(2 * out * inputs for out, inputs in MATRICES)  # ⟨∇J, P ∇J⟩ for the clip
    # A and G from a share of the batch; what the hidden layer's outputs get goes back for the whole batch
    rows = math.ceil(share * N)
    factors = sum(2 * rows * (inputs**2 + out**2) for inputs, out in LAYERS) + 2 * N * 5 * 3
    inverse = sum(side**3 // 3 + 2 * side**3 // 3 for matrix in MATRICES for side in matrix)  # Cholesky
    expected = {
        "plain": plain,
        "factors": plain + factors,
        "inverse": plain + inverse,
        "factors+inverse": plain + factors + inverse,
    }
    assert _flops(rule, problem) == expected
    # of six steps two are plain, two estimate, one inverts and one does both
    cycle = Fraction(2 * expected["plain"] + 2 * expected["factors"] + expected["inverse"], 6)
    cost = exact_cost(rule, problem, _batch)
    assert cost is not None
    assert cost.flops_per_step == float(cycle + Fraction(expected["factors+inverse"], 6))
    calls = {name: calls for name, (_, calls) in cost.by_kind.items()}
    assert cost.operator_calls_per_step == float(
        Fraction(2 * calls["plain"] + 2 * calls["factors"] + calls["inverse"] + calls["factors+inverse"], 6)
    )


def test_kfac_with_its_declared_defaults() -> None:
    problem = _problem()
    competitor = optimizers()["kfac"].load()
    flops = _flops(competitor.build(problem, competitor.hyperparameters()), problem)
    rows = 5  # a quarter of 20
    factors = sum(2 * rows * (inputs**2 + out**2) for inputs, out in LAYERS) + 2 * N * 5 * 3
    inverse = sum(side**3 // 3 + 2 * side**3 // 3 for matrix in MATRICES for side in matrix)
    assert list(flops) == ["plain", "factors+inverse"]
    assert flops["factors+inverse"] - flops["plain"] == factors + inverse


def test_ekfac_costs_eigenvectors_and_its_second_moments() -> None:
    problem = _problem()
    rule = KFAC(problem, Settings(lr=0.01, factor_interval=2, inverse_interval=4), CorrectedCurvature)
    flops = _flops(rule, problem)
    plain = _passes() + sum(4 * (out**2 * inputs + out * inputs**2) for out, inputs in MATRICES)
    factors = sum(2 * N * (inputs**2 + out**2) for inputs, out in LAYERS) + 2 * N * 5 * 3
    # inputs and gradients in the basis, and the products of their squares
    correct = sum(2 * N * (inputs * (inputs + 1) + out**2 + out * (inputs + 1)) for inputs, out in LAYERS)
    # eigenvectors, the rotations from the old ones, and S carried over
    refresh = sum(
        9 * (out**3 + inputs**3) + 2 * (out**3 + inputs**3) + 2 * (out**2 * inputs + out * inputs**2)
        for out, inputs in MATRICES
    )
    assert flops == {
        "plain": plain,
        "factors": plain + factors + correct,
        "factors+inverse": plain + factors + correct + refresh,
    }


PRECONDITION = sum(4 * (out**2 * inputs + out * inputs**2) for out, inputs in MATRICES)
"""B (S² ∘ (Bᵀ G A)) Aᵀ."""
META_GRADIENT = sum(12 * out**2 * inputs + 8 * out * inputs**2 for out, inputs in MATRICES)
"""G A and q A; Bᵀ of both, and Bᵀ G and Bᵀ q for ∂Q/∂A; two products for ∂Q/∂A and two for ∂Q/∂B."""


@pytest.mark.parametrize("extra", [None, 6])
@pytest.mark.parametrize("fsd", [0.0, 0.5])
def test_each_kind_of_step_of_apo_p_costs_what_a_hand_count_says(fsd: float, extra: int | None) -> None:
    problem = _problem()
    rule = APOP(problem, lr=0.01, weights=ProximalWeights(fsd=fsd, wsd=0.1, extra=extra), interval=4)
    # at θ′ the passes over B again; over B′ too, whose outputs at θ cost a forward pass
    examples = extra or N
    lookahead = _passes() + (_passes(examples) + _forward(examples) if fsd else 0)
    plain = _passes() + PRECONDITION
    assert _flops(rule, problem) == {"plain": plain, "meta": plain + lookahead + META_GRADIENT + PRECONDITION}


@pytest.mark.parametrize("fsd", [0.0, 0.5])
def test_each_kind_of_step_of_apo_lr_costs_what_a_hand_count_says(fsd: float) -> None:
    problem = _problem()
    optimizer = torch.optim.SGD(problem.parameters, lr=0.1)
    rule = APOLR(problem, optimizer, weights=ProximalWeights(fsd=fsd, wsd=0.1), interval=4)
    lookahead = _passes() + (_passes() + _forward() if fsd else 0)
    inner_products = 2 * sum(out * inputs for out, inputs in MATRICES)
    assert _flops(rule, problem) == {"plain": _passes(), "meta": _passes() + lookahead + inner_products}


def test_the_cost_is_the_same_after_any_number_of_steps() -> None:
    for name in ("kfac", "ekfac", "apo-p", "apo-lr-adam", "adam", "soap", "schedule-free-adamw"):
        competitor = optimizers()[name].load()
        costs = []
        for steps in (0, 1, 13):
            problem = _problem()
            rule = competitor.build(problem, competitor.hyperparameters())
            for seed in range(steps):
                rule.step(_batch(seed))
            costs.append(exact_cost(rule, problem, _batch))
        assert costs[0] is not None
        assert costs[0] == costs[1] == costs[2], name


def _convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 7)), nn.Unflatten(2, (7, 1)), nn.Conv2d(1, 4, (3, 1)), nn.Flatten(), nn.Linear(20, 3)
    )


@pytest.mark.parametrize("model", [_mlp, _convolutional])
@pytest.mark.parametrize("name", ["sgdm", "kfac", "ekfac", "apo-p"])
def test_emulated_16_bit_costs_the_flops_of_float32(name: str, model: Callable[[], nn.Module]) -> None:
    competitor = optimizers()[name].load()
    found = []
    for precision in (Precision.FP32, Precision.FP16):
        problem = _problem(model(), precision)
        found.append(_flops(competitor.build(problem, competitor.hyperparameters()), problem))
    assert problem.precision.backend is PrecisionBackend.EMULATED
    assert found[0] == found[1]


def test_a_step_that_overflows_anywhere_is_taken_anew() -> None:
    """The meta-gradients overflow for twenty scales or so: such steps are applied, without their meta-update."""
    problem = _problem(precision=Precision.FP16)
    rule = APOP(problem, lr=0.01, weights=ProximalWeights(fsd=0.5, wsd=0.0), interval=1)
    rule.step(_batch())
    expected = _flops(rule, problem)
    problem.load_state_dict({"meta": {"value": 2.0**40, "finite_in_a_row": 0}})
    updates = rule.meta_updates
    assert rule.step(_batch()).applied
    assert rule.meta_updates == updates
    assert _flops(rule, problem) == expected


class _Skipping(TorchRule):
    """Skips its first steps."""

    def __init__(self, problem: Problem, skips: float) -> None:
        super().__init__(problem, torch.optim.SGD(problem.parameters, lr=0.1))
        self.skips = skips

    def step(self, batch: Batch) -> StepResult:
        if self.skips > 0:
            self.skips -= 1
            return StepResult(torch.zeros(()), applied=False)
        return super().step(batch)


def test_a_skipped_step_is_taken_anew_and_in_the_end_not_known() -> None:
    problem = _problem()
    assert _flops(_Skipping(problem, 7), problem) == {"plain": _passes()}
    assert exact_cost(_Skipping(problem, math.inf), problem, _batch) is None


def test_a_compiled_model_is_counted_as_it_is_without_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*_: Tensor) -> Tensor:
        pytest.fail("the compiled model ran")

    monkeypatch.setattr(torch, "compile", lambda model: compiled)
    policy = PrecisionPolicy(Precision.FP32, CPU)
    problem = Problem(_mlp(), CrossEntropy(), policy, _batch, compile=True)
    rule = TorchRule(problem, torch.optim.SGD(problem.parameters, lr=0.1))
    assert _flops(rule, problem) == {"plain": _passes()}
    with pytest.raises(pytest.fail.Exception, match="the compiled model ran"):
        rule.step(_batch())  # afterwards it is compiled again


def _calls(model: nn.Module) -> float:
    problem = _problem(model)
    cost = exact_cost(TorchRule(problem, torch.optim.Adam(problem.parameters)), problem, _batch)
    assert cost is not None
    assert cost.operator_calls_per_step is not None
    return cost.operator_calls_per_step


def test_operator_calls_are_the_same_each_time_and_an_operator_more_is_seen() -> None:
    alone = _calls(_mlp())
    assert _calls(_mlp()) == alone
    assert _calls(nn.Sequential(*_mlp(), nn.ReLU())) == alone + 2  # forward and backward


def test_operator_calls_are_those_made() -> None:
    with _OperatorCalls() as calls:
        a = torch.ones(3)
        (a + a).mul_(2.0).view(3, 1).detach()
        with torch.autograd.profiler.record_function("a mark"):
            pass
    assert calls.count == 4  # ones, add, mul_, view


def _counted(work: Callable[[], object]) -> int:
    counter = FlopCounter()
    with counter:
        work()
    assert counter.reason is None
    return counter.counted


def _definite(*shape: int) -> Tensor:
    matrix = torch.randn(*shape, shape[-1], dtype=torch.float64)
    return matrix @ matrix.mT + torch.eye(shape[-1], dtype=torch.float64)


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (torch.linalg.cholesky_ex, 6**3 / 3),
        (lambda a: torch.linalg.cholesky(a.expand(4, 6, 6)), 4 * 6**3 / 3),
        (torch.cholesky_inverse, 2 * 6**3 / 3),
        (lambda a: torch.cholesky_solve(torch.ones(6, 5).double(), a), 2 * 6**2 * 5),
        (lambda a: torch.linalg.solve_triangular(a, torch.ones(6, 5).double(), upper=False), 6**2 * 5),
        (lambda a: torch.linalg.solve_triangular(a, torch.ones(5, 6).double(), upper=False, left=False), 6**2 * 5),
        (lambda a: torch.linalg.solve(a, torch.ones(6, 5).double()), 2 * 6**3 / 3 + 2 * 6**2 * 5),
        (lambda a: torch.linalg.solve(a, torch.ones(6).double()), 2 * 6**3 / 3 + 2 * 6**2),
        (torch.linalg.inv, 2 * 6**3),
        (torch.linalg.eigh, 9 * 6**3),
        (lambda a: torch.linalg.eigh(a.expand(4, 6, 6)), 4 * 9 * 6**3),
        (torch.linalg.eigvalsh, 9 * 6**3),
        (torch.linalg.qr, 8 * 6**3 / 3),
        (lambda a: torch.linalg.qr(a[:, :3]), 2 * 2 * 3**2 * (6 - 1)),
        (lambda a: torch.linalg.qr(a[:3]), 2 * 3**2 * (6 - 1) + 4 * 3**3 / 3),
        (lambda a: torch.linalg.qr(a[:, :3], mode="r"), 2 * 3**2 * (6 - 1)),
        (lambda a: torch.linalg.qr(a[:, :3], mode="complete"), 2 * 3**2 * (6 - 1) + 4 * (6**2 * 3 - 6 * 3**2 + 9)),
        (lambda a: torch.dot(a[0], a[1]), 2 * 6),
        (lambda a: torch.vdot(a[0], a[1]), 2 * 6),
        (lambda a: a[:4] @ a[0], 2 * 4 * 6),
        (lambda a: torch.addmv(a[0, :4], a[:4], a[0]), 2 * 4 * 6),
        (lambda a: torch.addr(a[:4], a[0, :4], a[0]), 2 * 4 * 6),
        (lambda a: torch.addbmm(a[:, :5], a.expand(3, 6, 6), a[:, :5].expand(3, 6, 5)), 3 * 2 * 6 * 6 * 5),
    ],
)
def test_what_torch_does_not_count_is_counted_by_formula(work: Callable[[Tensor], object], expected: float) -> None:
    torch.manual_seed(0)
    matrix = _definite(6)
    assert _counted(lambda: work(matrix)) == expected


def test_qr_of_a_square_and_its_limits_agree() -> None:
    """Both branches of the formula meet at m = n, and all of Q is then what the columns of Q are."""
    square = torch.eye(6)
    assert _counted(lambda: torch.linalg.qr(square)) == _counted(lambda: torch.linalg.qr(square, mode="complete"))


@pytest.mark.parametrize("structure", Structure)
def test_spatial_factors_cost_what_they_save(structure: Structure) -> None:
    """A kernel of 3 places and 8 channels, with the bias as a column: A is 25 × 25, or 8 × 8 and 3 × 3."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(8, 4, (3, 1))
    model = nn.Sequential(nn.Linear(7, 40), nn.Unflatten(1, (8, 5, 1)), convolution, nn.Flatten(), nn.Linear(12, 3))
    problem = _problem(model)
    passes = _flops(TorchRule(problem, torch.optim.SGD(problem.parameters, lr=0.1)), problem)["plain"]
    rule = APOP(problem, lr=0.01, weights=ProximalWeights(fsd=0.0, wsd=0.0), structure=structure, interval=2)
    linear = sum(4 * (out**2 * inputs + out * inputs**2) for out, inputs in ((40, 8), (3, 13)))
    by_A = 2 * 4 * 25**2 if structure is Structure.FULL else 2 * 4 * 24 * (8 + 3)
    assert _flops(rule, problem)["plain"] - passes - linear == 2 * by_A + 2 * 2 * 4**2 * 25


@pytest.mark.parametrize("masked", [False, True])
def test_attention_on_a_cpu_is_counted(masked: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Two products forward; backward the scores once more, and four gradients: as torch counts its CUDA kernels."""
    q, k, v = (torch.randn(2, 3, length, 8, requires_grad=True) for length in (5, 7, 7))
    mask = torch.ones(5, 7, dtype=torch.bool) if masked else None
    product = 2 * 2 * 3 * 5 * 7 * 8
    counter = FlopCounter()
    with counter:
        torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward()
    assert counter.flops == 7 * product
