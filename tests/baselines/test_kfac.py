"""KFAC and EKFAC as update rules: reductions, hooks, clipping, number formats."""

import copy
import re
from typing import Any

import pytest
import torch
from support.kfac import F64, convolutional, curvature_of, dense_ggn, estimated, image_batch, problem_of
from torch import Tensor, nn

from apo_bench import Batch, Precision, Problem, SquaredError
from apo_bench.errors import UsageError
from apo_bench.optim.layers import to_matrix
from baselines.kfac import factors
from baselines.kfac.curvature import CorrectedCurvature, KroneckerCurvature, Recipe, Rows
from baselines.kfac.damping import (
    Damping,
    Eigenbasis,
    Solver,
)
from baselines.kfac.hooks import recording
from baselines.kfac.optimizer import KFAC
from baselines.kfac.settings import ClipRate, Fisher, Settings


def _trained(disturb: Any = None, steps: int = 6, **settings: Any) -> dict[str, Tensor]:
    problem = problem_of(convolutional())
    rule = KFAC(problem, Settings(lr=0.1, factor_interval=2, inverse_interval=2, **settings))
    for seed in range(steps):
        if disturb is not None:
            disturb(problem, rule, seed)
        rule.step(image_batch(seed))
    return problem.model.state_dict()


def test_foreign_hooks_evaluations_and_passes_without_a_step_change_nothing() -> None:
    expected = _trained()

    def doubles(problem: Problem, rule: KFAC, seed: int) -> None:
        """Hooks that replace an output by an equal one, before and after ours."""
        if seed == 0:
            problem.model[0].register_forward_hook(lambda module, args, output: output * 1.0)  # type: ignore[index] # torch and pandas type this loosely
            problem.model[0].register_forward_hook(lambda module, args, output: output + 0.0, prepend=True)  # type: ignore[index] # torch and pandas type this loosely

    def evaluates(problem: Problem, rule: KFAC, seed: int) -> None:
        problem.model.eval()
        with torch.no_grad(), rule.evaluating():
            problem.outputs(image_batch(50 + seed))
        problem.model.train()
        problem.gradients(problem.loss(problem.outputs(image_batch(70 + seed)), image_batch(70 + seed)))

    for disturb in (doubles, evaluates):
        torch.testing.assert_close(_trained(disturb), expected, rtol=0, atol=0)


def test_hooks_leave_no_trace_and_no_covariance_is_computed_on_other_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(convolutional())
    rule = KFAC(problem, Settings(lr=0.1, factor_interval=3, inverse_interval=6))
    calls: list[str] = []
    for name in ("input_factor", "gradient_factor"):
        original = getattr(factors, name)
        monkeypatch.setattr(
            factors,
            name,
            lambda *a, name=name, original=original, **k: (calls.append(name), original(*a, **k))[1],  # type: ignore[func-returns-value] # counts, and passes on
        )
    counts, inverses = [], []
    for seed in range(7):
        before = [curvature.inverse for curvature in rule.curvatures]
        calls.clear()
        rule.step(image_batch(seed))
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
            rule.curvatures[0].A_II.zero_()  # type: ignore[union-attr] # there after a step

    for steps, same in ((4, True), (5, False)):
        one, other = _trained(steps=steps), _trained(zero, steps=steps)
        assert torch.equal(one["0.weight"], other["0.weight"]) is same


def test_a_large_unfactored_damping_with_a_rate_in_proportion_is_sgd_with_momentum() -> None:
    damping = 1e8
    expected = convolutional()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9)
    problem = problem_of(convolutional())
    form: dict[str, Any] = {"solver": Solver.EIGEN, "form": Damping.UNFACTORED}
    layers_only = KFAC(problem, Settings(lr=0.1 * damping, damping=damping, momentum=0.9, **form))
    for seed in range(4):
        batch = image_batch(seed)
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
        KFAC(problem_of(twin, SquaredError()), settings, kind).step(batch)
        design = torch.cat([batch.inputs[0], torch.ones(30, 1, dtype=F64)], dim=1)
        solution = torch.linalg.lstsq(design, batch.targets).solution.mT
        torch.testing.assert_close(twin.weight.detach(), solution[:, :-1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(twin.bias.detach(), solution[:, -1], rtol=1e-5, atol=1e-6)


def test_ekfac_is_the_nearest_diagonal_in_its_basis() -> None:
    """At least as near to the exact Fisher block as KFAC in the Frobenius norm (George et al., 2018, section 3)."""
    problem, batch = problem_of(convolutional()), image_batch()
    recipe: dict[str, Any] = {"lr": 1e-12, "momentum": 0.0, "fisher": Fisher.EXACT}
    start = copy.deepcopy(problem.model.state_dict())
    kfac, ekfac = KFAC(problem, Settings(**recipe)), KFAC(problem, Settings(**recipe), CorrectedCurvature)
    for rule in (kfac, ekfac):
        problem.model.load_state_dict(start)
        rule.step(batch)
    problem.model.load_state_dict(start)
    exact = dense_ggn(problem, batch, "2.weight")
    order = torch.arange(3 * 4 * 4).reshape(3, 4, 2, 2).movedim(1, -1).reshape(-1)  # columns run over space, channels
    exact = exact[order][:, order]
    corrected = ekfac.curvatures[1]
    assert isinstance(corrected, CorrectedCurvature)
    assert isinstance(corrected.inverse, Eigenbasis)
    assert corrected.S_OI is not None
    basis = torch.kron(corrected.inverse.U_G, corrected.inverse.U_A)
    torch.testing.assert_close((basis.mT @ exact @ basis).diagonal(), corrected.S_OI.flatten(), rtol=1e-9, atol=1e-12)
    nearest = basis @ corrected.S_OI.flatten().diag() @ basis.mT
    assert float((nearest - exact).norm()) < 0.99 * float((curvature_of(kfac, 1) - exact).norm())


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
    problem, batch = problem_of(convolutional()), image_batch()
    moves = []
    for factor in (1.0, 0.5):
        twin = copy.deepcopy(problem.model)
        rule = KFAC(problem_of(twin), Settings(lr=0.3, momentum=0.0, kl_clip=1e-4, fisher=Fisher.EXACT))
        rule.scale_learning_rate(factor)
        own = rule.problem
        gradients = own.gradients(own.loss(own.outputs(batch), batch)).values
        before = [parameter.detach().clone() for parameter in own.parameters]
        rule.step(batch)
        step = [before[i] - parameter.detach() for i, parameter in enumerate(own.parameters)]
        moves.append(step)
        decrease = sum(float((a * b).sum()) for a, b in zip(step, gradients, strict=True))  # type: ignore[misc, operator] # the loss reaches all
        # η² ν² ⟨∇J, P ∇J⟩ = κ; the step is η ν P ∇J
        assert 0.3 * rule.readings()["kl_clip_factor"] * decrease / factor == pytest.approx(1e-4, rel=1e-9)
    torch.testing.assert_close(moves[1], [0.5 * move for move in moves[0]], rtol=1e-9, atol=1e-15)


def test_a_clip_at_the_current_rate_bounds_the_step_that_is_taken() -> None:
    """η_t² ν² ⟨∇J, P ∇J⟩ = κ at whatever rate the schedule says, so that clipped steps are all as long."""
    problem, batch = problem_of(convolutional()), image_batch()
    moves, clips = [], []
    for factor in (1.0, 0.5, 0.0):
        settings = Settings(lr=0.3, momentum=0.0, kl_clip=1e-4, clip_rate=ClipRate.CURRENT, fisher=Fisher.EXACT)
        rule = KFAC(problem_of(copy.deepcopy(problem.model)), settings)
        rule.scale_learning_rate(factor)
        before = [parameter.detach().clone() for parameter in rule.problem.parameters]
        rule.step(batch)
        moves.append([old - new.detach() for old, new in zip(before, rule.problem.parameters, strict=True)])
        clips.append(rule.readings()["kl_clip_factor"])
    assert clips[0] < 0.5
    assert clips[1:] == [pytest.approx(2.0 * clips[0], rel=1e-9), 1.0]
    layers = [place for layer in rule.layers for place in layer.places]
    torch.testing.assert_close(*([move[place] for place in layers] for move in moves[:2]), rtol=1e-9, atol=1e-15)
    assert not any(move.any() for move in moves[2])


def test_the_clip_sees_small_gradients_in_pure_16_bit_too() -> None:
    """Most of their products with the preconditioned ones are below what 16 bit can hold."""
    problem = problem_of(convolutional().float(), precision=Precision.PURE_FP16)
    whole = problem.loss
    problem.loss = lambda outputs, batch: 3e-3 * whole(outputs, batch)  # type: ignore[method-assign] # a loss scaled on purpose
    batch = image_batch(dtype=torch.float32)
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
    problem = problem_of(convolutional())
    before = [parameter.detach().clone() for parameter in problem.parameters]
    plain = copy.deepcopy(problem.model)
    KFAC(problem, Settings(lr=0.1, momentum=0.0, weight_decay=0.3)).step(image_batch())
    KFAC(problem_of(plain), Settings(lr=0.1, momentum=0.0)).step(image_batch())
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
    rule = estimated(problem_of(model, SquaredError()), batch, fisher=Fisher.EMPIRICAL)
    with torch.no_grad():
        W, V = model.inner.weight, model.outer.weight
        hidden = (x @ W.mT).relu()
        residual = (2 * (hidden @ W.mT) @ V.mT - batch.targets) / 6
        second = 2 * residual @ V
        first = (second @ W) * (hidden > 0)
        torch.testing.assert_close(rule.curvatures[0].A_II, (x.mT @ x + hidden.mT @ hidden) / 12)
        torch.testing.assert_close(rule.curvatures[0].G_OO, 6 * (first.mT @ first + second.mT @ second))


class _InPlace(nn.Module):
    """Positions through a linear layer, whose output is a view, and that is changed in place or not."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.gate, self.head = nn.Linear(4, 3), nn.ReLU(inplace=in_place), nn.Linear(3, 2)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.head(self.gate(self.layer(x_BTD))).mean(1)
        return out


def test_an_output_of_more_than_two_dimensions_may_be_changed_in_place() -> None:
    found = []
    for in_place in (False, True):
        model = _InPlace(in_place=in_place).double()
        batch = Batch(
            (torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1), dtype=F64),), torch.arange(5) % 2
        )
        rule = estimated(problem_of(model), batch, fisher=Fisher.EXACT)
        assert not rule.left_alone
        found.append([curvature.tensors() for curvature in rule.curvatures])
    assert found[0][0]
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=0)


def test_layers_that_the_loss_does_not_reach_and_other_parameters() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2), "norm": nn.LayerNorm(2)}).double()
    model.forward = lambda x: model["norm"](model["used"](x))
    problem = problem_of(model)
    before = copy.deepcopy(model.state_dict())
    rule = KFAC(problem, Settings(lr=0.1, momentum=0.0))
    batch = Batch((torch.randn(5, 3, dtype=F64),), torch.randint(0, 2, (5,)))
    gradient = problem.gradients(problem.loss(problem.outputs(batch), batch)).values[-1]
    rule.step(batch)
    after = model.state_dict()
    assert torch.equal(after["unused.weight"], before["unused.weight"])
    assert not torch.equal(after["used.weight"], before["used.weight"])
    torch.testing.assert_close(before["norm.bias"] - after["norm.bias"], 0.1 * gradient)  # type: ignore[operator] # the loss reaches all


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.PURE_FP16])
def test_an_overflow_of_the_curvature_skips_the_estimate_and_without_any_the_step(precision: Precision) -> None:
    problem = problem_of(convolutional().float(), precision=precision)
    rule = KFAC(problem, Settings(lr=0.01, factor_interval=1))
    before = problem.parameters[0].detach().clone()
    problem._scale("curvature").value = 2.0**60
    assert not rule.step(image_batch(dtype=torch.float32)).applied
    assert torch.equal(problem.parameters[0], before)
    assert rule.steps == 0
    problem._scale("curvature").value = 2.0**8
    assert rule.step(image_batch(dtype=torch.float32)).applied
    problem._scale("curvature").value = 2.0**60
    assert rule.step(image_batch(1, dtype=torch.float32)).applied
    assert [curvature.estimates for curvature in rule.curvatures] == [1, 1, 1]


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_factors_under_loss_scaling_are_those_of_float32_but_for_rounding(precision: Precision) -> None:
    expected = estimated(problem_of(convolutional().float()), image_batch(dtype=torch.float32), fisher=Fisher.EMPIRICAL)
    problem = problem_of(convolutional().float(), precision=precision)
    rule = estimated(problem, image_batch(dtype=torch.float32), fisher=Fisher.EMPIRICAL)
    for one, other in zip(rule.curvatures, expected.curvatures, strict=True):
        assert one.G_OO is not None
        assert one.G_OO.dtype is torch.float32
        torch.testing.assert_close(one.G_OO, other.G_OO, rtol=0.05, atol=0.02 * float(other.G_OO.abs().max()))  # type: ignore[union-attr] # there after an estimate


def test_in_pure_16_bit_everything_is_stored_in_16_bit() -> None:
    for precision, dtype in ((Precision.PURE_FP16, torch.float16), (Precision.PURE_BF16, torch.bfloat16)):
        problem = problem_of(convolutional().float(), precision=precision)
        for kind in (KroneckerCurvature, CorrectedCurvature):
            rule = KFAC(problem, Settings(lr=0.01), kind)
            rule.step(image_batch(dtype=torch.float32))
            kept = [tensor for group in rule.state_tensors().values() for tensor in group]
            assert {tensor.dtype for tensor in kept} == {dtype}


def test_state_bytes_equal_a_hand_count() -> None:
    """Two convolutions 4 × (18 + 1) and 3 × 16, one linear layer 3 × (18 + 1)."""
    problem = problem_of(convolutional())
    parameters = sum(parameter.numel() for parameter in problem.parameters)
    sides = 19**2 + 4**2 + 16**2 + 3**2 + 19**2 + 3**2
    scales = 4 * 19 + 3 * 16 + 3 * 19
    for kind, expected in ((KroneckerCurvature, 2 * sides), (CorrectedCurvature, 2 * sides + 2 * scales)):
        rule = KFAC(problem, Settings(lr=1e-3), kind)
        rule.step(image_batch())
        counts = {name: sum(tensor.numel() for tensor in group) for name, group in rule.state_tensors().items()}
        assert counts == {"optimizer": parameters, "curvature": expected}


def test_where_hooks_are_needed_the_network_runs_without_torch_compile() -> None:
    problem = problem_of(convolutional())
    calls = []
    problem._forward = lambda *inputs: (calls.append(1), problem.model(*inputs))[1]  # type: ignore[func-returns-value] # counts, and passes on
    rule = KFAC(problem, Settings(lr=0.1, factor_interval=3))
    for seed in range(4):
        rule.step(image_batch(seed))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "KFAC: lr must be above 0 (got 0.0)"),
        ({"damping": 0.0}, "KFAC: damping must be above 0 (got 0.0)"),
        ({"factor_interval": 0}, "KFAC: factor_interval must be at least 1 (got 0)"),
        ({"form": Damping.UNFACTORED}, "KFAC: unfactored damping needs eigenvectors; give solver 'eigen'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        Settings(**{"lr": 0.1, **settings})
