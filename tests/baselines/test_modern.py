"""What is particular to Muon, SOAP and Schedule-Free AdamW; the laws are in test_optimizers.py."""

import sys
from typing import Any

import pytest
import torch
from support.devices import policy_for
from torch import Tensor, nn

from apo_bench.data.examples import Batch
from apo_bench.errors import UsageError
from apo_bench.models.lenet import lenet
from apo_bench.problem.objectives import CrossEntropy
from apo_bench.problem.problem import Problem
from baselines import modern


def _batch(seed: int) -> Batch:
    source = torch.Generator().manual_seed(seed)
    images = torch.randn(16, 1, 6, 6, generator=source, dtype=torch.float64)
    return Batch((images,), torch.randint(0, 3, (16,), generator=source))


def _problem(model: nn.Module) -> Problem:
    policy = policy_for(model)
    return Problem(model, CrossEntropy(), policy, lambda: _batch(99))


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)).double()


@pytest.mark.parametrize(
    ("module", "competitor"), [("pytorch_optimizer", modern.soap), ("schedulefree", modern.schedule_free_adamw)]
)
def test_without_its_library_a_competitor_says_how_to_fix_it(
    module: str, competitor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"needs the library {module} .*; pip install {module}"):
        competitor.build(_problem(_network()), competitor.hyperparameters())


def test_muon_takes_the_hidden_matrices_of_lenet() -> None:
    model = lenet(in_channels=1, image_size=28, classes=10)
    shapes = [tuple(parameter.shape) for parameter in modern.hidden_matrices(model)]
    assert shapes == [(120, 400), (84, 120)]


def test_muon_leaves_embeddings_and_the_output_tied_to_them() -> None:
    embedding, hidden, last = nn.Embedding(7, 5), nn.Linear(5, 5), nn.Linear(5, 7, bias=False)
    last.weight = embedding.weight
    assert modern.hidden_matrices(nn.Sequential(embedding, hidden, last)) == [hidden.weight]


def test_muon_refuses_a_model_without_hidden_matrices() -> None:
    with pytest.raises(UsageError, match=r"no hidden matrix.*use adamw"):
        modern.muon.build(_problem(_network()), modern.Muon())


def _schedule_free(problem: Problem) -> modern.ScheduleFreeRule:
    pytest.importorskip("schedulefree")
    rule = modern.schedule_free_adamw.build(problem, modern.ScheduleFreeAdamW())
    assert isinstance(rule, modern.ScheduleFreeRule)
    return rule


def test_schedule_free_is_judged_at_the_mean_of_its_iterates() -> None:
    """X is the mean of z₁ … zₜ at a constant rate (Defazio et al., 2024, equation 5)."""
    problem = _problem(_network())
    rule = _schedule_free(problem)
    sums = [torch.zeros_like(parameter) for parameter in problem.parameters]
    for seed in range(7):
        rule.step(_batch(seed))
        for total, parameter in zip(sums, problem.parameters, strict=True):
            total.add_(rule.optimizer.state[parameter]["z"])
    means = [total / 7 for total in sums]
    training = [parameter.detach().clone() for parameter in problem.parameters]
    with rule.evaluating():
        judged = [parameter.detach().clone() for parameter in problem.parameters]
    torch.testing.assert_close(judged, means, rtol=1e-10, atol=1e-12)
    assert not any(torch.equal(one, other) for one, other in zip(judged, training, strict=True))


def test_schedule_free_is_judged_with_statistics_of_its_mean() -> None:
    problem = _problem(_network())
    rule = _schedule_free(problem)
    for seed in range(7):
        rule.step(_batch(seed))
    images = _batch(99).inputs[0]
    convolution, normalization = problem.model[0], problem.model[1]  # type: ignore[index] # torch and pandas type this loosely
    before = normalization.running_mean.clone()
    with rule.evaluating(), torch.no_grad():
        expected: Tensor = convolution(images).mean((0, 2, 3))
        torch.testing.assert_close(normalization.running_mean, expected, rtol=1e-2, atol=1e-3)
    assert torch.equal(normalization.running_mean, before)
    assert not torch.allclose(before, expected, rtol=1e-2, atol=1e-3)


def test_soaps_factors_are_counted_as_state() -> None:
    """They lie in lists: for a convolution of 4 × 1 × 3 × 3, L and Q of 4, 1, 3 and 3; for a matrix, of both sides."""
    pytest.importorskip("pytorch_optimizer")
    problem = _problem(_network())
    rule = modern.soap.build(problem, modern.SOAP())
    rule.step(_batch(0))
    elements = sum(tensor.numel() for tensor in rule.state_tensors()["optimizer"])
    parameters = sum(parameter.numel() for parameter in problem.parameters)
    assert elements == 2 * parameters + 2 * (16 + 1 + 9 + 9) + 2 * (64**2 + 3**2)
