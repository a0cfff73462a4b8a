"""APO-P's momentum: bit for bit that of SGD at meta-rate 0, from an average that starts at 0."""

from typing import Any

import pytest
import torch
from support.problems import WEIGHTS, problem_of, some_batch, some_network

from apo_bench.optim.apo_p import APOP
from apo_bench.problem.rule import TorchRule
from apo_bench.records.spec import Precision


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP16])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_t7_meta_rate_0_is_sgd_bit_for_bit(momentum: float, precision: Precision) -> None:
    ends = []
    for adaptive in (False, True):
        problem = problem_of(some_network(), precision)
        sgd = torch.optim.SGD(problem.parameters, lr=0.1, momentum=momentum, dampening=momentum, weight_decay=1e-2)
        if momentum:  # else torch's average starts at the first gradient, undampened
            for parameter in problem.parameters:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        rule: Any = TorchRule(problem, sgd)
        if adaptive:
            rule = APOP(problem, lr=0.1, weights=WEIGHTS, meta_lr=0.0, interval=2, momentum=momentum, weight_decay=1e-2)
        torch.manual_seed(5)
        for seed in range(9):
            rule.step(some_batch(seed))
        ends.append((problem.model.state_dict(), problem.scale(), torch.get_rng_state()))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_the_first_gradient_is_dampened_as_the_others_are(momentum: float) -> None:
    """Under one gradient g, again and again, step t moves by η (1 − μᵗ) g: never longer than SGD's."""
    problem = problem_of(some_network().double(), dtype=torch.float64)
    rule = APOP(problem, lr=0.1, weights=WEIGHTS, meta_lr=0.0, interval=100, momentum=momentum)
    gradient = [torch.randn_like(parameter) for parameter in problem.parameters]
    for step in range(1, 6):
        averages = rule._average(gradient)
        for average, g in zip(averages, gradient, strict=True):
            torch.testing.assert_close(average, (1.0 - momentum**step) * g, rtol=1e-12, atol=1e-12)


def test_without_dampening_the_average_is_that_of_torchs_sgd() -> None:
    ends = []
    for adaptive in (False, True):
        problem = problem_of(some_network())
        rule: Any = TorchRule(problem, torch.optim.SGD(problem.parameters, lr=0.1, momentum=0.9))
        if adaptive:
            rule = APOP(problem, lr=0.1, weights=WEIGHTS, meta_lr=0.0, interval=2, momentum=0.9, dampening=0.0)
        torch.manual_seed(5)
        for seed in range(5):
            rule.step(some_batch(seed))
        ends.append(problem.model.state_dict())
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)
