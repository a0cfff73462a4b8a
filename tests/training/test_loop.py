"""The training loop: divergence, schedules, phases, and no trace of what is off the clock."""

import copy
import dataclasses
import math
import shutil
import time
from typing import Any

import msgspec
import pytest
import torch
from support.devices import CPU
from support.runs import ALL, TASK, numbers_of, run_spec, tiny_model, tiny_splits, trained
from torch import Tensor

from apo_bench.data.examples import Batch, Dataset, Examples, Splits
from apo_bench.errors import UsageError
from apo_bench.measure.kinds import step_kinds
from apo_bench.plugins.registry import optimizers
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import StepResult, TorchRule
from apo_bench.problem.seeds import Purpose, derive
from apo_bench.records.facts import PrecisionBackend
from apo_bench.records.outcome import Diverged, NonFinite, Reason
from apo_bench.records.schedules import Cosine
from apo_bench.records.spec import Precision
from apo_bench.training.blame import RuleFailedError
from apo_bench.training.loop import GIVE_UP
from apo_bench.training.trainer import initial_model, prepare, rehearse, train


def test_divergence_names_its_step_and_leaves_no_number_that_is_not_finite() -> None:
    training = trained("sgd", lr=1e20, epochs=4)
    assert isinstance(training.outcome, Diverged)
    assert 1 < training.outcome.step <= 10
    assert training.curve == ()
    assert training.scores.test is None
    assert training.scores.validation is None
    msgspec.json.encode(training.cost)


class _Failing(TorchRule):
    """Reports a loss that is not finite at one step."""

    at = 14
    taken = 0

    def step(self, batch: Batch) -> StepResult:
        self.taken += 1
        result = super().step(batch)
        return StepResult(result.loss * (float("nan") if self.taken == self.at else 1.0), result.applied)


def _some_labels() -> Splits:
    """Half of the training examples have no label."""
    splits = tiny_splits()
    labels = splits.train.targets.masked_fill(torch.arange(len(splits.train)) % 2 == 0, -100)
    return dataclasses.replace(splits, train=Examples(splits.train.inputs, labels))


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
@pytest.mark.parametrize("name", ["sgdm", "kfac"])
def test_a_batch_without_a_label_is_said_and_no_divergence(name: str, precision: Precision) -> None:
    """Of the 330 examples in batches of 3 an eighth; under loss scaling too, where such a step is skipped."""
    task = dataclasses.replace(TASK, dataset=Dataset("tiny", _some_labels, lambda: "1"), batch_size=3)
    with pytest.raises(
        UsageError, match=r"^step \d+: no example of the training batch has a label, .* larger$"
    ) as caught:
        train(run_spec(name, precision=precision), task, optimizers()[name].load(), CPU)
    batches = prepare(run_spec(name, precision=precision), task, optimizers()[name].load(), CPU).setup.batches
    labels = [batches.draw().targets for _ in range(110)]
    first = next(step for step, targets in enumerate(labels, start=1) if bool((targets < 0).all()))
    assert str(caught.value).startswith(f"step {first}:")


class _Overflowing(TorchRule):
    """Skips every step from one on."""

    taken = 0

    def step(self, batch: Batch) -> StepResult:
        self.taken += 1
        if self.taken < 6:
            return super().step(batch)
        return StepResult(torch.tensor(float("inf")), applied=False)


def test_the_first_loss_that_is_not_finite_is_found_inside_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baselines.first_order.TorchRule", _Failing)
    training = trained("sgd", epochs=4)
    first = NonFinite(step=14, tensor="loss", dtype="float32")
    assert training.outcome == Diverged(step=14, reason=Reason.TRAINING_LOSS, first=first)
    assert [point.step for point in training.curve] == [10]


class _Raising(_Failing):
    """Raises two steps after its loss has stopped being finite, as a factorization of such numbers does."""

    at = 11

    def step(self, batch: Batch) -> StepResult:
        if self.taken == self.at + 1:
            raise RuntimeError("the factorization failed")
        return super().step(batch)


class _Breaking(TorchRule):
    """Spoils a parameter, and raises at the next step."""

    taken = 0

    def step(self, batch: Batch) -> StepResult:
        self.taken += 1
        if self.taken == 3:
            self.problem.parameters[0].data[0] = math.inf
            raise ArithmeticError("no number")
        return super().step(batch)


class _Broken(TorchRule):
    """Raises while all is finite."""

    def step(self, batch: Batch) -> StepResult:
        raise RuntimeError("a bug")


def test_what_raises_on_numbers_that_are_not_finite_has_diverged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A crash is no result: the seeds that are left would be averaged without it."""
    monkeypatch.setattr("baselines.first_order.TorchRule", _Raising)
    outcome = trained("sgd", epochs=4).outcome
    assert isinstance(outcome, Diverged)
    assert (outcome.step, outcome.reason) == (11, "training loss is not finite")
    assert "step 13 raised RuntimeError: the factorization failed" in capsys.readouterr().err
    monkeypatch.setattr("baselines.first_order.TorchRule", _Breaking)
    outcome = trained("sgd", epochs=4).outcome
    assert isinstance(outcome, Diverged)
    assert (outcome.step, outcome.reason) == (3, "a parameter is not finite")
    monkeypatch.setattr("baselines.first_order.TorchRule", _Broken)
    with pytest.raises(RuleFailedError, match="a bug"):
        trained("sgd", epochs=4)


@pytest.mark.parametrize("optimizer", ["kfac", "apo-p", "adam"])
def test_a_rehearsal_leaves_no_trace(optimizer: str) -> None:
    """On CUDA every run has one; here it is asked for."""
    undisturbed = trained(optimizer, epochs=2)
    loop = prepare(run_spec(optimizer, epochs=2), TASK, optimizers()[optimizer].load(), CPU)
    before = {name: value.clone() for name, value in loop.setup.problem.model.state_dict().items()}
    taken = []
    competitor = optimizers()[optimizer].load()

    def build(problem: Problem, h: object) -> Any:
        rule = competitor.build(problem, h)
        step = rule.step
        rule.step = lambda batch: (step(batch), taken.append(1))[0]  # type: ignore[func-returns-value] # counts, and passes on
        return rule

    noting = dataclasses.replace(competitor, build=build)
    rehearse(
        loop.setup.problem, noting, competitor.hyperparameters(), loop.setup.splits.train.slice(0, TASK.batch_size)
    )
    assert len(taken) == len(step_kinds(loop.setup.rule))
    assert all(torch.equal(value, before[name]) for name, value in loop.setup.problem.model.state_dict().items())
    assert numbers_of(loop.run()) == numbers_of(undisturbed)


def test_loss_scaling_that_never_recovers_is_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baselines.first_order.TorchRule", _Overflowing)
    training = trained("sgd", epochs=20)
    assert isinstance(training.outcome, Diverged)
    assert training.outcome.step == 6
    assert training.cost.skipped_steps == GIVE_UP
    assert training.cost.steps == 5 + GIVE_UP


def test_a_rule_that_cannot_follow_a_schedule_refuses_one() -> None:
    competitor = dataclasses.replace(optimizers()["sgd"].load(), build=lambda problem, h: _Fixed(problem))
    spec = run_spec("sgd", schedule=Cosine())
    with pytest.raises(UsageError, match="cannot follow a schedule"):
        train(spec, TASK, competitor, CPU)


class _Fixed:
    """An update rule without a learning rate."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


@pytest.mark.parametrize(("optimizer", "copies"), [("sgd", 0), ("sgdm", 1), ("rmsprop", 1), ("adam", 2), ("adamw", 2)])
def test_state_bytes_equal_a_hand_count(optimizer: str, copies: int) -> None:
    model = tiny_model()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    counters = len(list(model.parameters())) * 4 if optimizer.startswith(("adam", "rms")) else 0
    assert trained(optimizer, epochs=1).cost.state_bytes == copies * 4 * parameters + counters


def test_emulation_is_recorded() -> None:
    assert trained(precision=Precision.FP16, epochs=1).precision.backend is PrecisionBackend.EMULATED
    assert trained(epochs=1).precision.backend is PrecisionBackend.NATIVE


def test_the_warm_up_leaves_no_trace() -> None:
    """The initial weights, the batch-normalization statistics and the random state are as if it had not been."""
    loop = prepare(run_spec(), TASK, optimizers()["sgdm"].load(), CPU)
    fresh = initial_model(TASK, run_spec())
    for name, value in loop.setup.problem.model.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name]), name
    assert torch.initial_seed() == derive(0, "tiny", Purpose.NETWORK)


def test_lookahead_keeps_buffers_and_random_state_apart() -> None:
    loop = prepare(run_spec(), TASK, optimizers()["sgdm"].load(), CPU)
    problem = loop.setup.problem
    batch = problem.draw()
    before = copy.deepcopy(problem.model.state_dict())
    state = torch.get_rng_state()
    with problem.lookahead():
        problem.outputs(batch)
        assert not torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(problem.model.state_dict(), before, rtol=0, atol=0)
    problem.outputs(batch)
    assert not torch.equal(problem.model.state_dict()["1.running_mean"], before["1.running_mean"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own code
def test_a_compiled_run_is_near_the_eager_one_and_recorded_apart() -> None:
    eager = run_spec(epochs=2)
    compiled = msgspec.structs.replace(eager, compile=True)
    assert compiled.run_id != eager.run_id
    one, other = trained(spec=eager), trained(spec=compiled)
    assert other.curve[0].train_loss == pytest.approx(one.curve[0].train_loss, rel=0.05)


def test_emulated_precision_cannot_be_compiled() -> None:
    spec = msgspec.structs.replace(run_spec(precision=Precision.FP16), compile=True)
    with pytest.raises(UsageError, match=r"torch\.compile cannot see emulated fp16; leave out --compile"):
        trained(spec=spec)


@pytest.mark.parametrize("optimizer", ALL)
def test_the_phases_are_those_of_the_method_and_all_but_fill_the_training_clock(optimizer: str) -> None:
    cost = trained(optimizer).cost
    expected = {"forward", "backward", "update"}
    if optimizer in {"kfac", "ekfac", "apo-p-warm"}:  # the last is KFAC for as long as this run
        expected |= {"curvature", "inverse"}
    elif optimizer.startswith("apo"):
        expected |= {"meta"}
    assert set(cost.phases) == expected
    assert all(seconds > 0 for seconds in cost.phases.values())
    assert 0.6 * cost.train_seconds < sum(cost.phases.values()) <= cost.train_seconds
    assert cost.data_seconds is not None
    assert cost.data_seconds > 0


def test_a_slow_loader_costs_no_training_time(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Examples.take

    def slow(self: Examples, indices: Tensor) -> Batch:
        time.sleep(0.01)
        return take(self, indices)

    monkeypatch.setattr(Examples, "take", slow)
    cost = trained().cost
    assert cost.data_seconds is not None
    assert cost.data_seconds > 0.01 * cost.steps
    assert cost.train_seconds < cost.data_seconds
