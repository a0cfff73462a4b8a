"""What a task and an optimizer promise the training loop: checked once, before the clock runs, in the user's words."""

import torch

from apo_bench.data.examples import Splits
from apo_bench.errors import UsageError
from apo_bench.plugins.task import Task

_MEMBERS = ("step", "evaluating", "state_dict", "load_state_dict", "state_tensors")


def check_splits(task: Task, splits: Splits) -> None:
    """Refuse splits that cannot be trained on or judged on.

    Raises:
        UsageError: One is empty, or the training examples do not make one batch.
    """
    name = task.dataset.name
    for split, examples in (("training", splits.train), ("validation", splits.validation), ("test", splits.test)):
        if not len(examples):
            raise UsageError(f"dataset {name!r} has no {split} examples; put at least one into each of its splits")
    if task.batch_size < 1:
        raise UsageError(f"the task on {name!r} has the batch size {task.batch_size}; it must be at least 1")
    if task.batch_size > len(splits.train):
        raise UsageError(
            f"dataset {name!r} has {len(splits.train)} training examples, and the task's batches have "
            f"{task.batch_size}; make the batch_size smaller"
        )


def check_loss(loss: object) -> None:
    """Refuse a loss that cannot be differentiated.

    Raises:
        UsageError: It is no tensor, not a scalar, or does not depend on a parameter that is trained.
    """
    if not isinstance(loss, torch.Tensor):
        raise UsageError(f"the objective's loss is a {type(loss).__name__}; it must return a scalar tensor")
    if loss.dim():
        raise UsageError(f"the objective's loss has the shape {tuple(loss.shape)}; it must return a scalar, the mean")
    if not loss.requires_grad:
        raise UsageError(
            "the loss depends on no trainable parameter; look for detach() or no_grad() in the model's forward"
        )


def check_rule(name: str, rule: object) -> None:
    """Refuse what an optimizer's factory makes where it is no update rule.

    Raises:
        UsageError: It is not.
    """
    if isinstance(rule, torch.optim.Optimizer):
        kind = type(rule).__name__
        raise UsageError(f"optimizer {name!r} builds a {kind}, no UpdateRule; wrap it: TorchRule(problem, {kind}(…))")
    absent = [member for member in _MEMBERS if not callable(getattr(rule, member, None))]
    if absent:
        kind = type(rule).__name__
        raise UsageError(f"optimizer {name!r} builds a {kind} without {', '.join(absent)}; see UpdateRule")
