"""What a plugin breaks of its contract is one line that says how to fix it; what works elsewhere works here."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.devices import CPU
from support.problems import problem_of, some_batch
from support.runs import TASK, numbers_of, run_spec, tiny_examples, tiny_splits, trained
from torch import Tensor, nn

from apo_bench import CrossEntropy, Precision, PrecisionPolicy, Problem, TorchRule
from apo_bench.data.examples import Batch, Dataset, Examples, Splits
from apo_bench.errors import UsageError
from apo_bench.plugins.registry import optimizers
from apo_bench.plugins.task import Task
from apo_bench.records.outcome import Exhausted
from apo_bench.training.trainer import initial_model, prepare


def _with(splits: Splits) -> Task:
    return dataclasses.replace(TASK, dataset=Dataset("odd", lambda: splits, lambda: "1"))


def _made(task: Task, optimizer: Any = None) -> Any:
    return prepare(run_spec("sgd"), task, optimizer or optimizers()["sgd"].load(), CPU)


@pytest.mark.parametrize(("split", "named"), [("train", "training"), ("validation", "validation"), ("test", "test")])
def test_an_empty_split_is_named(split: str, named: str) -> None:
    splits = dataclasses.replace(tiny_splits(), **{split: tiny_examples(0, 0)})
    with pytest.raises(UsageError, match=rf"dataset 'odd' has no {named} examples; put at least one"):
        _made(_with(splits))


def test_a_training_split_smaller_than_a_batch_says_which_number_to_change() -> None:
    splits = dataclasses.replace(tiny_splits(), train=tiny_examples(0, 31))
    with pytest.raises(UsageError, match="has 31 training examples, and the task's batches have 32; make the batch_"):
        _made(_with(splits))


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_has_an_example(size: int) -> None:
    with pytest.raises(UsageError, match=rf"batch size {size}; it must be at least 1"):
        _made(dataclasses.replace(TASK, batch_size=size))


def test_inputs_without_their_tuple_are_told_apart_from_splits_of_different_lengths() -> None:
    with pytest.raises(ValueError, match=r"inputs is a tensor, not a tuple of tensors; write Examples\(\(x,\)"):
        Examples(torch.zeros(4, 2), torch.zeros(4))  # type: ignore[arg-type] # on purpose


class Returns(nn.Module):
    """A linear layer whose output is packed in some way."""

    def __init__(self, pack: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 4)
        self.pack = pack

    def forward(self, images: Tensor) -> Any:
        return self.pack(self.layer(images.flatten(1)))


@pytest.mark.parametrize(
    ("pack", "kind"),
    [
        (lambda out: (out, None), "tuple"),
        (lambda out: {"logits": out}, "dict"),
        (lambda out: [out], "list"),
        (lambda out: None, "NoneType"),
    ],
)
def test_a_model_that_returns_no_tensor_is_named_with_what_it_returns(pack: Callable[[Tensor], Any], kind: str) -> None:
    with pytest.raises(UsageError, match=rf"the model \(Returns\) returns a {kind}, not a tensor; wrap it in a module"):
        _made(dataclasses.replace(TASK, model=lambda: Returns(pack)))


def test_a_recurrent_layer_alone_returns_a_tuple() -> None:
    seen = problem_of(nn.LSTM(6, 3))
    with pytest.raises(UsageError, match=r"the model \(LSTM\) returns a tuple"):
        seen.outputs(Batch((torch.zeros(2, 5, 6),), torch.zeros(2, dtype=torch.int64)))


def test_a_model_whose_outputs_leave_the_graph_is_told_so() -> None:
    with pytest.raises(UsageError, match="the loss depends on no trainable parameter; look for detach"):
        _made(dataclasses.replace(TASK, model=lambda: Returns(lambda out: out.detach())))


def test_a_model_that_is_no_module_is_told_so() -> None:
    with pytest.raises(UsageError, match=r"task 'tiny': model\(\) returns a function, no torch.nn.Module"):
        _made(dataclasses.replace(TASK, model=lambda: lambda images: images))  # type: ignore[arg-type,return-value] # on purpose


class PerExample(CrossEntropy):
    """Forgets the mean."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return torch.nn.functional.cross_entropy(outputs, batch.targets, reduction="none")


def test_a_loss_that_is_no_scalar_is_told_so() -> None:
    with pytest.raises(UsageError, match=r"the objective's loss has the shape \(32,\); it must return a scalar"):
        _made(dataclasses.replace(TASK, objective=PerExample()))


@pytest.mark.parametrize("model", [nn.Flatten(), nn.Linear(3, 2).requires_grad_(requires_grad=False)])
def test_a_model_without_a_trainable_parameter_is_refused_in_any_loop(model: nn.Module) -> None:
    with pytest.raises(UsageError, match=rf"\({type(model).__name__}\) has no trainable parameter; set requires_grad"):
        Problem(model, CrossEntropy(), PrecisionPolicy(Precision.FP32, CPU), lambda: pytest.fail("no batch is needed"))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda problem, h: torch.optim.SGD(problem.parameters, lr=h.lr),
            r"builds a SGD, no UpdateRule; wrap it: T",
        ),
        (lambda problem, h: None, "'sgd' builds a NoneType without step, evaluating, state_dict"),
    ],
)
def test_a_factory_that_makes_no_rule_is_told_what_to_make(build: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _made(TASK, dataclasses.replace(optimizers()["sgd"].load(), build=build))


class Closure(torch.optim.SGD):
    """Wants to evaluate the loss by itself, and says so only at a step."""

    def step(self, closure: Any = None) -> Any:
        if closure is None:
            raise RuntimeError("no closure was given")
        return super().step(closure)


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, Closure])
def test_an_optimizer_that_needs_a_closure_is_named(kind: Any) -> None:
    seen = problem_of(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))
    rule = TorchRule(seen, kind(seen.parameters, lr=0.1))
    with pytest.raises(UsageError, match=rf"{kind.__name__} needs a closure, and a TorchRule gives none; write a rule"):
        rule.step(some_batch(0))


class Embedded(nn.Module):
    """Numbers of an image as words of eight, their gradients sparse or not."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(8, 5, sparse=sparse)
        self.head = nn.Linear(5, 4)

    def forward(self, images: Tensor) -> Tensor:
        words = (images.flatten(1) * 2).long().clamp(-4, 3) + 4
        out: Tensor = self.head(self.words(words).mean(1))
        return out


@pytest.mark.parametrize("optimizer", ["sgdm", "adam", "kfac", "apo-lr-adam"])
def test_sparse_gradients_train_as_dense_ones_do(optimizer: str) -> None:
    curves = [
        numbers_of(trained(optimizer, epochs=1, task=dataclasses.replace(TASK, model=lambda s=s: Embedded(sparse=s))))  # type: ignore[misc] # mypy infers no type of the default
        for s in (True, False)
    ]
    assert curves[0]
    assert curves[0] == curves[1]


def test_sparse_gradients_are_unscaled_too() -> None:
    seen = problem_of(Embedded(sparse=True), Precision.PURE_FP16, torch.float16)
    batch = Batch((torch.randn(3, 6),), torch.tensor([0, 1, 2]))
    found = seen.gradients(seen.loss(seen.outputs(batch), batch))
    assert found.finite
    assert [value.layout for value in found.values if value is not None] == [torch.strided] * 3


def _lazy() -> nn.Module:
    return nn.Sequential(
        nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.LazyLinear(4)
    )


LAZY = dataclasses.replace(TASK, model=_lazy)


def test_lazy_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    def weights(seed: int) -> list[Tensor]:
        torch.manual_seed(int(torch.randint(0, 1000, ())))
        return list(initial_model(LAZY, run_spec(seed=seed), tiny_splits().train).parameters())

    one, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], other[0])


def test_a_lazy_network_starts_in_training_mode_with_statistics_that_saw_nothing() -> None:
    model = initial_model(LAZY, run_spec(), tiny_splits().train)
    assert all(module.training for module in model.modules())
    assert {name: float(buffer.sum()) for name, buffer in model.named_buffers()} == {
        "1.running_mean": 0.0,
        "1.running_var": 3.0,
        "1.num_batches_tracked": 0.0,
    }


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.PURE_BF16])
def test_lazy_networks_train_like_others(precision: Precision) -> None:
    assert isinstance(trained("kfac", task=LAZY, precision=precision, epochs=1).outcome, Exhausted)


def test_a_lazy_network_that_has_seen_no_batch_is_refused_in_a_loop_of_ones_own() -> None:
    with pytest.raises(UsageError, match="has lazy modules without shapes; call it once on a batch before"):
        problem_of(_lazy())
