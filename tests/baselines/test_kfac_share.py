"""Which examples of a batch KFAC and EKFAC estimate their factors from."""

from typing import Any

import pytest
import torch
from support.kfac import problem_of
from torch import Tensor, nn

from apo_bench import Batch, CrossEntropy
from baselines.kfac.curvature import CorrectedCurvature, KroneckerCurvature
from baselines.kfac.optimizer import KFAC
from baselines.kfac.settings import Fisher, Settings

CURVATURES = [KroneckerCurvature, CorrectedCurvature]


def _kfac(objective: CrossEntropy, curvature: type[KroneckerCurvature] = KroneckerCurvature, **settings: Any) -> KFAC:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return KFAC(problem_of(model, objective), Settings(lr=0.1, **settings), curvature)


def _factors(rule: KFAC) -> list[Tensor]:
    found = [factor for own in rule.curvatures for factor in (own.A_II, own.G_OO) if factor is not None]
    assert len(found) == 4
    return [factor.clone() for factor in found]


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("fisher", list(Fisher))
def test_examples_without_a_label_leave_the_factors_as_they_are(
    fisher: Fisher, curvature: type[KroneckerCurvature]
) -> None:
    """Not averaged with the zeros that a loss of nothing has for gradients."""
    rule = _kfac(CrossEntropy(), curvature, fisher=fisher, factor_share=0.25, factor_interval=1, inverse_interval=1)
    inputs, labels = torch.randn(16, 4), torch.randint(0, 3, (16,))
    rule.step(Batch((inputs,), labels))
    before = _factors(rule)
    result = rule.step(Batch((inputs,), labels.masked_fill(torch.arange(16) < 8, -100)))
    assert result.applied
    assert all(torch.equal(one, other) for one, other in zip(before, _factors(rule), strict=True))


@pytest.mark.parametrize("curvature", CURVATURES)
def test_the_first_batch_may_have_no_label_where_the_factors_look(curvature: type[KroneckerCurvature]) -> None:
    rule = _kfac(CrossEntropy(), curvature, factor_share=0.25)
    inputs, labels = torch.randn(16, 4), torch.randint(0, 3, (16,))
    for targets in (labels.masked_fill(torch.arange(16) < 8, -100), labels):
        assert rule.step(Batch((inputs,), targets)).applied
    assert all(bool(parameter.isfinite().all()) for parameter in rule.problem.parameters)
    assert any(True for _ in rule.state_tensors()["curvature"])


class _Counting(CrossEntropy):
    """Notes how many examples targets are drawn for."""

    drawn = 0

    def sample_targets(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        self.drawn = batch.size
        return super().sample_targets(outputs, batch, generator)


@pytest.mark.parametrize(("share", "size", "count"), [(0.07, 100, 7), (0.55, 100, 55), (0.1, 30, 3), (0.25, 10, 3)])
def test_a_share_of_a_batch_has_no_example_for_float_noise(share: float, size: int, count: int) -> None:
    objective = _Counting()
    rule = _kfac(objective, factor_share=share)
    rule.step(Batch((torch.randn(size, 4),), torch.randint(0, 3, (size,))))
    assert objective.drawn == count
