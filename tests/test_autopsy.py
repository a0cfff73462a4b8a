"""The second look at a diverged run: what it names, what it costs, and that it changes nothing else."""

import copy
import dataclasses
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from test_trainer import TASK, _numbers, run_spec
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from apo_bench.data.examples import Batch, Dataset, Examples, Splits
from apo_bench.models.transformer import transformer
from apo_bench.plugins.metrics import MeanLoss
from apo_bench.plugins.optimizer import Competitor
from apo_bench.plugins.registry import optimizers
from apo_bench.plugins.task import Task
from apo_bench.problem.objectives import TokenCrossEntropy
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import StepResult, UpdateRule
from apo_bench.records.outcome import Diverged, Exhausted, NonFinite, Reason
from apo_bench.records.run import PrecisionBackend
from apo_bench.records.spec import Precision, RunSpec
from apo_bench.training import autopsy, trainer
from apo_bench.training.checkpoint import Checkpoints
from apo_bench.training.loop import GIVE_UP, Loop
from apo_bench.training.result import Training
from apo_bench.training.trainer import prepare, train
from apo_bench.training.watched import WatchedProblem

CPU = torch.device("cpu")
INF = float("inf")
LOSS = Reason.TRAINING_LOSS
Change = Callable[["_Changed"], None]


class _Changed:
    """Any rule, with something done before or after a step; counts its steps also where a checkpoint was taken up.

    Attributes:
        made: Number of steps that this object took.
    """

    def __init__(self, rule: UpdateRule, problem: Problem, before: Change, after: Change) -> None:
        self.rule = rule
        self.problem = problem
        self.before = before
        self.after = after
        self.taken = 0
        self.made = 0

    def step(self, batch: Batch) -> StepResult:
        self.taken += 1
        self.made += 1
        self.before(self)
        result = self.rule.step(batch)
        self.after(self)
        return result

    def parameter(self, name: str) -> Tensor:
        return self.problem.model.get_parameter(name).data

    def state_dict(self) -> dict[str, Any]:
        return {"rule": self.rule.state_dict(), "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rule.load_state_dict(state["rule"])
        self.taken = state["taken"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rule, name)


def _nothing(_: _Changed) -> None:
    pass


def _run(
    optimizer: str = "sgdm",
    *,
    before: Change = _nothing,
    after: Change = _nothing,
    task: Task = TASK,
    checkpoints: Checkpoints | None = None,
    made: list[_Changed] | None = None,
    spec: RunSpec | None = None,
    **fields: Any,
) -> Training:
    own = optimizers()[optimizer].load()

    def build(problem: Problem, h: object) -> UpdateRule:
        rule = _Changed(own.build(problem, h), problem, before, after)
        if made is not None:
            made.append(rule)
        return rule  # type: ignore[return-value] # has the rest by __getattr__

    run = spec or run_spec(optimizer, **fields)
    return train(run, task, dataclasses.replace(own, build=build), CPU, checkpoints=checkpoints)


def _diverged(training: Training) -> Diverged:
    assert isinstance(training.outcome, Diverged)
    return training.outcome


def _first(training: Training) -> NonFinite | None:
    return _diverged(training).first


def _spoil_parameter(step: int, name: str) -> Change:
    def after(rule: _Changed) -> None:
        if rule.taken == step:
            rule.parameter(name).view(-1)[0] = INF

    return after


@pytest.mark.parametrize(("name", "step"), [("7.weight", 7), ("0.bias", 13), ("5.weight", 20), ("5.weight", 27)])
def test_a_parameter_that_a_step_spoils_is_named(name: str, step: int) -> None:
    """Also at the end of a block of steps, where the next block's first loss tells; evaluation may tell before it."""
    training = _run(after=_spoil_parameter(step, name), epochs=4)
    assert _first(training) == NonFinite(step=step, tensor=f"parameter {name}", dtype="float32")


def test_state_goes_before_the_parameters_that_it_spoils() -> None:
    def before(rule: _Changed) -> None:
        if rule.taken == 12:
            list(rule.state_tensors()["optimizer"])[2].view(-1)[0] = INF

    assert _first(_run(before=before)) == NonFinite(step=12, tensor="state optimizer 2", dtype="float32")


class _SpoilingObjective:
    """The task's loss, with an infinite gradient in the steps that ``spoils`` says; they are told by `note_step`."""

    def __init__(self, objective: Any, spoils: Callable[[int], bool]) -> None:
        self.objective = objective
        self.spoils = spoils
        self.step = 0

    def note_step(self, rule: "_Changed") -> None:
        self.step = rule.taken

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        loss: Tensor = self.objective.loss(outputs, batch)
        if self.spoils(self.step) and loss.requires_grad:
            loss = _InfiniteGradient.apply(loss)  # type: ignore[no-untyped-call]
        return loss

    def __getattr__(self, name: str) -> Any:
        return getattr(self.objective, name)


class _InfiniteGradient(torch.autograd.Function):
    """The identity, with an infinite gradient."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * INF


def test_a_gradient_is_named_by_its_parameter() -> None:
    """The loss is finite still; the gradients are looked at in the parameters' order."""
    objective = _SpoilingObjective(TASK.objective, lambda step: step == 15)
    outcome = _diverged(_run(before=objective.note_step, task=dataclasses.replace(TASK, objective=objective)))
    first = NonFinite(step=15, tensor="gradient 0.weight", dtype="float32")
    assert outcome == Diverged(step=16, reason=LOSS, first=first)


class _SpoilingLoss(_SpoilingObjective):
    """The task's loss, infinite itself in these steps."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        loss: Tensor = self.objective.loss(outputs, batch)
        return loss * INF if self.spoils(self.step) else loss


def test_a_loss_goes_before_its_gradients() -> None:
    objective = _SpoilingLoss(TASK.objective, lambda step: step == 15)
    outcome = _diverged(_run(before=objective.note_step, task=dataclasses.replace(TASK, objective=objective)))
    assert outcome == Diverged(step=15, reason=LOSS, first=NonFinite(step=15, tensor="loss", dtype="float32"))


def test_a_step_that_loss_scaling_skipped_is_no_finding() -> None:
    """Its gradients are as bad as those above, but it left nothing behind."""
    objective = _SpoilingObjective(TASK.objective, lambda step: step == 5)
    training = _run(
        before=objective.note_step,
        after=_spoil_parameter(14, "0.weight"),
        task=dataclasses.replace(TASK, objective=objective),
        precision=Precision.FP16,
    )
    assert training.cost.skipped_steps >= 1
    assert _first(training) == NonFinite(step=14, tensor="parameter 0.weight", dtype="float32")


def test_a_skipped_step_that_leaves_something_behind_is_a_finding() -> None:
    """An overflow in the forward pass spoils the running statistics, though the step is skipped."""
    kept: list[Tensor] = []

    def before(rule: _Changed) -> None:
        if rule.taken == 12:
            kept[:] = [rule.parameter("0.weight").clone()]
            rule.parameter("0.weight").fill_(1e30)

    def after(rule: _Changed) -> None:
        if rule.taken == 12:
            rule.parameter("0.weight").copy_(kept[0])

    outcome = _diverged(_run(before=before, after=after, precision=Precision.FP16))
    first = NonFinite(step=12, tensor="activation 0", dtype="float16")
    assert outcome == Diverged(step=20, reason=Reason.VALIDATION, first=first)


def test_a_run_that_gave_up_is_looked_at_in_its_last_step() -> None:
    objective = _SpoilingObjective(TASK.objective, lambda step: step >= 6)
    task = dataclasses.replace(TASK, objective=objective)
    outcome = _diverged(_run(before=objective.note_step, task=task, precision=Precision.FP16, epochs=20))
    assert outcome.step == 6
    assert "overflowed at every loss scale" in outcome.reason
    assert outcome.first == NonFinite(step=5 + GIVE_UP, tensor="gradient 0.weight", dtype="float32")


def test_a_learning_rate_that_overflows_names_what_overflowed_first() -> None:
    """Of a gradient of some size and lr 1e38 the step is infinite before any activation is."""
    outcome = _diverged(_run("sgd", lr=1e38, epochs=4))
    assert outcome.first is not None
    assert outcome.first.dtype == "float32"
    model = dict(TASK.model().named_modules())
    kind, _, name = outcome.first.tensor.partition(" ")
    assert kind in {"activation", "parameter", "gradient"}
    assert name.removesuffix(".weight").removesuffix(".bias") in model
    assert 1 <= outcome.first.step <= outcome.step
    assert outcome.message == f"{LOSS}: first `{outcome.first.tensor}` (float32) at step {outcome.first.step}"


def _plain(*layers: nn.Module) -> Task:
    """A task whose network has no dropout and no normalization, so that an overflow is easily placed."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Flatten(), *copy.deepcopy(layers))  # a run must not start from another's weights

    return dataclasses.replace(TASK, model=model, augmentation=None, evaluation_interval=10)


class _Times(nn.Module):
    """Multiplies by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_in_pure_fp16_the_activation_that_overflows_is_named_with_its_format() -> None:
    """Loss scaling cannot mend a forward pass: the run gives up."""
    overflowing = _plain(nn.Linear(64, 16), _Times(3e4), _Times(3e4), nn.Linear(16, 4))
    outcome = _diverged(_run("sgd", task=overflowing, precision=Precision.PURE_FP16, epochs=20))
    assert outcome.step == 1
    assert outcome.first == NonFinite(step=GIVE_UP, tensor="activation 3", dtype="float16")
    assert isinstance(_run("sgd", task=overflowing, precision=Precision.FP64, epochs=1, lr=1e-30).outcome, Exhausted)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.PURE_FP16])
def test_emulated_fp16_names_the_activation_that_grew(precision: Precision) -> None:
    """A step makes a weight large but finite: the next forward pass, in 16 bit, overflows in that layer."""

    def after(rule: _Changed) -> None:
        if rule.taken == 23:
            rule.parameter("1.weight").fill_(3e4)

    task = _plain(nn.Linear(64, 16), nn.Linear(16, 4))
    training = _run("sgd", task=task, precision=precision, after=after, epochs=20)
    assert training.precision.backend is PrecisionBackend.EMULATED
    outcome = _diverged(training)
    assert outcome.step == 24
    assert outcome.first == NonFinite(step=23 + GIVE_UP, tensor="activation 1", dtype="float16")


def test_the_lookahead_of_apo_is_looked_at_too() -> None:
    """The first step is a meta-step; the run itself diverges in the second.

    Of two large layers in a row the second overflows; of parameters that are infinite these are named.
    """
    large = _diverged(_run("apo-p", lr=1e24, epochs=2))
    assert large.step == 2
    assert large.first == NonFinite(step=1, tensor="activation 5", dtype="float32")
    larger = _diverged(_run("apo-p", lr=3e38, momentum=0.0, epochs=2, task=_steep()))
    assert larger.first is not None
    assert larger.first.step == 1
    assert larger.first.tensor.startswith("parameter ")


def _steep() -> Task:
    """With a gradient above 1, so that a step with the largest learning rate is infinite."""
    return _plain(nn.Linear(64, 16), nn.Linear(16, 4), _Times(100.0))


class _Doubting:
    """Asks for a gradient of a stream that is not finite at one step, and does not use it."""

    def __init__(self, stream: str, at: int = 12) -> None:
        self.stream = stream
        self.at = at

    def __call__(self, rule: _Changed) -> None:
        if rule.taken != self.at:
            return
        problem = rule.problem
        with problem.lookahead():
            batch = Batch((torch.ones(2, 1, 8, 8),), torch.tensor([0, 1]))
            outputs = problem.outputs(batch)
            loss: Tensor = _InfiniteGradient.apply(problem.loss(outputs, batch))  # type: ignore[no-untyped-call]
            if self.stream == "curvature":
                problem.intermediate_gradients(loss, [get_gradient_edge(outputs)])
            else:
                problem.gradients(loss, self.stream)


@pytest.mark.parametrize(
    ("stream", "name"), [("meta", "gradient 0.weight (meta)"), ("curvature", "gradient inside 0 (curvature)")]
)
def test_a_gradient_that_rules_skip_counts_only_where_nothing_else_is_found(stream: str, name: str) -> None:
    training = _run(before=_Doubting(stream), after=_spoil_parameter(14, "5.bias"))
    assert _first(training) == NonFinite(step=14, tensor="parameter 5.bias", dtype="float32")
    made: list[_Changed] = []

    def once(rule: _Changed) -> None:
        if len(made) == 1:
            _spoil_parameter(14, "5.bias")(rule)

    training = _run(before=_Doubting(stream), after=once, made=made)
    assert _first(training) == NonFinite(step=12, tensor=name, dtype="float32")


def test_a_gradient_of_any_other_stream_counts() -> None:
    training = _run(before=_Doubting("own"), after=_spoil_parameter(14, "5.bias"))
    assert _first(training) == NonFinite(step=12, tensor="gradient 0.weight (own)", dtype="float32")


def test_what_does_not_come_again_is_not_found() -> None:
    made: list[_Changed] = []

    def once(rule: _Changed) -> None:
        if len(made) == 1:
            _spoil_parameter(14, "5.bias")(rule)

    assert _diverged(_run(after=once, made=made)) == Diverged(step=15, reason=LOSS)
    assert [rule.made for rule in made] == [20, 20]


def test_only_the_steps_since_the_checkpoint_are_repeated(tmp_path: Path) -> None:
    made: list[_Changed] = []
    checkpoints = Checkpoints(tmp_path, "run", every_seconds=0.0)
    training = _run(after=_spoil_parameter(46, "5.weight"), epochs=6, made=made, checkpoints=checkpoints)
    first = NonFinite(step=46, tensor="parameter 5.weight", dtype="float32")
    assert _diverged(training) == Diverged(step=47, reason=LOSS, first=first)
    assert [rule.made for rule in made] == [50, 6]
    made.clear()
    assert _first(_run(after=_spoil_parameter(46, "5.weight"), epochs=6, made=made)) == first
    assert [rule.made for rule in made] == [50, 46]


def test_only_the_last_steps_are_looked_at_tensor_by_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[int] = []
    watch = autopsy._SecondLook._watch_step

    def noting(look: autopsy._SecondLook) -> None:
        watched.append(look.loop.state.taken + 1)
        watch(look)

    monkeypatch.setattr(autopsy._SecondLook, "_watch_step", noting)
    outcome = _diverged(_run(after=_spoil_parameter(58, "5.weight"), epochs=8))
    assert outcome.step == 59
    assert watched == list(range(59 - autopsy.WINDOW, 59))


def test_what_a_checkpoint_holds_already_is_put_at_its_step(tmp_path: Path) -> None:
    """A block of steps ended with it, and the loss that tells comes after."""
    task = dataclasses.replace(TASK, evaluation_interval=10)
    checkpoints = Checkpoints(tmp_path, "run", every_seconds=0.0)
    made: list[_Changed] = []
    training = _run(after=_spoil_parameter(20, "0.bias"), epochs=6, task=task, checkpoints=checkpoints, made=made)
    assert _diverged(training).step == 21
    assert _first(training) == NonFinite(step=20, tensor="parameter 0.bias", dtype="float32")
    assert [rule.made for rule in made] == [40, 0]


def test_a_buffer_that_only_evaluation_reads_is_found_where_it_was_spoiled() -> None:
    """Far before the steps that are looked at: they are repeated once more."""
    made: list[_Changed] = []

    def after(rule: _Changed) -> None:
        if rule.taken == 33:
            rule.problem.model.get_buffer("1.running_var")[2] = float("nan")

    task = dataclasses.replace(TASK, evaluation_interval=10)
    training = _run(after=after, task=task, epochs=10, made=made)
    first = NonFinite(step=33, tensor="buffer 1.running_var", dtype="float32")
    assert _diverged(training) == Diverged(step=100, reason=Reason.VALIDATION, first=first)
    assert [rule.made for rule in made] == [100, 40, 33]


class _OnlyInEvaluation(nn.Module):
    """Divides by zero when it is judged."""

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else x / 0.0


def test_what_happens_in_evaluation_alone_is_found_there() -> None:
    outcome = _diverged(_run(task=_plain(nn.Linear(64, 4), _OnlyInEvaluation())))
    first = NonFinite(step=30, tensor="activation 2", dtype="float32")
    assert outcome == Diverged(step=30, reason=Reason.VALIDATION, first=first)


def test_what_happens_on_test_data_alone_is_found_there() -> None:
    def load() -> Splits:
        splits = TASK.dataset.load()
        spoiled = splits.test.inputs[0].clone()
        spoiled[-1] = INF
        return dataclasses.replace(splits, test=Examples((spoiled,), splits.test.targets))

    task = dataclasses.replace(
        _plain(nn.Linear(64, 4)),
        dataset=Dataset("tiny", load, lambda: "1"),
        metric=MeanLoss(TASK.objective, "loss"),
    )
    outcome = _diverged(_run(task=task))
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
    task = _plain(nn.Linear(64, 4), _Masked())
    training = _run(task=task, after=_spoil_parameter(14, "1.bias"))
    assert _first(training) == NonFinite(step=14, tensor="parameter 1.bias", dtype="float32")


def test_a_healthy_run_is_the_same_and_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*_: object) -> None:
        raise AssertionError("nothing diverged")

    monkeypatch.setattr(autopsy, "first_non_finite", unwanted)
    made: list[_Changed] = []
    training = _run(made=made)
    assert len(made) == 1
    alone = prepare(run_spec(), TASK, optimizers()["sgdm"].load(), CPU).run()
    assert _numbers(training) == _numbers(alone)
    assert training.scores == alone.scores
    assert training.outcome == Exhausted()


def test_a_second_look_adds_where_it_began_and_nothing_else() -> None:
    spec = run_spec("sgd", lr=1e10, epochs=4)
    alone = prepare(spec, TASK, optimizers()["sgd"].load(), CPU).run()
    training = _run("sgd", spec=spec)
    outcome = _diverged(training)
    assert outcome.first is not None
    assert msgspec.structs.replace(outcome, first=None) == alone.outcome
    assert _numbers(training) == _numbers(alone)
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
    training = _run(after=_spoil_parameter(14, "5.bias"))
    assert _diverged(training) == Diverged(step=15, reason=LOSS)
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

    def after(rule: _Changed) -> None:
        if rule.taken == 33:
            rule.problem.model.get_buffer("1.running_var")[2] = float("nan")

    _run("kfac", task=dataclasses.replace(TASK, model=model, evaluation_interval=10), after=after, epochs=10)
    assert alive == [0, 0, 0]


def test_a_compiled_run_is_looked_at_without_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler itself is left out here."""
    specs: list[RunSpec] = []

    def noting(run: RunSpec, *arguments: Any, **fields: Any) -> Loop:
        specs.append(run)
        return prepare(msgspec.structs.replace(run, compile=False), *arguments, **fields)

    monkeypatch.setattr(trainer, "prepare", noting)
    compiled = msgspec.structs.replace(run_spec(), compile=True)
    assert _first(_run(spec=compiled, after=_spoil_parameter(14, "5.bias"))) is not None
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
        return _Changed(own.build(problem, h), problem, _nothing, lambda rule: taken.append(rule.taken))  # type: ignore[return-value]

    competitor: Competitor[Any] = dataclasses.replace(own, build=build)

    def make() -> Loop:
        return prepare(spec, TRANSLATION, competitor, CPU, problem=WatchedProblem)

    assert autopsy.first_non_finite(make, Diverged(step=12, reason=reason), 12) is None
    assert taken == list(range(1, 13))


def test_an_attention_that_overflows_is_named() -> None:
    """The counterpart of the test above: these modules are looked at."""

    def after(rule: _Changed) -> None:
        if rule.taken == 7:
            rule.parameter("decoder.1.cross.value.weight").fill_(1e38)

    assert _first(_run(task=TRANSLATION, after=after)) == NonFinite(
        step=8, tensor="activation decoder.1.cross.value", dtype="float32"
    )


def test_the_outputs_of_the_whole_network_are_looked_at() -> None:
    """The logits are a product with the embedding, which is no module's output but the network's."""

    def after(rule: _Changed) -> None:
        if rule.taken == 7:
            rule.parameter("decoder_norm.weight").fill_(1e38)
            rule.parameter("embedding.weight").mul_(100.0)

    assert _first(_run(task=TRANSLATION, after=after)) == NonFinite(
        step=8, tensor="activation outputs", dtype="float32"
    )
