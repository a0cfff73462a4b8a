"""Kinds of steps: shares exact, and a step prepared to be of a kind does what is due in it and nothing else."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

from apo_bench import Batch, CrossEntropy, Precision, PrecisionPolicy, Problem
from apo_bench.errors import UsageError
from apo_bench.measure.kinds import PLAIN, Kind, prepare_kind, step_kinds
from apo_bench.optim.apo_lr import APOLR
from apo_bench.optim.apo_p import APOP
from apo_bench.optim.proximal import ProximalWeights
from apo_bench.plugins.registry import optimizers
from apo_bench.problem.rule import Periodic
from baselines import modern
from baselines.kfac.curvature import CorrectedCurvature, KroneckerCurvature
from baselines.kfac.optimizer import KFAC
from baselines.kfac.settings import Settings

NAMES = ("a", "b", "c")


class _Rule:
    """As much of an update rule as `step_kinds` looks at."""

    def __init__(self, **intervals: int) -> None:
        self.steps = 0
        self.intervals = intervals


def _kinds(**intervals: int) -> tuple[Kind, ...]:
    return step_kinds(_Rule(**intervals))  # type: ignore[arg-type] # a stand-in with what is read of it


def _due(intervals: Mapping[str, int], step: int) -> str:
    return "+".join(name for name, interval in intervals.items() if step % interval == 0) or PLAIN


@pytest.mark.parametrize("count", [1, 2, 3])
def test_kinds_and_shares_are_those_of_a_whole_cycle(count: int) -> None:
    for values in itertools.product(range(1, 9), repeat=count):
        intervals = dict(zip(NAMES, values, strict=False))
        cycle = math.lcm(*values)
        expected = collections.Counter(_due(intervals, step) for step in range(cycle))
        kinds = _kinds(**intervals)
        assert {kind.name: kind.share * cycle for kind in kinds} == expected
        assert sum(kind.share for kind in kinds) == 1
        for kind in kinds:
            assert kind.at > 1_000_000
            assert _due(intervals, kind.at) == kind.name


def test_a_cycle_of_any_length_is_not_walked_through() -> None:
    primes = {"a": 1_000_003, "b": 1_000_033, "c": 1_000_037}
    kinds = _kinds(**primes)
    assert len(kinds) == 2**3
    assert sum(kind.share for kind in kinds) == 1
    assert [_due(primes, kind.at) for kind in kinds] == [kind.name for kind in kinds]
    shares = {kind.name: kind.share for kind in kinds}
    assert shares["a+b"] == Fraction(1, primes["a"] * primes["b"]) * Fraction(primes["c"] - 1, primes["c"])


def test_an_interval_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not 0 \(b\)"):
        _kinds(a=2, b=0)


def _batch(seed: int = 0) -> Batch:
    source = torch.Generator().manual_seed(seed)
    return Batch((torch.randn(16, 5, generator=source),), torch.randint(0, 3, (16,), generator=source))


def _problem(model: nn.Module | None = None) -> Problem:
    torch.manual_seed(0)
    policy = PrecisionPolicy(Precision.FP32, torch.device("cpu"))
    model = model or nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    return Problem(model, CrossEntropy(), policy, lambda: _batch(9))


def _taken(rule: Any) -> list[str]:
    """Names of the kinds, one step of each being taken."""
    names = []
    for kind in step_kinds(rule):
        prepare_kind(rule, kind)
        assert rule.steps == kind.at
        assert rule.step(_batch()).applied
        assert rule.steps == kind.at + 1
        names.append(kind.name)
    return names


@pytest.mark.parametrize("curvature", [KroneckerCurvature, CorrectedCurvature])
@pytest.mark.parametrize("intervals", [(2, 3), (2, 6), (6, 2), (10, 10), (1, 4), (3, 1)])
def test_kfac_does_what_is_due(intervals: tuple[int, int], curvature: type[KroneckerCurvature]) -> None:
    calls: collections.Counter[str] = collections.Counter()

    class Spied(curvature):  # type: ignore[misc,valid-type] # a base known at run time
        def average(self, rows: Any) -> None:
            calls["factors"] += 1
            super().average(rows)

        def refresh(self) -> None:
            calls["inverse"] += 1
            super().refresh()

    settings = Settings(lr=0.1, factor_interval=intervals[0], inverse_interval=intervals[1])
    rule = KFAC(_problem(), settings, Spied)
    rule.step(_batch())
    for kind in step_kinds(rule):
        calls.clear()
        prepare_kind(rule, kind)
        rule.step(_batch())
        assert calls == {name: 2 for name in kind.name.split("+") if name != PLAIN}, kind


WEIGHTS = ProximalWeights(fsd=0.5, wsd=0.1)


@pytest.mark.parametrize("interval", [1, 4])
@pytest.mark.parametrize("method", ["apo-p", "apo-lr"])
def test_apo_does_what_is_due(method: str, interval: int) -> None:
    problem = _problem()
    rule: Any
    if method == "apo-p":
        rule = APOP(problem, lr=0.1, weights=WEIGHTS, interval=interval, warmup_steps=500)
    else:
        rule = APOLR(problem, torch.optim.SGD(problem.parameters, lr=0.1), weights=WEIGHTS, interval=interval)
    before = rule.meta_updates
    names = _taken(rule)
    assert names == (["meta"] if interval == 1 else ["plain", "meta"])
    assert rule.meta_updates - before == 1


def _soap(interval: int) -> modern.SOAPRule:
    pytest.importorskip("pytorch_optimizer")
    rule = modern.soap.build(_problem(), modern.SOAP(interval=interval))
    assert isinstance(rule, modern.SOAPRule)
    return rule


def test_soap_refreshes_its_basis_where_that_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = _soap(4)
    refreshed = []
    library = rule.optimizer
    original = library.get_orthogonal_matrix_qr  # type: ignore[attr-defined] # its stubs lack it

    def spy(*arguments: Any) -> Any:
        refreshed.append(rule.steps - 1)  # the library counts the step before it takes it
        return original(*arguments)

    monkeypatch.setattr(library, "get_orthogonal_matrix_qr", spy)
    for taken in range(9):
        assert rule.steps == taken
        rule.step(_batch(taken))
    # asked for each of the four parameters; the very first step, at 0, makes the basis another way
    assert refreshed == [4] * 4 + [8] * 4
    for kind in step_kinds(rule):
        refreshed.clear()
        prepare_kind(rule, kind)
        rule.step(_batch())
        assert refreshed == ([kind.at] * 4 if kind.name == "basis" else []), kind


def test_soap_continues_its_count_from_a_saved_state() -> None:
    rule, other = _soap(4), _soap(4)
    for taken in range(3):
        rule.step(_batch(taken))
    other.load_state_dict(rule.state_dict())
    assert other.steps == 3


@pytest.mark.parametrize("name", optimizers().names())
def test_every_interval_among_the_hyperparameters_is_one_of_the_rule(name: str) -> None:
    competitor = optimizers()[name].load()
    hyperparameters = competitor.hyperparameters()
    declared = [
        getattr(hyperparameters, field.name)
        for field in dataclasses.fields(hyperparameters)
        if field.name.endswith("interval")
    ]
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    try:
        rule = competitor.build(_problem(model), hyperparameters)
    except UsageError as error:  # its library is missing
        pytest.skip(str(error))
    intervals: Mapping[str, int] = rule.intervals if isinstance(rule, Periodic) else {}
    assert sorted(intervals.values()) == sorted(declared)
    kinds = step_kinds(rule)
    assert [kind.name for kind in kinds][:1] == [PLAIN]
    prepare_kind(rule, kinds[0])
    assert rule.step(_batch()).applied
