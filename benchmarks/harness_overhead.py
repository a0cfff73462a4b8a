"""What the harness adds to a training step: against a loop written by hand, side by side, interleaved.

Both loops have the same model, optimizer, data and batch order, in one process. Blocks of steps alternate as
A B B A, so that drift of the machine cancels; the result is the median over blocks of the ratio A / B, with the
quartiles, and the ratio of the fastest blocks.

    python benchmarks/harness_overhead.py [--blocks 40] [--threads 2]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from apo_bench.registry import optimizers
from apo_bench.spec import Budget, Device, OptimizerSpec, Precision, RunSpec, resolve_hyperparameters
from apo_bench.tasks.images import fashion_mnist_20k_lenet, fashion_mnist_20k_resnet18_w8
from apo_bench.tasks.task import Task
from apo_bench.training.trainer import BLOCK, initial_model, prepare, training_batches


def _spec() -> RunSpec:
    hyperparameters = resolve_hyperparameters(
        optimizers()["sgdm"].load().hyperparameters, {"weight_decay": 5e-4}, optimizer="sgdm"
    )
    return RunSpec(
        task="benchmark",
        optimizer=OptimizerSpec(name="sgdm", hyperparameters=hyperparameters),
        precision=Precision.FP32,
        seed=0,
        budget=Budget(epochs=10_000),
        device=Device.CPU,
    )


def harness(task: Task) -> Callable[[], None]:
    """A block of steps as the trainer takes them."""
    loop = prepare(_spec(), task, optimizers()["sgdm"].load(), torch.device("cpu"))
    return lambda: loop.block(BLOCK)


def by_hand(task: Task) -> Callable[[], None]:
    """The same block as one would write it for one's own script."""
    spec = _spec()
    model = initial_model(task, spec).to(memory_format=torch.channels_last)
    images = task.dataset.load().train
    batches = training_batches(task, spec, images)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4, foreach=True)

    def block() -> None:
        for _ in range(BLOCK):
            batch = batches.draw()
            loss = nn.functional.cross_entropy(model(batch.inputs[0]), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()

    return block


def _time(block: Callable[[], None]) -> float:
    start = time.perf_counter()
    block()
    return time.perf_counter() - start


def main() -> None:
    """Print one line a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for task in (fashion_mnist_20k_lenet(), fashion_mnist_20k_resnet18_w8()):
        ours, theirs = harness(task), by_hand(task)
        for warm in (ours, theirs):
            warm()
        ratios, best_ours, best_theirs = [], [], []
        for _ in range(options.blocks):
            a, b, b2, a2 = _time(ours), _time(theirs), _time(theirs), _time(ours)
            ratios.append((a + a2) / (b + b2))
            best_ours += [a, a2]
            best_theirs += [b, b2]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{task.model_name}: {1000 * statistics.median(best_theirs) / BLOCK:.2f} ms a step by hand; "
            f"harness / by hand: median {middle:.4f}, quartiles {low:.4f} to {high:.4f}, "
            f"fastest blocks {min(best_ours) / min(best_theirs):.4f}"
        )


if __name__ == "__main__":
    main()
