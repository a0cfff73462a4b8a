"""The proximal objective's choices: the direction of the divergence, and how much of B′ it sees; in float64."""

import copy

import pytest
import torch
from support.problems import problem_of, some_batch, some_network
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence

from apo_bench.data.examples import Batch
from apo_bench.errors import UsageError
from apo_bench.optim.proximal import ProximalObjective, ProximalWeights
from apo_bench.plugins.registry import optimizers
from apo_bench.problem.problem import Problem

COMPETITORS = [name for name in optimizers().names() if name.startswith("apo-")]


def _moved(weights: ProximalWeights) -> tuple[Problem, ProximalObjective, nn.Module, dict[str, Tensor]]:
    """A problem whose model has moved since the objective was made, a copy of the model before, its random state."""
    network = some_network().double()
    problem = problem_of(network, dtype=torch.float64)
    state = problem.random_state()
    objective = ProximalObjective(problem, some_batch(0, torch.float64), state, weights)
    before = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in problem.parameters:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return problem, objective, before, state


def _expected(
    problem: Problem, before: nn.Module, state: dict[str, Tensor], other: Batch, *, reverse: bool
) -> list[Tensor]:
    """Gradient of J_B + 0.7 KL on ``other``, by autograd of torch's own divergence."""

    def outputs(model: nn.Module, batch: Batch) -> Tensor:
        torch.set_rng_state(state["cpu"])
        out: Tensor = model(*batch.inputs)
        return out

    twin = copy.deepcopy(problem.model)
    batch = some_batch(0, torch.float64)
    loss = nn.functional.cross_entropy(outputs(twin, batch), batch.targets)
    old, new = Categorical(logits=outputs(before, other).detach()), Categorical(logits=outputs(twin, other))
    divergence = kl_divergence(new, old) if reverse else kl_divergence(old, new)
    return list(torch.autograd.grad(loss + 0.7 * divergence.mean(), list(twin.parameters())))


@pytest.mark.parametrize("extra", [None, 5])
@pytest.mark.parametrize("reverse", [False, True])
def test_q_equals_autograd_of_the_explicit_divergence(reverse: bool, extra: int | None) -> None:  # noqa: FBT001 - a parameter of the test
    """With dropout and batch normalization, on all of B′ or only on its first examples."""
    problem, objective, before, state = _moved(ProximalWeights(fsd=0.7, wsd=0.0, reverse=reverse, extra=extra))
    whole = some_batch(99, torch.float64)
    other = Batch((whole.inputs[0][:extra],), whole.targets[:extra])
    got = objective.gradient().values
    for one, want in zip(got, _expected(problem, before, state, other, reverse=reverse), strict=True):
        torch.testing.assert_close(one, want, rtol=1e-9, atol=1e-11)
    wrong = _expected(problem, before, state, other, reverse=not reverse)
    moved = [float((one - want).abs().max()) for one, want in zip(got, wrong, strict=True) if one is not None]
    assert max(moved) > 1e-4


@pytest.mark.parametrize("name", [name for name in COMPETITORS if name != "apo-p-warm"])  # which has no such choices
def test_competitors_pass_the_choices_on(name: str) -> None:
    competitor = optimizers()[name].load()
    for fields, expected in (
        ({}, (False, None, False, 1.0)),
        ({"reverse_kl": True, "extra_batch": 4, "fresh_batch": True, "meta_share": 0.25}, (True, 4, True, 0.25)),
    ):
        weights = competitor.build(problem_of(some_network()), competitor.hyperparameters(**fields)).weights
        assert (weights.reverse, weights.extra, weights.fresh, weights.share) == expected


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_share_takes_the_first_examples_of_both_batches(share: float) -> None:
    """And the additional batch is as long as ``extra`` says, where it does."""
    for extra in (None, 5):
        weights = ProximalWeights(fsd=0.7, wsd=0.0, share=share, extra=extra)
        problem, objective, before, state = _moved(weights)
        first, whole = some_batch(0, torch.float64), some_batch(99, torch.float64)
        count = round(share * first.size)
        assert 1 < count < first.size
        rows = count if extra is None else extra
        twin = copy.deepcopy(problem.model)
        part, other = first.inputs[0][:count], whole.inputs[0][:rows]

        def outputs(model: nn.Module, inputs: Tensor, state: dict[str, Tensor] = state) -> Tensor:
            torch.set_rng_state(state["cpu"])
            out: Tensor = model(inputs)
            return out

        loss = nn.functional.cross_entropy(outputs(twin, part), first.targets[:count])
        old, new = Categorical(logits=outputs(before, other).detach()), Categorical(logits=outputs(twin, other))
        expected = torch.autograd.grad(loss + 0.7 * kl_divergence(old, new).mean(), list(twin.parameters()))
        for one, want in zip(objective.gradient().values, expected, strict=True):
            torch.testing.assert_close(one, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_is_above_0_and_at_most_1(share: float) -> None:
    with pytest.raises(ValueError, match="a share of the batches"):
        ProximalWeights(fsd=1.0, wsd=0.0, share=share)


def test_a_fresh_batch_takes_the_place_of_b_in_the_loss_term() -> None:
    """Drawn before B′, from the same stream: q is the gradient of the loss on a batch that made no gradient."""
    problem, objective, _, state = _moved(ProximalWeights(fsd=0.0, wsd=0.0, fresh=True))
    with problem.lookahead(state):
        fresh = problem.gradients(
            problem.loss(problem.outputs(some_batch(99, torch.float64)), some_batch(99, torch.float64))
        )
    with problem.lookahead(state):
        same = problem.gradients(
            problem.loss(problem.outputs(some_batch(0, torch.float64)), some_batch(0, torch.float64))
        )
    got = objective.gradient().values
    for one, want in zip(got, fresh.values, strict=True):
        torch.testing.assert_close(one, want, rtol=1e-12, atol=1e-14)
    last, other = got[-1], same.values[-1]
    assert last is not None
    assert other is not None
    assert float((last - other).abs().max()) > 1e-6


@pytest.mark.parametrize("extra", [0, -3])
def test_an_empty_additional_batch_is_refused(extra: int) -> None:
    with pytest.raises(ValueError, match="at least one example"):
        ProximalWeights(fsd=1.0, wsd=0.0, extra=extra)


def test_more_examples_than_a_batch_has_are_refused() -> None:
    with pytest.raises(UsageError, match="17 examples of an additional batch that has 16; give 16 or fewer"):
        _moved(ProximalWeights(fsd=1.0, wsd=0.0, extra=17))
