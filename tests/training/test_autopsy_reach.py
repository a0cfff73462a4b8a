"""The second look: how far it reaches back, and that it changes nothing else."""

import dataclasses
import weakref
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from support.devices import CPU
from support.divergence import (
    INF,
    LOSS,
    Changed,
    diverged_outcome,
    first_finding,
    nothing,
    plain_task,
    run_changed,
    spoil_parameter,
)
from support.runs import TASK, numbers_of, run_spec
from torch import Tensor, nn

from apo_bench.data.examples import Dataset, Examples, Splits
from apo_bench.models.transformer import transformer
from apo_bench.plugins.metrics import MeanLoss
from apo_bench.plugins.optimizer import Competitor
from apo_bench.plugins.registry import optimizers
from apo_bench.problem.objectives import TokenCrossEntropy
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import UpdateRule
from apo_bench.records.outcome import Diverged, Exhausted, NonFinite, Reason
from apo_bench.records.spec import Precision, RunSpec
from apo_bench.training import autopsy, trainer
from apo_bench.training.checkpoint import Checkpoints
from apo_bench.training.loop import Loop
from apo_bench.training.trainer import prepare
from apo_bench.training.watched import WatchedProblem


def test_what_does_not_come_again_is_not_found() -> None:
    made: list[Changed] = []

    def once(rule: Changed) -> None:
        if len(made) == 1:
            spoil_parameter(14, "5.bias")(rule)

    assert diverged_outcome(run_changed(after=once, made=made)) == Diverged(step=15, reason=LOSS)
    assert [rule.made for rule in made] == [20, 20]


def test_only_the_steps_since_the_checkpoint_are_repeated(tmp_path: Path) -> None:
    made: list[Changed] = []
    checkpoints = Checkpoints(tmp_path, "run", every_seconds=0.0)
    training = run_changed(after=spoil_parameter(46, "5.weight"), epochs=6, made=made, checkpoints=checkpoints)
    first = NonFinite(step=46, tensor="parameter 5.weight", dtype="float32")
    assert diverged_outcome(training) == Diverged(step=47, reason=LOSS, first=first)
    assert [rule.made for rule in made] == [50, 6]
    made.clear()
    assert first_finding(run_changed(after=spoil_parameter(46, "5.weight"), epochs=6, made=made)) == first
    assert [rule.made for rule in made] == [50, 46]


def test_only_the_last_steps_are_looked_at_tensor_by_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[int] = []
    watch = autopsy._SecondLook._watch_step

    def noting(look: autopsy._SecondLook) -> None:
        watched.append(look.loop.state.taken + 1)
        watch(look)

    monkeypatch.setattr(autopsy._SecondLook, "_watch_step", noting)
    outcome = diverged_outcome(run_changed(after=spoil_parameter(58, "5.weight"), epochs=8))
    assert outcome.step == 59
    assert watched == list(range(59 - autopsy.WINDOW, 59))


def test_what_a_checkpoint_holds_already_is_put_at_its_step(tmp_path: Path) -> None:
    """A block of steps ended with it, and the loss that tells comes after."""
    task = dataclasses.replace(TASK, evaluation_interval=10)
    checkpoints = Checkpoints(tmp_path, "run", every_seconds=0.0)
    made: list[Changed] = []
    training = run_changed(after=spoil_parameter(20, "0.bias"), epochs=6, task=task, checkpoints=checkpoints, made=made)
    assert diverged_outcome(training).step == 21
    assert first_finding(training) == NonFinite(step=20, tensor="parameter 0.bias", dtype="float32")
    assert [rule.made for rule in made] == [40, 0]


def test_a_buffer_that_only_evaluation_reads_is_found_where_it_was_spoiled() -> None:
    """Far before the steps that are looked at: they are repeated once more."""
    made: list[Changed] = []

    def after(rule: Changed) -> None:
        if rule.taken == 33:
            rule.problem.model.get_buffer("1.running_var")[2] = float("nan")

    task = dataclasses.replace(TASK, evaluation_interval=10)
    training = run_changed(after=after, task=task, epochs=10, made=made)
    first = NonFinite(step=33, tensor="buffer 1.running_var", dtype="float32")
    assert diverged_outcome(training) == Diverged(step=100, reason=Reason.VALIDATION, first=first)
    assert [rule.made for rule in made] == [100, 40, 33]


class _OnlyInEvaluation(nn.Module):
    """Divides by zero when it is judged."""

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else x / 0.0


def test_what_happens_in_evaluation_alone_is_found_there() -> None:
    outcome = diverged_outcome(run_changed(task=plain_task(nn.Linear(64, 4), _OnlyInEvaluation())))
    first = NonFinite(step=30, tensor="activation 2", dtype="float32")
    assert outcome == Diverged(step=30, reason=Reason.VALIDATION, first=first)


def test_what_happens_on_test_data_alone_is_found_there() -> None:
    def load() -> Splits:
        splits = TASK.dataset.load()
        spoiled = splits.test.inputs[0].clone()
        spoiled[-1] = INF
        return dataclasses.replace(splits, test=Examples((spoiled,), splits.test.targets))

    task = dataclasses.replace(
        plain_task(nn.Linear(64, 4)),
        dataset=Dataset("tiny", load, lambda: "1"),
        metric=MeanLoss(TASK.objective, "loss"),
    )
    outcome = diverged_outcome(run_changed(task=task))
    first = NonFinite(step=30, tensor="activation 0", dtype="float32")
    assert outcome == Diverged(step=30, reason=Reason.TEST, first=first)


class _Masked(nn.Module):
    """Keeps a mask of infinities, which is meant to be so."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((4, 4), -INF).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_mask_of_infinities_is_no_finding() -> None:
    task = plain_task(nn.Linear(64, 4), _Masked())
    training = run_changed(task=task, after=spoil_parameter(14, "1.bias"))
    assert first_finding(training) == NonFinite(step=14, tensor="parameter 1.bias", dtype="float32")


def test_a_healthy_run_is_the_same_and_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*_: object) -> None:
        raise AssertionError("nothing diverged")

    monkeypatch.setattr(autopsy, "first_non_finite", unwanted)
    made: list[Changed] = []
    training = run_changed(made=made)
    assert len(made) == 1
    alone = prepare(run_spec(), TASK, optimizers()["sgdm"].load(), CPU).run()
    assert numbers_of(training) == numbers_of(alone)
    assert training.scores == alone.scores
    assert training.outcome == Exhausted()


def test_a_second_look_adds_where_it_began_and_nothing_else() -> None:
    spec = run_spec("sgd", lr=1e10, epochs=4)
    alone = prepare(spec, TASK, optimizers()["sgd"].load(), CPU).run()
    training = run_changed("sgd", spec=spec)
    outcome = diverged_outcome(training)
    assert outcome.first is not None
    assert msgspec.structs.replace(outcome, first=None) == alone.outcome
    assert numbers_of(training) == numbers_of(alone)
    assert training.scores == alone.scores
    assert (training.cost.steps, training.cost.state_bytes) == (alone.cost.steps, alone.cost.state_bytes)


def test_a_second_look_that_fails_leaves_the_outcome(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def failing(*arguments: Any, **fields: Any) -> Loop:
        calls.append(arguments)
        if len(calls) > 1:
            raise torch.OutOfMemoryError("no memory\nleft")
        return prepare(*arguments, **fields)

    monkeypatch.setattr(trainer, "prepare", failing)
    training = run_changed(after=spoil_parameter(14, "5.bias"))
    assert diverged_outcome(training) == Diverged(step=15, reason=LOSS)
    assert len(calls) == 2
    told = capsys.readouterr().err
    assert told == "no second look at the divergence at step 15: OutOfMemoryError: no memory\n"


def test_the_run_is_let_go_before_the_second_look() -> None:
    """Two networks with their optimizers may not fit."""
    models: list[weakref.ref[nn.Module]] = []
    alive: list[int] = []

    def model() -> nn.Module:
        alive.append(sum(made() is not None for made in models))
        made = TASK.model()
        models.append(weakref.ref(made))
        return made

    def after(rule: Changed) -> None:
        if rule.taken == 33:
            rule.problem.model.get_buffer("1.running_var")[2] = float("nan")

    run_changed("kfac", task=dataclasses.replace(TASK, model=model, evaluation_interval=10), after=after, epochs=10)
    assert alive == [0, 0, 0]


def test_a_compiled_run_is_looked_at_without_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler itself is left out here."""
    specs: list[RunSpec] = []

    def noting(run: RunSpec, *arguments: Any, **fields: Any) -> Loop:
        specs.append(run)
        return prepare(msgspec.structs.replace(run, compile=False), *arguments, **fields)

    monkeypatch.setattr(trainer, "prepare", noting)
    compiled = msgspec.structs.replace(run_spec(), compile=True)
    assert first_finding(run_changed(spec=compiled, after=spoil_parameter(14, "5.bias"))) is not None
    assert [spec.compile for spec in specs] == [True, False]


def _sentences(seed: int, count: int) -> Examples:
    """Sources and targets of 3 to 7 pieces, padded to 8."""
    source = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 8, (count, 1), generator=source)
    pieces = torch.randint(4, 20, (count, 8), generator=source).masked_fill(torch.arange(8) >= lengths, 0)
    shifted = torch.cat([torch.ones(count, 1, dtype=torch.long), pieces[:, :-1]], dim=1)
    return Examples((pieces, shifted), pieces)


TRANSLATION = dataclasses.replace(
    TASK,
    dataset=Dataset("sentences", lambda: Splits(_sentences(0, 200), _sentences(1, 40), _sentences(2, 40)), lambda: "1"),
    model=lambda: transformer(20, layers=2, width=16, heads=2, hidden=32),
    objective=TokenCrossEntropy(),
    metric=MeanLoss(TokenCrossEntropy(), "loss"),
    augmentation=None,
)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.PURE_BF16])
@pytest.mark.parametrize("optimizer", ["sgdm", "apo-p", "kfac"])
@pytest.mark.parametrize("reason", [LOSS, Reason.VALIDATION, Reason.TEST])
def test_a_healthy_transformer_has_no_finding(optimizer: str, precision: Precision, reason: Reason) -> None:
    """Its masks are infinities; looked at as if it had diverged."""
    own = optimizers()[optimizer].load()
    spec = run_spec(optimizer, precision=precision, epochs=2)
    taken: list[int] = []

    def build(problem: Problem, h: object) -> UpdateRule:
        return Changed(own.build(problem, h), problem, nothing, lambda rule: taken.append(rule.taken))

    competitor: Competitor[Any] = dataclasses.replace(own, build=build)

    def make() -> Loop:
        return prepare(spec, TRANSLATION, competitor, CPU, problem=WatchedProblem)

    assert autopsy.first_non_finite(make, Diverged(step=12, reason=reason), 12) is None
    assert taken == list(range(1, 13))


def test_an_attention_that_overflows_is_named() -> None:
    """The counterpart of the test above: these modules are looked at."""

    def after(rule: Changed) -> None:
        if rule.taken == 7:
            rule.parameter("decoder.1.cross.value.weight").fill_(1e38)

    assert first_finding(run_changed(task=TRANSLATION, after=after)) == NonFinite(
        step=8, tensor="activation decoder.1.cross.value", dtype="float32"
    )


def test_the_outputs_of_the_whole_network_are_looked_at() -> None:
    """The logits are a product with the embedding, which is no module's output but the network's."""

    def after(rule: Changed) -> None:
        if rule.taken == 7:
            rule.parameter("decoder_norm.weight").fill_(1e38)
            rule.parameter("embedding.weight").mul_(100.0)

    assert first_finding(run_changed(task=TRANSLATION, after=after)) == NonFinite(
        step=8, tensor="activation outputs", dtype="float32"
    )
