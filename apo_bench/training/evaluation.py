"""How good a network is on a split."""

import torch

from apo_bench.data.examples import Examples
from apo_bench.plugins.metrics import CorpusMetric
from apo_bench.plugins.task import Task
from apo_bench.problem.problem import Problem

_BATCH = 1000


@torch.no_grad()
def evaluate(problem: Problem, task: Task, examples: Examples) -> tuple[float, float]:
    """Judge the network in evaluation mode, without a trace: modes, buffers and generators are as before.

    Args:
        problem: Holds the network.
        task: Says by which metric, and how large a batch of sequences may be.
        examples: The split.

    Returns:
        Mean loss and metric over the split.
    """
    problem.check_parameters()
    model, metric = problem.model, task.metric
    device = problem.precision.device
    loss = torch.zeros((), dtype=torch.float64, device=device)
    total = torch.zeros((), dtype=torch.float64, device=device)
    count = 0
    size = _BATCH if examples.lengths_NP is None else task.batch_size  # logits of sequences are large
    with problem.lookahead():
        model.eval()
        for start in range(0, len(examples), size):
            batch = examples.slice(start, start + size)
            outputs = problem.outputs(batch)
            weight = problem.normalizer(batch)
            loss += problem.loss(outputs, batch) * weight
            if not isinstance(metric, CorpusMetric):
                total += metric.total(outputs, batch)
            count += weight
        judged = metric.score(problem, examples) if isinstance(metric, CorpusMetric) else float(total) / len(examples)
    return float(loss) / count, judged
