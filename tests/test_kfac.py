"""KFAC and EKFAC: exact where theory says so, and a known limitation is a test."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_apo_lr import CPU
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from apo_bench import Batch, CrossEntropy, Precision, PrecisionPolicy, Problem, SquaredError
from apo_bench.errors import UsageError
from apo_bench.optim.layers import to_matrix
from baselines.kfac import factors
from baselines.kfac.curvature import CorrectedCurvature, KroneckerCurvature, Recipe, Rows
from baselines.kfac.damping import (
    Damping,
    Eigenbasis,
    NotInvertibleError,
    Solver,
    damped_eigenbasis,
    damped_inverses,
    inverse,
    split,
)
from baselines.kfac.factors import Sharing
from baselines.kfac.hooks import recording
from baselines.kfac.optimizer import KFAC, Fisher, Settings

F64 = torch.float64


def _problem(model: nn.Module, objective: Any = None, precision: Precision = Precision.FP32, **options: Any) -> Problem:
    policy = PrecisionPolicy(precision, CPU)
    policy.prepare(model)
    return Problem(model, objective or CrossEntropy(), policy, lambda: pytest.fail("draws no batch"), **options)


def _images(seed: int = 0, dtype: torch.dtype = F64, examples: int = 8) -> Batch:
    source = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, 2, 7, 6, generator=source, dtype=F64).to(dtype)
    return Batch((inputs,), torch.randint(0, 3, (examples,), generator=source))


def _convolutional() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 3, 2, bias=False),
        nn.Flatten(),
        nn.Linear(18, 3),
    ).double()


def _estimated(problem: Problem, batch: Batch, **settings: Any) -> KFAC:
    """KFAC after its first step, whose parameters are put back."""
    rule = KFAC(problem, Settings(lr=1e-12, momentum=0.0, **settings))
    start = copy.deepcopy(problem.model.state_dict())
    rule.step(batch)
    problem.model.load_state_dict(start)
    return rule


def _curvature(rule: KFAC, place: int) -> Tensor:
    """A ⊗ G of one layer over its matrix by rows."""
    A, G = rule.curvatures[place].A_II, rule.curvatures[place].G_OO
    assert A is not None
    assert G is not None
    return torch.kron(G, A)


def _dense_ggn(problem: Problem, batch: Batch, name: str) -> Tensor:
    """The exact GGN of the mean loss in one parameter: 1/N Σ_n J_nᵀ H_n J_n, by autograd alone."""
    model = problem.model
    parameters = {key: value.detach() for key, value in model.named_parameters()}
    outputs = model(*batch.inputs).detach()

    def network(weight: Tensor) -> Tensor:
        out: Tensor = functional_call(model, {**parameters, name: weight}, batch.inputs)
        return out

    def loss(out: Tensor) -> Tensor:
        return problem.loss(out, batch)

    J = jacrev(network)(parameters[name]).reshape(outputs.numel(), -1)
    H = jacrev(jacrev(loss))(outputs).reshape(outputs.numel(), -1)
    found: Tensor = J.mT @ H @ J
    return found


def test_t8_the_factors_are_exact_on_deep_linear_networks_with_squared_error() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 5, bias=False), nn.Linear(5, 3, bias=False), nn.Linear(3, 2, bias=False)
    ).double()
    batch = Batch((torch.randn(9, 4, dtype=F64),), torch.randn(9, 2, dtype=F64))
    problem = _problem(model, SquaredError())
    rule = _estimated(problem, batch, fisher=Fisher.EXACT)
    for place in range(3):
        expected = _dense_ggn(problem, batch, f"{place}.weight")
        torch.testing.assert_close(_curvature(rule, place), expected, rtol=1e-12, atol=1e-13)


def test_t8_with_softmax_they_are_exact_for_one_example_or_a_constant_prediction_only() -> None:
    torch.manual_seed(0)
    differences = {}
    for case, examples, scale in (("one example", 1, 1.0), ("constant", 40, 0.0), ("general", 40, 1.0)):
        model = nn.Linear(4, 3, bias=False).double()
        with torch.no_grad():
            model.weight.mul_(3.0 * scale)
        problem = _problem(model)
        batch = Batch((torch.randn(examples, 4, dtype=F64),), torch.randint(0, 3, (examples,)))
        rule = _estimated(problem, batch, fisher=Fisher.EXACT)
        exact = _dense_ggn(problem, batch, "weight")
        differences[case] = float((_curvature(rule, 0) - exact).norm() / exact.norm())
    assert differences["one example"] < 1e-12
    assert differences["constant"] < 1e-12
    assert 0.1 < differences["general"] < 1.0


class _Sequence(nn.Module):
    """Linear layers that every position of a sequence shares; the positions stay, or are averaged half-way."""

    def __init__(self, *, averaged: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 3, bias=True), nn.Linear(3, 2, bias=False)
        self.averaged = averaged

    def forward(self, x_NRI: Tensor) -> Tensor:
        hidden: Tensor = self.first(x_NRI)
        out: Tensor = self.second(hidden.mean(1) if self.averaged else hidden)
        return out


@pytest.mark.parametrize("sharing", Sharing)
def test_weight_sharing_is_exact_in_its_own_setting_and_only_there(sharing: Sharing) -> None:
    """Expand: a loss at every position. Reduce: the positions are averaged, and one loss (Eschenhagen et al., 2023)."""
    for averaged in (False, True):
        model = _Sequence(averaged=averaged).double()
        shape = (6, 2) if averaged else (6, 5, 2)
        batch = Batch((torch.randn(6, 5, 4, dtype=F64),), torch.randn(shape, dtype=F64))
        problem = _problem(model, SquaredError())
        rule = _estimated(problem, batch, fisher=Fisher.EXACT, sharing=sharing)
        weights = torch.tensor([i for i in range(15) if i % 5 != 4])  # columns of the weight, without the bias's
        got = _curvature(rule, 0)[weights][:, weights]
        expected = _dense_ggn(problem, batch, "first.weight")
        error = float((got - expected).norm() / expected.norm())
        if averaged == (sharing is Sharing.REDUCE):
            assert error < 1e-12
        else:
            assert error > 0.1


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 4, 3),
        nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 2)),
        nn.Conv2d(2, 3, 2, dilation=(2, 3), bias=False),
        nn.Conv2d(2, 3, (2, 3), padding="same", dilation=2),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
        nn.Linear(6, 5),
        nn.Linear(6, 5, bias=False),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_rows_against_the_explicit_jacobian(layer: nn.Module, *, channels_last: bool) -> None:
    """Σ_r ĝ_nr x_nrᵀ is every example's gradient; hence A, G and EKFAC's second moments."""
    layer = copy.deepcopy(layer).double()
    inputs = _images(examples=5).inputs[0]
    if channels_last:
        inputs = inputs.to(memory_format=torch.channels_last)
    bias = layer.bias is not None
    outputs = layer(inputs)
    cotangent = torch.randn_like(outputs)
    x_NRI, g_NRO = factors.input_rows(layer, inputs), factors.gradient_rows(layer, cotangent / 5)
    assert x_NRI.shape[:2] == g_NRO.shape[:2]
    if bias:
        x_NRI = torch.cat([x_NRI, torch.ones_like(x_NRI[..., :1])], dim=2)
    parameters = dict(layer.named_parameters())

    def inner(weights: dict[str, Tensor], x: Tensor, c: Tensor) -> Tensor:
        product: Tensor = (functional_call(layer, weights, (x.unsqueeze(0),)) * c.unsqueeze(0)).sum()
        return product

    found = vmap(grad(inner), in_dims=(None, 0, 0))({k: v.detach() for k, v in parameters.items()}, inputs, cotangent)
    kernel = found["weight"]
    matrices = kernel.movedim(2, -1).flatten(2) if kernel.ndim > 3 else kernel
    if bias:
        matrices = torch.cat([matrices, found["bias"].unsqueeze(2)], dim=2)
    torch.testing.assert_close(5 * torch.einsum("nro,nri->noi", g_NRO, x_NRI), matrices, rtol=1e-12, atol=1e-12)

    raw = factors.input_rows(layer, inputs)
    count = raw.shape[0] * raw.shape[1]
    torch.testing.assert_close(
        factors.input_factor(raw, bias=bias), torch.einsum("nri,nrj->ij", x_NRI, x_NRI) / count, rtol=1e-12, atol=1e-13
    )
    torch.testing.assert_close(
        factors.gradient_factor(g_NRO, 5), 5 * torch.einsum("nro,nrp->op", g_NRO, g_NRO), rtol=1e-12, atol=1e-13
    )
    U_A, U_G = (torch.linalg.qr(torch.randn(n, n, dtype=F64))[0] for n in (x_NRI.shape[2], g_NRO.shape[2]))
    torch.testing.assert_close(
        factors.squares_in_basis(raw, g_NRO, U_A, U_G, 5, bias=bias),
        (U_G.mT @ matrices @ U_A).square().mean(0),
        rtol=1e-11,
        atol=1e-13,
    )


def test_second_moments_are_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x_NRI, g_NRO = torch.randn(7, 3, 4, dtype=F64), torch.randn(7, 3, 5, dtype=F64)
    arguments = (x_NRI, g_NRO, torch.eye(4, dtype=F64), torch.eye(5, dtype=F64), 7)
    whole = factors.squares_in_basis(*arguments, bias=False)
    monkeypatch.setattr(factors, "_CHUNK", 2 * 20)
    torch.testing.assert_close(factors.squares_in_basis(*arguments, bias=False), whole, rtol=1e-13, atol=0)


def test_the_sampled_fisher_converges_to_the_exact_one() -> None:
    errors = []
    problem, batch = _problem(_convolutional()), _images()
    exact = [curvature.G_OO for curvature in _estimated(problem, batch, fisher=Fisher.EXACT).curvatures]
    for repeats in (20, 2000):
        rule = KFAC(problem, Settings(lr=1e-30, momentum=0.0, factor_interval=1, inverse_interval=10**6, decay=0.99999))
        for _ in range(repeats):
            rule.step(batch)
        got = [curvature.G_OO for curvature in rule.curvatures]
        pairs = zip(got, exact, strict=True)
        errors.append(max(float((one - other).norm() / other.norm()) for one, other in pairs))  # type: ignore[operator, union-attr]
    assert errors[1] < 0.05
    assert errors[1] < 0.3 * errors[0]


def test_empirical_and_true_fisher_differ_and_both_agree_with_their_definition() -> None:
    problem, batch = _problem(_convolutional()), _images()
    rule = _estimated(problem, batch, fisher=Fisher.EMPIRICAL)
    outputs = problem.model(*batch.inputs)
    per_example = outputs.softmax(1) - nn.functional.one_hot(batch.targets, 3)
    torch.testing.assert_close(rule.curvatures[2].G_OO, per_example.mT @ per_example / 8, rtol=1e-12, atol=1e-14)
    exact = _estimated(problem, batch, fisher=Fisher.EXACT)
    assert not torch.allclose(rule.curvatures[2].G_OO, exact.curvatures[2].G_OO, rtol=1e-2)  # type: ignore[arg-type]


def _factors(features: int, rank: int) -> Tensor:
    rows = torch.randn(rank, features, dtype=F64)
    return rows.mT @ rows / rank


@pytest.mark.parametrize("rank", [3, 40])
def test_eigen_and_cholesky_agree_under_factored_damping(rank: int) -> None:
    A, G, W = _factors(6, rank), _factors(4, rank), torch.randn(4, 6, dtype=F64)
    by_cholesky = damped_inverses(A, G, 1e-2).precondition(W)
    by_eigen = damped_eigenbasis(A, G, 1e-2, Damping.FACTORED).precondition(W)
    torch.testing.assert_close(by_cholesky, by_eigen, rtol=1e-10, atol=1e-10)
    for_A, for_G = split(A, G, 1e-2)
    assert float(for_A * for_G) == pytest.approx(1e-2)
    assert float(for_A / for_G) == pytest.approx(float((A.trace() / 6) / (G.trace() / 4)))
    dense = torch.kron(G + for_G * torch.eye(4, dtype=F64), A + for_A * torch.eye(6, dtype=F64))
    torch.testing.assert_close(torch.linalg.solve(dense, W.flatten()).reshape(4, 6), by_eigen, rtol=1e-9, atol=1e-9)


def test_unfactored_damping_is_the_inverse_of_the_damped_product() -> None:
    A, G, W = _factors(6, 9), _factors(4, 9), torch.randn(4, 6, dtype=F64)
    got = damped_eigenbasis(A, G, 1e-2, Damping.UNFACTORED).precondition(W)
    dense = torch.kron(G, A) + 1e-2 * torch.eye(24, dtype=F64)
    torch.testing.assert_close(got, torch.linalg.solve(dense, W.flatten()).reshape(4, 6), rtol=1e-10, atol=1e-10)


def test_a_factor_that_vanishes_is_damped_all_the_same() -> None:
    for_A, for_G = split(torch.zeros(3, 3), torch.eye(2), 0.04)
    assert (float(for_A), float(for_G)) == pytest.approx((0.2, 0.2))


def test_what_float32_cannot_factor_is_inverted_in_float64() -> None:
    rows = torch.randn(2, 300, generator=torch.Generator().manual_seed(0), dtype=F64) * 1e3
    matrix = (rows.mT @ rows).float()  # of rank 2, with rounding errors as large as the damping
    damped = matrix + 4.0 * torch.eye(300)
    assert int(torch.linalg.cholesky_ex(damped)[1]) != 0
    found = inverse(matrix, torch.tensor(4.0))
    damped = matrix.double() + 4.0 * torch.eye(300, dtype=F64)
    torch.testing.assert_close(found.double(), torch.linalg.inv(damped), rtol=1e-5, atol=1e-6)
    with pytest.raises(NotInvertibleError):
        inverse(matrix, torch.tensor(-4.0))


@pytest.mark.parametrize("kind", [KroneckerCurvature, CorrectedCurvature])
@pytest.mark.parametrize("solver", Solver)
def test_factors_that_are_not_finite_leave_the_last_inverse(kind: type[KroneckerCurvature], solver: Solver) -> None:
    curvature = kind(Recipe(1e-2, 0.95, solver, Damping.FACTORED), bias=False, storage=torch.float32)
    W = torch.randn(2, 3)
    assert curvature.precondition(W) is W
    curvature.average(Rows(torch.randn(5, 1, 3), torch.randn(5, 1, 2), 5))
    curvature.refresh()
    before = curvature.precondition(W)
    curvature.average(Rows(torch.full((5, 1, 3), torch.nan), torch.randn(5, 1, 2), 5))
    curvature.refresh()
    assert torch.equal(curvature.precondition(W), before)


def test_averages_count_the_first_estimates_alike() -> None:
    curvature = KroneckerCurvature(
        Recipe(1e-2, 0.75, Solver.CHOLESKY, Damping.FACTORED), bias=False, storage=torch.float64
    )
    batches = [torch.randn(5, 1, 3, dtype=F64) for _ in range(6)]
    expected = torch.zeros(3, 3, dtype=F64)
    for k, x in enumerate(batches, start=1):
        curvature.average(Rows(x, torch.randn(5, 1, 2, dtype=F64), 5))
        keep = min(1 - 1 / k, 0.75)
        expected = keep * expected + (1 - keep) * factors.input_factor(x, bias=False)
    torch.testing.assert_close(curvature.A_II, expected, rtol=1e-12, atol=1e-14)


def test_a_batch_counts_as_its_parts_together() -> None:
    """Gradient accumulation: the factors of a batch are the mean of those of its halves, weighted by their examples."""
    problem, batch = _problem(_convolutional()), _images(examples=12)
    parts = [Batch((batch.inputs[0][a:b],), batch.targets[a:b]) for a, b in ((0, 4), (4, 12))]
    whole = _estimated(problem, batch, fisher=Fisher.EXACT)
    split_up = [_estimated(problem, part, fisher=Fisher.EXACT) for part in parts]
    for place in range(3):
        for name in ("A_II", "G_OO"):
            small, large = (getattr(rule.curvatures[place], name) for rule in split_up)
            expected = (4 * small + 8 * large) / 12
            torch.testing.assert_close(getattr(whole.curvatures[place], name), expected, rtol=1e-12, atol=1e-14)


def test_a_share_of_the_batch_gives_the_factors_of_these_examples() -> None:
    problem, batch = _problem(_convolutional()), _images(examples=9)
    part = Batch((batch.inputs[0][:3],), batch.targets[:3])
    for fisher in (Fisher.EXACT, Fisher.EMPIRICAL):
        shared = _estimated(problem, batch, fisher=fisher, factor_share=0.3)
        expected = _estimated(problem, part, fisher=fisher)
        for one, other in zip(shared.curvatures, expected.curvatures, strict=True):
            torch.testing.assert_close((one.A_II, one.G_OO), (other.A_II, other.G_OO), rtol=1e-12, atol=1e-14)


def _trained(disturb: Any = None, steps: int = 6, **settings: Any) -> dict[str, Tensor]:
    problem = _problem(_convolutional())
    rule = KFAC(problem, Settings(lr=0.1, factor_interval=2, inverse_interval=2, **settings))
    for seed in range(steps):
        if disturb is not None:
            disturb(problem, rule, seed)
        rule.step(_images(seed))
    return problem.model.state_dict()


def test_foreign_hooks_evaluations_and_passes_without_a_step_change_nothing() -> None:
    expected = _trained()

    def doubles(problem: Problem, rule: KFAC, seed: int) -> None:
        """Hooks that replace an output by an equal one, before and after ours."""
        if seed == 0:
            problem.model[0].register_forward_hook(lambda module, args, output: output * 1.0)
            problem.model[0].register_forward_hook(lambda module, args, output: output + 0.0, prepend=True)

    def evaluates(problem: Problem, rule: KFAC, seed: int) -> None:
        problem.model.eval()
        with torch.no_grad(), rule.evaluating():
            problem.outputs(_images(50 + seed))
        problem.model.train()
        problem.gradients(problem.loss(problem.outputs(_images(70 + seed)), _images(70 + seed)))

    for disturb in (doubles, evaluates):
        torch.testing.assert_close(_trained(disturb), expected, rtol=0, atol=0)


def test_hooks_leave_no_trace_and_no_covariance_is_computed_on_other_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = _problem(_convolutional())
    rule = KFAC(problem, Settings(lr=0.1, factor_interval=3, inverse_interval=6))
    calls: list[str] = []
    for name in ("input_factor", "gradient_factor"):
        original = getattr(factors, name)
        monkeypatch.setattr(
            factors, name, lambda *a, name=name, original=original, **k: (calls.append(name), original(*a, **k))[1]
        )
    counts, inverses = [], []
    for seed in range(7):
        before = [curvature.inverse for curvature in rule.curvatures]
        calls.clear()
        rule.step(_images(seed))
        counts.append(len(calls))
        inverses.append(all(a is not b.inverse for a, b in zip(before, rule.curvatures, strict=True)))
        assert all(not module._forward_hooks and not module._backward_hooks for module in problem.model.modules())
    assert counts == [6, 0, 0, 6, 0, 0, 6]
    assert inverses == [True, False, False, False, False, False, True]


def test_hooks_are_gone_after_an_error_too() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="shapes"), recording([model]) as calls:
        model(torch.zeros(1, 3))
    assert not model._forward_hooks
    assert calls == []


def test_zeroing_a_factor_changes_the_step_after_the_next_inversion_and_not_before() -> None:
    def zero(problem: Problem, rule: KFAC, seed: int) -> None:
        if seed == 3:
            rule.curvatures[0].A_II.zero_()  # type: ignore[union-attr]

    for steps, same in ((4, True), (5, False)):
        one, other = _trained(steps=steps), _trained(zero, steps=steps)
        assert torch.equal(one["0.weight"], other["0.weight"]) is same


def test_a_large_unfactored_damping_with_a_rate_in_proportion_is_sgd_with_momentum() -> None:
    damping = 1e8
    expected = _convolutional()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9)
    problem = _problem(_convolutional())
    form: dict[str, Any] = {"solver": Solver.EIGEN, "form": Damping.UNFACTORED}
    layers_only = KFAC(problem, Settings(lr=0.1 * damping, damping=damping, momentum=0.9, **form))
    for seed in range(4):
        batch = _images(seed)
        layers_only.step(batch)
        optimizer.zero_grad()
        nn.functional.cross_entropy(expected(*batch.inputs), batch.targets).backward()
        optimizer.step()
    torch.testing.assert_close(problem.model.state_dict(), expected.state_dict(), rtol=1e-6, atol=1e-8)


def test_one_newton_step_solves_a_linear_regression() -> None:
    """There A ⊗ G is the Hessian; the damping goes to zero."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    batch = Batch((torch.randn(30, 4, dtype=F64),), torch.randn(30, 3, dtype=F64))
    for kind in (KroneckerCurvature, CorrectedCurvature):
        twin = copy.deepcopy(model)
        # EKFAC's second moments are exact too, since the exact Fisher's columns do not depend on the input
        settings = Settings(lr=1.0, momentum=0.0, damping=1e-13, fisher=Fisher.EXACT)
        KFAC(_problem(twin, SquaredError()), settings, kind).step(batch)
        design = torch.cat([batch.inputs[0], torch.ones(30, 1, dtype=F64)], dim=1)
        solution = torch.linalg.lstsq(design, batch.targets).solution.mT
        torch.testing.assert_close(twin.weight.detach(), solution[:, :-1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(twin.bias.detach(), solution[:, -1], rtol=1e-5, atol=1e-6)


def test_ekfac_is_the_nearest_diagonal_in_its_basis() -> None:
    """At least as near to the exact Fisher block as KFAC in the Frobenius norm (George et al., 2018, section 3)."""
    problem, batch = _problem(_convolutional()), _images()
    recipe: dict[str, Any] = {"lr": 1e-12, "momentum": 0.0, "fisher": Fisher.EXACT}
    start = copy.deepcopy(problem.model.state_dict())
    kfac, ekfac = KFAC(problem, Settings(**recipe)), KFAC(problem, Settings(**recipe), CorrectedCurvature)
    for rule in (kfac, ekfac):
        problem.model.load_state_dict(start)
        rule.step(batch)
    problem.model.load_state_dict(start)
    exact = _dense_ggn(problem, batch, "2.weight")
    order = torch.arange(3 * 4 * 4).reshape(3, 4, 2, 2).movedim(1, -1).reshape(-1)  # columns run over space, channels
    exact = exact[order][:, order]
    corrected = ekfac.curvatures[1]
    assert isinstance(corrected, CorrectedCurvature)
    assert isinstance(corrected.inverse, Eigenbasis)
    assert corrected.S_OI is not None
    basis = torch.kron(corrected.inverse.U_G, corrected.inverse.U_A)
    torch.testing.assert_close((basis.mT @ exact @ basis).diagonal(), corrected.S_OI.flatten(), rtol=1e-9, atol=1e-12)
    nearest = basis @ corrected.S_OI.flatten().diag() @ basis.mT
    assert float((nearest - exact).norm()) < 0.99 * float((_curvature(kfac, 1) - exact).norm())


def test_ekfac_carries_its_second_moments_over_to_a_new_basis() -> None:
    """A diagonal in the old basis, seen in the new one."""
    curvature = CorrectedCurvature(Recipe(1e-2, 0.95, Solver.EIGEN, Damping.FACTORED), bias=False, storage=F64)
    rows = [Rows(torch.randn(9, 1, 3, dtype=F64), torch.randn(9, 1, 2, dtype=F64), 9) for _ in range(2)]
    curvature.average(rows[0])
    curvature.refresh()
    curvature.correct(rows[0])
    assert isinstance(curvature.inverse, Eigenbasis)
    assert curvature.S_OI is not None
    old_basis = torch.kron(curvature.inverse.U_G, curvature.inverse.U_A)
    dense = old_basis @ curvature.S_OI.flatten().diag() @ old_basis.mT
    curvature.average(rows[1])
    curvature.refresh()
    new_basis = torch.kron(curvature.inverse.U_G, curvature.inverse.U_A)
    assert not torch.allclose(new_basis.abs(), old_basis.abs(), atol=1e-2)
    expected = (new_basis.mT @ dense @ new_basis).diagonal()
    torch.testing.assert_close(curvature.S_OI.flatten(), expected, rtol=1e-10, atol=1e-12)


def test_the_clip_bounds_the_predicted_divergence_and_schedules_act_behind_it() -> None:
    problem, batch = _problem(_convolutional()), _images()
    moves = []
    for factor in (1.0, 0.5):
        twin = copy.deepcopy(problem.model)
        rule = KFAC(_problem(twin), Settings(lr=0.3, momentum=0.0, kl_clip=1e-4, fisher=Fisher.EXACT))
        rule.scale_learning_rate(factor)
        own = rule.problem
        gradients = own.gradients(own.loss(own.outputs(batch), batch)).values
        before = [parameter.detach().clone() for parameter in own.parameters]
        rule.step(batch)
        step = [before[i] - parameter.detach() for i, parameter in enumerate(own.parameters)]
        moves.append(step)
        decrease = sum(float((a * b).sum()) for a, b in zip(step, gradients, strict=True))  # type: ignore[operator]
        # η² ν² ⟨∇J, P ∇J⟩ = κ; the step is η ν P ∇J
        assert 0.3 * rule.readings()["kl_clip_factor"] * decrease / factor == pytest.approx(1e-4, rel=1e-9)
    torch.testing.assert_close(moves[1], [0.5 * move for move in moves[0]], rtol=1e-9, atol=1e-15)


def test_the_clip_sees_small_gradients_in_pure_16_bit_too() -> None:
    """Most of their products with the preconditioned ones are below what 16 bit can hold."""
    problem = _problem(_convolutional().float(), precision=Precision.PURE_FP16)
    whole = problem.loss
    problem.loss = lambda outputs, batch: 3e-3 * whole(outputs, batch)  # type: ignore[method-assign]
    batch = _images(dtype=torch.float32)
    gradients = problem.gradients(problem.loss(problem.outputs(batch), batch)).values
    rule = KFAC(problem, Settings(lr=1e3, damping=1.0, kl_clip=1e-4))
    rule.step(batch)
    predicted, rounded = 0.0, 0.0
    with problem.precision.arithmetic():
        for layer, curvature in zip(rule.layers, rule.curvatures, strict=True):
            g = to_matrix(layer, gradients)  # type: ignore[arg-type] # the loss reaches all
            P_g = curvature.precondition(g)
            predicted += float((P_g.double() * g.double()).sum())
            rounded += float((P_g * g).double().sum())
    assert rule.readings()["kl_clip_factor"] == pytest.approx((1e-4 / (1e6 * predicted)) ** 0.5, rel=1e-4)
    assert rounded != pytest.approx(predicted, rel=1e-3)


def test_a_generous_clip_does_nothing() -> None:
    torch.testing.assert_close(_trained(kl_clip=1e9), _trained(), rtol=0, atol=0)


def test_weight_decay_enters_behind_the_preconditioner() -> None:
    problem = _problem(_convolutional())
    before = [parameter.detach().clone() for parameter in problem.parameters]
    plain = copy.deepcopy(problem.model)
    KFAC(problem, Settings(lr=0.1, momentum=0.0, weight_decay=0.3)).step(_images())
    KFAC(_problem(plain), Settings(lr=0.1, momentum=0.0)).step(_images())
    for start, decayed, other in zip(before, problem.parameters, plain.parameters(), strict=True):
        torch.testing.assert_close(other - decayed, 0.1 * 0.3 * start, rtol=1e-9, atol=1e-13)


class _Twice(nn.Module):
    """A layer used twice, and a layer whose output is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner, self.outer = nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.outer(self.inner(self.inner(x).relu_()).mul_(2.0))
        return out


def test_a_weight_used_twice_has_two_positions_and_outputs_changed_in_place_are_seen_as_they_were() -> None:
    model = _Twice().double()
    x = torch.randn(6, 3, dtype=F64)
    batch = Batch((x,), torch.randn(6, 2, dtype=F64))
    rule = _estimated(_problem(model, SquaredError()), batch, fisher=Fisher.EMPIRICAL)
    with torch.no_grad():
        W, V = model.inner.weight, model.outer.weight
        hidden = (x @ W.mT).relu()
        residual = (2 * (hidden @ W.mT) @ V.mT - batch.targets) / 6
        second = 2 * residual @ V
        first = (second @ W) * (hidden > 0)
        torch.testing.assert_close(rule.curvatures[0].A_II, (x.mT @ x + hidden.mT @ hidden) / 12)
        torch.testing.assert_close(rule.curvatures[0].G_OO, 6 * (first.mT @ first + second.mT @ second))


def test_layers_that_the_loss_does_not_reach_and_other_parameters() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2), "norm": nn.LayerNorm(2)}).double()
    model.forward = lambda x: model["norm"](model["used"](x))  # type: ignore[method-assign]
    problem = _problem(model)
    before = copy.deepcopy(model.state_dict())
    rule = KFAC(problem, Settings(lr=0.1, momentum=0.0))
    batch = Batch((torch.randn(5, 3, dtype=F64),), torch.randint(0, 2, (5,)))
    gradient = problem.gradients(problem.loss(problem.outputs(batch), batch)).values[-1]
    rule.step(batch)
    after = model.state_dict()
    assert torch.equal(after["unused.weight"], before["unused.weight"])
    assert not torch.equal(after["used.weight"], before["used.weight"])
    torch.testing.assert_close(before["norm.bias"] - after["norm.bias"], 0.1 * gradient)  # type: ignore[operator]


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.PURE_FP16])
def test_an_overflow_of_the_curvature_skips_the_estimate_and_without_any_the_step(precision: Precision) -> None:
    problem = _problem(_convolutional().float(), precision=precision)
    rule = KFAC(problem, Settings(lr=0.01, factor_interval=1))
    before = problem.parameters[0].detach().clone()
    problem._scale("curvature").value = 2.0**60
    assert not rule.step(_images(dtype=torch.float32)).applied
    assert torch.equal(problem.parameters[0], before)
    assert rule.steps == 0
    problem._scale("curvature").value = 2.0**8
    assert rule.step(_images(dtype=torch.float32)).applied
    problem._scale("curvature").value = 2.0**60
    assert rule.step(_images(1, dtype=torch.float32)).applied
    assert [curvature.estimates for curvature in rule.curvatures] == [1, 1, 1]


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_factors_under_loss_scaling_are_those_of_float32_but_for_rounding(precision: Precision) -> None:
    expected = _estimated(_problem(_convolutional().float()), _images(dtype=torch.float32), fisher=Fisher.EMPIRICAL)
    problem = _problem(_convolutional().float(), precision=precision)
    rule = _estimated(problem, _images(dtype=torch.float32), fisher=Fisher.EMPIRICAL)
    for one, other in zip(rule.curvatures, expected.curvatures, strict=True):
        assert one.G_OO is not None
        assert one.G_OO.dtype is torch.float32
        torch.testing.assert_close(one.G_OO, other.G_OO, rtol=0.05, atol=0.02 * float(other.G_OO.abs().max()))  # type: ignore[union-attr]


def test_in_pure_16_bit_everything_is_stored_in_16_bit() -> None:
    for precision, dtype in ((Precision.PURE_FP16, torch.float16), (Precision.PURE_BF16, torch.bfloat16)):
        problem = _problem(_convolutional().float(), precision=precision)
        for kind in (KroneckerCurvature, CorrectedCurvature):
            rule = KFAC(problem, Settings(lr=0.01), kind)
            rule.step(_images(dtype=torch.float32))
            kept = [tensor for group in rule.state_tensors().values() for tensor in group]
            assert {tensor.dtype for tensor in kept} == {dtype}


def test_state_bytes_equal_a_hand_count() -> None:
    """Two convolutions 4 × (18 + 1) and 3 × 16, one linear layer 3 × (18 + 1)."""
    problem = _problem(_convolutional())
    parameters = sum(parameter.numel() for parameter in problem.parameters)
    sides = 19**2 + 4**2 + 16**2 + 3**2 + 19**2 + 3**2
    scales = 4 * 19 + 3 * 16 + 3 * 19
    for kind, expected in ((KroneckerCurvature, 2 * sides), (CorrectedCurvature, 2 * sides + 2 * scales)):
        rule = KFAC(problem, Settings(lr=1e-3), kind)
        rule.step(_images())
        counts = {name: sum(tensor.numel() for tensor in group) for name, group in rule.state_tensors().items()}
        assert counts == {"optimizer": parameters, "curvature": expected}


def test_where_hooks_are_needed_the_network_runs_without_torch_compile() -> None:
    problem = _problem(_convolutional())
    calls = []
    problem._forward = lambda *inputs: (calls.append(1), problem.model(*inputs))[1]
    rule = KFAC(problem, Settings(lr=0.1, factor_interval=3))
    for seed in range(4):
        rule.step(_images(seed))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "KFAC: lr 0.0 makes no sense; give one above 0"),
        ({"damping": 0.0}, "KFAC: damping 0.0 makes no sense; give one above 0"),
        ({"factor_interval": 0}, "KFAC: factor_interval 0 makes no sense; give one 1 or more"),
        ({"form": Damping.UNFACTORED}, "KFAC: unfactored damping needs eigenvectors; give solver 'eigen'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Settings(**{"lr": 0.1, **settings})


class _Attention(nn.Module):
    """A block of self-attention over a sequence, with a residual connection; one class a sequence."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.qkv, self.out, self.head = nn.Linear(4, 12), nn.Linear(4, 4, bias=False), nn.Linear(4, 3)

    def forward(self, x_NRI: Tensor) -> Tensor:
        q, k, v = self.qkv(x_NRI).chunk(3, dim=-1)
        mixed = (q @ k.mT / 2.0).softmax(-1) @ v
        scores: Tensor = self.head((x_NRI + self.out(mixed)).mean(1))
        return scores


def _peers() -> Iterator[Any]:
    torch.manual_seed(2)
    mlp = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    yield pytest.param(mlp.double(), torch.randn(7, 5, dtype=F64), id="mlp")
    yield pytest.param(_convolutional(), _images(examples=7).inputs[0], id="cnn")
    yield pytest.param(_Attention().double(), torch.randn(7, 6, 4, dtype=F64), id="attention")


@pytest.mark.parametrize("fisher", [Fisher.EXACT, Fisher.EMPIRICAL])
@pytest.mark.parametrize("sharing", Sharing)
@pytest.mark.parametrize(("model", "inputs"), list(_peers()))
def test_agreement_with_curvlinops(model: nn.Module, inputs: Tensor, sharing: Sharing, fisher: Fisher) -> None:
    """An independent implementation by other people, layer by layer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its dependencies still use torch.jit.script
        curvlinops = pytest.importorskip("curvlinops", exc_type=ImportError)
    model = copy.deepcopy(model)
    targets = torch.randint(0, 3, (7,))
    rule = _estimated(_problem(model), Batch((inputs,), targets), fisher=fisher, sharing=sharing)
    for place, layer in enumerate(rule.layers):
        parameters = [rule.problem.parameters[index] for index in layer.places]
        operator = curvlinops.KFACLinearOperator(
            model,
            nn.CrossEntropyLoss(),
            parameters,
            [(inputs, targets)],
            fisher_type="type-2" if fisher is Fisher.EXACT else "empirical",
            kfac_approx=str(sharing),
            separate_weight_and_bias=False,
            check_deterministic=False,
        )
        size = sum(parameter.numel() for parameter in parameters)
        theirs = operator @ torch.eye(size, dtype=F64)
        numbers = torch.split(torch.arange(size), [parameter.numel() for parameter in parameters])
        places = {i: part.reshape(p.shape) for i, part, p in zip(layer.places, numbers, parameters, strict=True)}
        order = to_matrix(layer, places).flatten()
        torch.testing.assert_close(_curvature(rule, place), theirs[order][:, order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layer", [nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Linear(6, 5)], ids=str)
def test_nothing_is_made_on_another_device(layer: nn.Module) -> None:
    """On the meta device, where a tensor of the CPU would be refused."""
    layer = copy.deepcopy(layer).to("meta")
    inputs = torch.randn(5, 2, 7, 6, device="meta")
    x_NRI, g_NRO = factors.input_rows(layer, inputs), factors.gradient_rows(layer, layer(inputs))
    A_II, G_OO = factors.input_factor(x_NRI, bias=True), factors.gradient_factor(g_NRO, 5)
    S_OI = factors.squares_in_basis(x_NRI, g_NRO, A_II, G_OO, 5, bias=True)
    for_A, for_G = split(A_II, G_OO, 1e-2)
    W_OI = Eigenbasis(A_II, G_OO, S_OI).precondition(S_OI)
    assert {part.device.type for part in (A_II, G_OO, S_OI, for_A, for_G, W_OI)} == {"meta"}
    assert W_OI.shape == (g_NRO.shape[2], x_NRI.shape[2] + 1)
