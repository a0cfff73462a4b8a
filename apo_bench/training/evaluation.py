"""How good a network is on a split."""

import torch

from apo_bench.data.examples import Examples
from apo_bench.errors import UsageError
from apo_bench.plugins.metrics import CorpusMetric
from apo_bench.plugins.task import Task
from apo_bench.problem.problem import Problem
from apo_bench.training.agreement import count_of, mean_of, total_of

_BATCH = 1000


@torch.no_grad()
def evaluate(problem: Problem, task: Task, examples: Examples) -> tuple[float, float]:
    """Judge the network in evaluation mode, without a trace: modes, buffers and generators are as before.

    Args:
        problem: Holds the network.
        task: Says by which metric, and how large a batch of sequences may be.
        examples: The split.

    Returns:
        Mean loss and metric over the split, each over what counts in it.

    Raises:
        UsageError: Nothing in the split counts, or the metric is not what it says it is.
    """
    problem.check_parameters()
    model, metric = problem.model, task.metric
    device = problem.precision.device
    loss = torch.zeros((), dtype=torch.float64, device=device)
    total = torch.zeros((), dtype=torch.float64, device=device)
    count = counted = 0
    size = _BATCH if examples.lengths_NP is None else task.batch_size  # logits of sequences are large
    with problem.lookahead():
        model.eval()
        for start in range(0, len(examples), size):
            batch = examples.slice(start, start + size)
            outputs = problem.outputs(batch)
            weight = problem.normalizer(batch)
            if weight:  # a mean over nothing is not a number
                loss += problem.loss(outputs, batch) * weight
            if not isinstance(metric, CorpusMetric):
                total += total_of(metric, outputs, batch)
                counted += count_of(metric, batch)
            count += weight
        if not count:
            raise UsageError("a split has no example that counts; give it at least one with a label")
        if isinstance(metric, CorpusMetric):
            judged = metric.score(problem, examples)
        else:
            judged = mean_of(metric, float(total), counted)
    return float(loss) / count, judged
