"""The optimizer of the parameters that are in no layer: normalization, embeddings, tied outputs."""

import copy
from typing import Any

import pytest
import torch
from support.kfac import F64, problem_of
from support.runs import run_spec
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from apo_bench import Batch, Precision, Problem
from apo_bench.errors import UsageError
from baselines.kfac import EKFACHyperparameters, KFACHyperparameters, ekfac, kfac
from baselines.kfac.optimizer import KFAC
from baselines.kfac.settings import Rest, Settings

REST = ("tokens.weight", "norm.weight", "norm.bias")


class _Tagger(nn.Module):
    """An embedding, a layer, a normalization, and the embedding again as the output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.layer, self.norm = nn.Embedding(7, 4), nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, pieces_BT: Tensor) -> Tensor:
        x_BTD = self.norm(self.layer(self.tokens(pieces_BT)).tanh())
        return F.linear(x_BTD.mean(1), self.tokens.weight)


def _batch(seed: int) -> Batch:
    source = torch.Generator().manual_seed(seed)
    return Batch((torch.randint(0, 7, (6, 3), generator=source),), torch.randint(0, 7, (6,), generator=source))


def _rule(problem: Problem, **settings: Any) -> KFAC:
    return KFAC(problem, Settings(lr=0.1, factor_interval=2, inverse_interval=4, kl_clip=1e-3, **settings))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_steps_what_is_in_no_layer_as_torch_does(decay: float) -> None:
    """Step by step on the gradients of the same network, with a schedule, and the layer's steps are those of KFAC."""
    problem = problem_of(_Tagger().double())
    rule = _rule(problem, rest=Rest.ADAM, rest_lr=0.02, weight_decay=decay)
    names = dict(problem.model.named_parameters())
    own = [names[name].detach().clone().requires_grad_() for name in REST]
    adam = torch.optim.Adam(own, lr=0.02, weight_decay=decay)
    for seed in range(5):
        factor = 1.0 / (1 + seed)
        rule.scale_learning_rate(factor)
        adam.param_groups[0]["lr"] = 0.02 * factor
        batch = _batch(seed)
        loss = F.cross_entropy(problem.model(*batch.inputs), batch.targets)
        for parameter, gradient in zip(own, torch.autograd.grad(loss, [names[name] for name in REST]), strict=True):
            parameter.grad = gradient
        rule.step(batch)
        adam.step()
        torch.testing.assert_close(
            [names[name].detach() for name in REST], [p.detach() for p in own], rtol=1e-9, atol=0
        )


def test_the_layers_first_step_is_the_same_whatever_steps_the_rest() -> None:
    ends = []
    for settings in ({}, {"rest": Rest.ADAM}, {"rest_lr": 0.7}):
        problem = problem_of(_Tagger().double())
        _rule(problem, weight_decay=0.1, **settings).step(_batch(0))
        ends.append(problem.model.state_dict())
    for other in ends[1:]:
        for name, value in ends[0].items():
            assert torch.equal(value, other[name]) is (name not in REST)


def test_under_sgd_their_rate_is_their_own_and_by_default_that_of_kfac() -> None:
    moves = []
    for settings in ({}, {"rest_lr": 0.1}, {"rest_lr": 0.05}):
        problem = problem_of(_Tagger().double())
        before = {name: parameter.detach().clone() for name, parameter in problem.model.named_parameters()}
        rule = _rule(problem, momentum=0.0, **settings)
        rule.scale_learning_rate(0.5)
        gradients = problem.gradients(problem.loss(problem.outputs(_batch(0)), _batch(0))).values
        rule.step(_batch(0))
        moves.append({name: before[name] - now.detach() for name, now in problem.model.named_parameters()})
    plain = dict(zip((name for name, _ in problem.model.named_parameters()), gradients, strict=True))
    for name in REST:
        assert torch.equal(moves[0][name], moves[1][name])
        torch.testing.assert_close(moves[0][name], 0.05 * plain[name], rtol=1e-9, atol=1e-16)  # type: ignore[operator] # the loss reaches all
        torch.testing.assert_close(moves[2][name], 0.5 * moves[0][name], rtol=1e-9, atol=1e-16)
    torch.testing.assert_close(moves[2]["layer.weight"], moves[0]["layer.weight"], rtol=0, atol=0)


def test_adam_is_saved_and_counted() -> None:
    """Two moments for each number of the rest, a counter for each of its parameters, and momentum for the layer."""
    problem = problem_of(_Tagger().double())
    rule = _rule(problem, rest=Rest.ADAM)
    for seed in range(3):
        rule.step(_batch(seed))
    sizes = {name: parameter.numel() for name, parameter in problem.model.named_parameters()}
    rest = sum(sizes[name] for name in REST)
    held = sum(tensor.numel() for tensor in rule.state_tensors()["optimizer"])
    assert held == 2 * rest + len(REST) + sum(sizes.values()) - rest
    twin = problem_of(copy.deepcopy(problem.model))
    other = _rule(twin, rest=Rest.ADAM)
    other.load_state_dict(copy.deepcopy(rule.state_dict()))
    for seed in range(3, 6):
        for one in (rule, other):
            one.scale_learning_rate(0.5)
            one.step(_batch(seed))
    torch.testing.assert_close(problem.model.state_dict(), twin.model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16, Precision.PURE_FP16, Precision.PURE_BF16])
def test_adam_for_the_rest_in_16_bit(precision: Precision) -> None:
    """It trains, what is stored in 16 bit stays so, and an overflow leaves its state untouched."""
    problem = problem_of(_Tagger(), precision=precision)
    rule = _rule(problem, rest=Rest.ADAM, rest_lr=0.02)
    losses = [float(rule.step(_batch(0)).loss) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    moments = [one for own in rule._adam.state.values() for name, one in own.items() if name != "step"]  # type: ignore[union-attr] # there
    stored = {parameter.dtype for parameter in problem.parameters}
    assert {moment.dtype for moment in moments} <= stored
    if problem.precision.loss_scaling:
        before = copy.deepcopy(rule.state_dict()["rest"])
        problem._scale("base").value = 2.0**100
        assert not rule.step(_batch(0)).applied
        torch.testing.assert_close(rule.state_dict()["rest"], before, rtol=0, atol=0)


def test_a_model_of_layers_only_has_no_adam() -> None:
    problem = problem_of(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    rule = KFAC(problem, Settings(lr=0.1, rest=Rest.ADAM))
    assert rule.step(Batch((torch.randn(6, 4),), torch.arange(6) % 3)).applied
    assert rule.state_dict()["rest"] is None


@pytest.mark.parametrize("competitor", [kfac, ekfac], ids=["kfac", "ekfac"])
def test_the_choice_is_a_hyperparameter(competitor: Any) -> None:
    rule = competitor.build(problem_of(_Tagger()), competitor.hyperparameters(rest="adam", rest_lr=1))
    assert isinstance(rule, KFAC)
    assert (rule.settings.rest, rule.settings.rate_of_rest) == (Rest.ADAM, 1.0)
    for kind in (KFACHyperparameters, EKFACHyperparameters):
        assert {"rest", "rest_lr"} <= set(kind.__dataclass_fields__)
    assert run_spec("kfac", rest="adam", rest_lr=2e-3).optimizer.hyperparameters["rest_lr"] == 2e-3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rest": "lamb"}, r"KFAC: rest must be one of sgd, adam \(got 'lamb'\)"),
        ({"rest_lr": 0.0}, r"KFAC: rest_lr must be None, or a number above 0 \(got 0.0\)"),
        ({"rest_lr": "fast"}, r"KFAC: rest_lr must be None, or a number above 0 \(got fast\)"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kfac.build(problem_of(_Tagger()), kfac.hyperparameters(**wrong))


def test_the_declared_optimizer_is_as_before() -> None:
    """Momentum on the plain gradient: adding the fields changed no published row's rule."""
    problem = problem_of(_Tagger().double())
    velocity = {
        name: torch.zeros(shape, dtype=F64)
        for name, shape in ((n, p.shape) for n, p in problem.model.named_parameters())
    }
    rule = kfac.build(problem, kfac.hyperparameters())
    names = dict(problem.model.named_parameters())
    for seed in range(3):
        batch = _batch(seed)
        loss = F.cross_entropy(problem.model(*batch.inputs), batch.targets)
        expected = {}
        for name, gradient in zip(REST, torch.autograd.grad(loss, [names[name] for name in REST]), strict=True):
            velocity[name] = 0.9 * velocity[name] + gradient
            expected[name] = names[name].detach() - 0.1 * velocity[name]
        rule.step(batch)
        torch.testing.assert_close({name: names[name].detach() for name in REST}, expected, rtol=1e-9, atol=1e-15)
