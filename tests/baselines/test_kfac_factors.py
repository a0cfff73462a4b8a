"""KFAC's factors against exact matrices, and their damped inverses."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.kfac import F64, convolutional, curvature_of, dense_ggn, estimated, image_batch, problem_of
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from apo_bench import Batch, SquaredError
from apo_bench.optim.layers import to_matrix
from baselines.kfac import damping, factors
from baselines.kfac.curvature import CorrectedCurvature, KroneckerCurvature, Recipe, Rows
from baselines.kfac.damping import (
    Damping,
    Eigenbasis,
    Inverses,
    NotInvertibleError,
    Solver,
    Triangle,
    damped_eigenbasis,
    damped_inverses,
    damped_solver,
    inverse,
    split,
    upper_factor,
)
from baselines.kfac.factors import Sharing
from baselines.kfac.optimizer import KFAC
from baselines.kfac.settings import Fisher, Settings


def test_t8_the_factors_are_exact_on_deep_linear_networks_with_squared_error() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 5, bias=False), nn.Linear(5, 3, bias=False), nn.Linear(3, 2, bias=False)
    ).double()
    batch = Batch((torch.randn(9, 4, dtype=F64),), torch.randn(9, 2, dtype=F64))
    problem = problem_of(model, SquaredError())
    rule = estimated(problem, batch, fisher=Fisher.EXACT)
    for place in range(3):
        expected = dense_ggn(problem, batch, f"{place}.weight")
        torch.testing.assert_close(curvature_of(rule, place), expected, rtol=1e-12, atol=1e-13)


def test_t8_with_softmax_they_are_exact_for_one_example_or_a_constant_prediction_only() -> None:
    torch.manual_seed(0)
    differences = {}
    for case, examples, scale in (("one example", 1, 1.0), ("constant", 40, 0.0), ("general", 40, 1.0)):
        model = nn.Linear(4, 3, bias=False).double()
        with torch.no_grad():
            model.weight.mul_(3.0 * scale)
        problem = problem_of(model)
        batch = Batch((torch.randn(examples, 4, dtype=F64),), torch.randint(0, 3, (examples,)))
        rule = estimated(problem, batch, fisher=Fisher.EXACT)
        exact = dense_ggn(problem, batch, "weight")
        differences[case] = float((curvature_of(rule, 0) - exact).norm() / exact.norm())
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
        problem = problem_of(model, SquaredError())
        rule = estimated(problem, batch, fisher=Fisher.EXACT, sharing=sharing)
        weights = torch.tensor([i for i in range(15) if i % 5 != 4])  # columns of the weight, without the bias's
        got = curvature_of(rule, 0)[weights][:, weights]
        expected = dense_ggn(problem, batch, "first.weight")
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
    inputs = image_batch(examples=5).inputs[0]
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


@pytest.mark.parametrize("features", [1, 255, 256, 259])
def test_a_large_second_moment_is_made_of_blocks(features: int) -> None:
    rows = torch.randn(20, features, dtype=F64)
    found = factors.gram(rows)
    torch.testing.assert_close(found, torch.einsum("mi,mj->ij", rows, rows), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, found.mT, rtol=1e-12, atol=1e-13)


def test_second_moments_are_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x_NRI, g_NRO = torch.randn(7, 3, 4, dtype=F64), torch.randn(7, 3, 5, dtype=F64)
    arguments = (x_NRI, g_NRO, torch.eye(4, dtype=F64), torch.eye(5, dtype=F64), 7)
    whole = factors.squares_in_basis(*arguments, bias=False)
    monkeypatch.setattr(factors, "_CHUNK", 2 * 20)
    torch.testing.assert_close(factors.squares_in_basis(*arguments, bias=False), whole, rtol=1e-13, atol=0)


def test_the_sampled_fisher_converges_to_the_exact_one() -> None:
    errors = []
    problem, batch = problem_of(convolutional()), image_batch()
    exact = [curvature.G_OO for curvature in estimated(problem, batch, fisher=Fisher.EXACT).curvatures]
    for repeats in (20, 2000):
        rule = KFAC(problem, Settings(lr=1e-30, momentum=0.0, factor_interval=1, inverse_interval=10**6, decay=0.99999))
        for _ in range(repeats):
            rule.step(batch)
        got = [curvature.G_OO for curvature in rule.curvatures]
        pairs = zip(got, exact, strict=True)
        errors.append(max(float((one - other).norm() / other.norm()) for one, other in pairs))  # type: ignore[operator, union-attr] # there after an estimate
    assert errors[1] < 0.05
    assert errors[1] < 0.3 * errors[0]


def test_empirical_and_true_fisher_differ_and_both_agree_with_their_definition() -> None:
    problem, batch = problem_of(convolutional()), image_batch()
    rule = estimated(problem, batch, fisher=Fisher.EMPIRICAL)
    outputs = problem.model(*batch.inputs)
    per_example = outputs.softmax(1) - nn.functional.one_hot(batch.targets, 3)
    torch.testing.assert_close(rule.curvatures[2].G_OO, per_example.mT @ per_example / 8, rtol=1e-12, atol=1e-14)
    exact = estimated(problem, batch, fisher=Fisher.EXACT)
    assert not torch.allclose(rule.curvatures[2].G_OO, exact.curvatures[2].G_OO, rtol=1e-2)  # type: ignore[arg-type] # there after an estimate


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


@pytest.mark.parametrize("rank", [3, 40])
def test_triangular_solves_are_the_inverses(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    A, G, W = _factors(6, rank), _factors(4, rank), torch.randn(4, 6, dtype=F64)
    for_A, for_G = split(A, G, 1e-2)
    dense = torch.kron(G + for_G * torch.eye(4, dtype=F64), A + for_A * torch.eye(6, dtype=F64))
    expected = torch.linalg.solve(dense, W.flatten()).reshape(4, 6)
    for limit, kind in ((6, Triangle), (7, Inverses)):
        monkeypatch.setattr(damping, "LARGE", limit)
        found = damped_solver(A, G, 1e-2)
        assert type(found) is kind
        torch.testing.assert_close(found.precondition(W), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("storage", [torch.float64, torch.float32, torch.float16])
def test_a_large_layer_is_solved_for_where_torch_can_and_saved(
    storage: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damping, "LARGE", 3)
    recipe = Recipe(1e-2, 0.95, Solver.CHOLESKY, Damping.FACTORED)
    curvature = KroneckerCurvature(recipe, bias=False, storage=storage)
    wide = torch.promote_types(storage, torch.float32)
    curvature.average(Rows(torch.randn(9, 1, 4, dtype=wide), torch.randn(9, 1, 2, dtype=wide), 9))
    curvature.refresh()
    assert type(curvature.inverse) is (Inverses if storage is torch.float16 else Triangle)
    other = KroneckerCurvature(recipe, bias=False, storage=storage)
    other.load(copy.deepcopy(curvature.tensors()), 1)
    W = torch.randn(2, 4, dtype=storage)
    assert torch.equal(other.precondition(W), curvature.precondition(W))
    assert curvature.A_II is not None
    assert curvature.G_OO is not None
    expected = damped_inverses(curvature.A_II.to(wide), curvature.G_OO.to(wide), 1e-2).precondition(W.to(wide))
    torch.testing.assert_close(curvature.precondition(W).to(wide), expected, rtol=2e-2, atol=2e-2)


def test_what_float32_cannot_factor_is_factored_in_float64() -> None:
    rows = torch.randn(2, 300, generator=torch.Generator().manual_seed(0), dtype=F64) * 1e3
    matrix = (rows.mT @ rows).float()
    found = upper_factor(matrix, torch.tensor(4.0)).double()
    torch.testing.assert_close(found.mT @ found, matrix.double() + 4.0 * torch.eye(300, dtype=F64), rtol=1e-5, atol=1.0)
    assert not found.tril(-1).any()
    with pytest.raises(NotInvertibleError):
        upper_factor(matrix, torch.tensor(-4.0))


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
    problem, batch = problem_of(convolutional()), image_batch(examples=12)
    parts = [Batch((batch.inputs[0][a:b],), batch.targets[a:b]) for a, b in ((0, 4), (4, 12))]
    whole = estimated(problem, batch, fisher=Fisher.EXACT)
    split_up = [estimated(problem, part, fisher=Fisher.EXACT) for part in parts]
    for place in range(3):
        for name in ("A_II", "G_OO"):
            small, large = (getattr(rule.curvatures[place], name) for rule in split_up)
            expected = (4 * small + 8 * large) / 12
            torch.testing.assert_close(getattr(whole.curvatures[place], name), expected, rtol=1e-12, atol=1e-14)


def test_a_share_of_the_batch_gives_the_factors_of_these_examples() -> None:
    problem, batch = problem_of(convolutional()), image_batch(examples=9)
    part = Batch((batch.inputs[0][:3],), batch.targets[:3])
    for fisher in (Fisher.EXACT, Fisher.EMPIRICAL):
        shared = estimated(problem, batch, fisher=fisher, factor_share=0.3)
        expected = estimated(problem, part, fisher=fisher)
        for one, other in zip(shared.curvatures, expected.curvatures, strict=True):
            torch.testing.assert_close((one.A_II, one.G_OO), (other.A_II, other.G_OO), rtol=1e-12, atol=1e-14)


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
    yield pytest.param(convolutional(), image_batch(examples=7).inputs[0], id="cnn")
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
    rule = estimated(problem_of(model), Batch((inputs,), targets), fisher=fisher, sharing=sharing)
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
        torch.testing.assert_close(curvature_of(rule, place), theirs[order][:, order], rtol=1e-9, atol=1e-12)


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
