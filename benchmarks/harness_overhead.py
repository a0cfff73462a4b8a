"""What the harness adds to a training step: against a loop written by hand, side by side, interleaved.

Both loops have the same model, optimizer, data and batch order, in one process. Blocks of steps alternate as
A B B A, so that drift of the machine cancels; the result is the median over blocks of the ratio A / B, with the
quartiles. What the harness adds is a fixed time a step, far below the noise of a real one, so it is also measured
where nothing hides it, on a network with hardly any arithmetic, and set against the real step.

    python benchmarks/harness_overhead.py [--blocks 40] [--threads 2]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from apo_bench.data.examples import Dataset, Examples, Splits
from apo_bench.plugins.metrics import Accuracy
from apo_bench.plugins.optimizer import resolve_hyperparameters
from apo_bench.plugins.registry import optimizers
from apo_bench.plugins.task import Task
from apo_bench.problem.objectives import CrossEntropy
from apo_bench.records.spec import Budget, Device, OptimizerSpec, Precision, RunSpec
from apo_bench.tasks.images import fashion_mnist_20k_lenet, fashion_mnist_20k_resnet18_w8
from apo_bench.training.loop import BLOCK
from apo_bench.training.trainer import initial_model, prepare, training_batches


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


def _compare(task: Task, blocks: int) -> tuple[list[float], list[float]]:
    """Milliseconds a step of the harness and of the loop by hand, pair by pair."""
    ours, theirs = harness(task), by_hand(task)
    for warm in (ours, theirs, ours, theirs):
        warm()
    pairs = [(_time(ours), _time(theirs), _time(theirs), _time(ours)) for _ in range(blocks)]
    scale = 1000.0 / (2 * BLOCK)
    return [scale * (a + a2) for a, _, _, a2 in pairs], [scale * (b + b2) for _, b, b2, _ in pairs]


def tiny() -> Task:
    """A network with LeNet's number of parameter tensors and hardly any arithmetic: what is left is the harness."""
    source = torch.Generator().manual_seed(0)
    examples = Examples((torch.randn(2000, 4, generator=source),), torch.randint(0, 3, (2000,), generator=source))
    return Task(
        dataset=Dataset("tiny", lambda: Splits(examples, examples, examples), lambda: "1"),
        model_name="five linear layers of width 4",
        model=lambda: nn.Sequential(*[nn.Linear(4, 4) for _ in range(5)]),
        objective=CrossEntropy(),
        metric=Accuracy(),
        batch_size=16,
    )


def main() -> None:
    """Print one line a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ours, theirs = _compare(tiny(), 5 * options.blocks)
    extra = statistics.median(a - b for a, b in zip(ours, theirs, strict=True))
    print(
        f"{tiny().model_name}: the harness adds {1000 * extra:.0f} µs to a step of {statistics.median(theirs):.2f} ms"
    )
    for task in (fashion_mnist_20k_lenet(), fashion_mnist_20k_resnet18_w8()):
        ours, theirs = _compare(task, options.blocks)
        by_hand_ms = statistics.median(theirs)
        low, middle, high = statistics.quantiles((a / b for a, b in zip(ours, theirs, strict=True)), n=4)
        print(
            f"{task.model_name}: {by_hand_ms:.2f} ms a step by hand; harness / by hand: median {middle:.4f}, "
            f"quartiles {low:.4f} to {high:.4f}; {1000 * extra:.0f} µs are {100 * extra / by_hand_ms:.2f} %"
        )


if __name__ == "__main__":
    main()
