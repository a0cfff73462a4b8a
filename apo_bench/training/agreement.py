"""Whether the parts of a task fit together, tried on one batch before the first step; and what a metric may return."""

import contextlib
import copy
import math

import torch
from torch import Tensor

from apo_bench.data.examples import Batch, Splits
from apo_bench.errors import UsageError
from apo_bench.plugins.metrics import CorpusMetric, Counted, Metric
from apo_bench.plugins.task import Task
from apo_bench.problem.problem import Problem
from apo_bench.problem.shapes import Checked, ShapeError
from apo_bench.records.facts import Direction


def check_targets(task: Task, outputs: Tensor, splits: Splits) -> None:
    """Refuse targets that objective or metric cannot judge outputs by.

    Args:
        task: Says the objective and the metric.
        outputs: Of the network for some examples.
        splits: Whose targets are looked at, all of them: on CUDA a label without a class would end the process.

    Raises:
        UsageError: They do not fit.
    """
    for name, split in (("training", splits.train), ("validation", splits.validation), ("test", splits.test)):
        for part in (task.objective, task.metric):
            if isinstance(part, Checked):
                try:
                    part.check_targets(outputs, split.targets)
                except ShapeError as error:
                    raise ShapeError(f"{name} split: {error}") from None


def check_metric(task: Task, outputs: Tensor, batch: Batch) -> None:
    """Refuse a metric that cannot judge the network, tried on one batch.

    Args:
        task: Says the metric.
        outputs: Of the network for ``batch``.
        batch: Training examples.

    Raises:
        UsageError: It cannot, or comes to more than there is.
    """
    if not isinstance(task.metric, CorpusMetric):
        metric = copy.deepcopy(task.metric)  # a plugin's may note what it sees, and this is no evaluation
        with torch.no_grad():
            total = total_of(metric, outputs.detach(), batch)
        mean_of(metric, float(total), count_of(metric, batch))


def counts_nothing(problem: Problem, targets: Tensor) -> bool:
    """Whether a batch with these targets has no term of the loss; not where the objective needs its inputs to say."""
    with contextlib.suppress(Exception):  # a plugin's own, and the inputs are not kept
        return problem.normalizer(Batch((), targets)) == 0
    return False


def total_of(metric: Metric, outputs: Tensor, batch: Batch) -> Tensor | float:
    """The metric's sum over a batch.

    Raises:
        UsageError: It is no single number.
    """
    total: Tensor | float = metric.total(outputs, batch)
    if isinstance(total, Tensor) and total.dim():
        raise UsageError(f"metric {metric.name!r} returned a total of shape {tuple(total.shape)}; return the sum")
    return total


def count_of(metric: Metric, batch: Batch) -> int:
    """What the batch counts for in the metric."""
    return metric.count(batch) if isinstance(metric, Counted) else batch.size


def mean_of(metric: Metric, total: float, count: int) -> float:
    """The metric over what counts; NaN where nothing does.

    Raises:
        UsageError: It is larger than it can be: a share in percent that is above 100.
    """
    mean = total / count if count else math.nan
    if metric.direction is Direction.MAXIMIZE and metric.name.endswith("(%)") and mean > 100.0 * (1.0 + 1e-6):
        raise UsageError(
            f"metric {metric.name!r} came to {mean:.6g}, above 100: it counts something else than the {count} that it "
            "is divided by (outputs broadcast against targets, or tokens); compare equal shapes, and declare `count`"
        )
    return mean
