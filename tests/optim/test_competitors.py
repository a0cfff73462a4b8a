"""APO's competitors hand their hyperparameters on."""

import pytest
import torch
from support.problems import problem_of, some_batch, some_network

from apo_bench.optim.apo_lr import APOLR
from apo_bench.optim.apo_p import APOP
from apo_bench.plugins.optimizer import resolve_hyperparameters
from apo_bench.plugins.registry import optimizers
from apo_bench.problem.rule import UpdateRule


def _rule(name: str, **overrides: float) -> UpdateRule:
    competitor = optimizers()[name].load()
    values = resolve_hyperparameters(competitor.hyperparameters, overrides, optimizer=name)
    rule: UpdateRule = competitor.build(problem_of(some_network()), competitor.hyperparameters(**values))
    return rule


@pytest.mark.parametrize("base", ["sgd", "sgdm", "rmsprop", "adam"])
def test_per_layer_gives_each_module_a_rate_of_its_own(base: str) -> None:
    """A convolution, batch normalization and a linear layer; all parameters are in one of the groups, once."""
    for per_layer, rates in ((False, 1), (True, 3)):
        rule = _rule(f"apo-lr-{base}", per_layer=per_layer, interval=1)
        assert isinstance(rule, APOLR)
        torch.manual_seed(0)
        for seed in range(3):
            rule.step(some_batch(seed))
        assert len(set(rule.learning_rates)) == rates
        held = [id(parameter) for group in rule.optimizer.param_groups for parameter in group["params"]]
        assert sorted(held) == sorted(map(id, rule.problem.parameters))


def test_the_lookahead_of_apo_lr_is_handed_on() -> None:
    for whole_move in (False, True):
        rule = _rule("apo-lr-sgdm", whole_move=whole_move)
        assert isinstance(rule, APOLR)
        assert rule.whole_move is whole_move


def test_rates_by_width_and_of_scales_are_handed_on() -> None:
    rule = _rule("apo-p", meta_lr=1e-3, meta_width=16, scale_lr=0.25)
    assert isinstance(rule, APOP)
    rates = sorted(group["lr"] for group in rule._meta.param_groups)
    assert rates == pytest.approx([1e-3 * 16 / 65, 1e-3, 0.25])  # the linear layer has 64 inputs and a bias
