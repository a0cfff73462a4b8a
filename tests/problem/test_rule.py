"""What a rule can do beyond a step is a type, and every registered optimizer is asked by it."""

from typing import Any

import pytest
import torch
from torch import nn

from apo_bench import CrossEntropy, Precision, PrecisionPolicy, Problem, TorchRule
from apo_bench.plugins.metrics import Accuracy, CorpusMetric, Metric
from apo_bench.problem.rule import Observable, PartlyWide, Periodic, Schedulable, Selective
from apo_bench.tasks.bleu import Bleu
from baselines.kfac import KFAC, Settings


def problem() -> Problem:
    model = nn.Linear(3, 2)
    policy = PrecisionPolicy(Precision.FP32, torch.device("cpu"))
    return Problem(model, CrossEntropy(), policy, lambda: pytest.fail("no further batch is needed"))


def test_a_torch_optimizer_follows_a_schedule_and_says_nothing_of_itself() -> None:
    seen = problem()
    rule = TorchRule(seen, torch.optim.SGD(seen.parameters, lr=0.1))
    assert isinstance(rule, Schedulable)
    assert not isinstance(rule, Observable | Periodic | PartlyWide | Selective)


def test_kfac_is_all_of_it() -> None:
    rule = KFAC(problem(), Settings(lr=0.1, damping=0.1, kl_clip=1e-3))
    for kind in (Schedulable, Observable, Periodic, PartlyWide, Selective):
        assert isinstance(rule, kind)


@pytest.mark.parametrize("kind", [Schedulable, Observable, Periodic, PartlyWide, Selective])
def test_nothing_is_none_of_it(kind: Any) -> None:
    assert not isinstance(object(), kind)


def test_a_metric_judges_outputs_or_a_whole_corpus() -> None:
    bleu = Bleu(lambda rows: [""] * len(rows), begin=1, end=2)
    assert isinstance(Accuracy(), Metric)
    assert not isinstance(Accuracy(), CorpusMetric)
    assert isinstance(bleu, CorpusMetric)
    assert not isinstance(bleu, Metric)
