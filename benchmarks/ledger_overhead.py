"""What the ledger and the clock cost: a run's loop against the same loop without them, side by side, interleaved.

Both loops have the same model, optimizer, data and batch order, in one process. Blocks of steps alternate as A B B A,
so that drift of the machine cancels. The ledger costs a fixed time a step, far below the noise of a real one, so it is
measured where nothing hides it, on a network with hardly any arithmetic, and set against the steps of LeNet and of
ResNet-18 at full width, which are measured too.

    python benchmarks/ledger_overhead.py [--blocks 200] [--threads 2]
"""

import argparse
import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable

import torch
from harness_overhead import tiny

from apo_bench.data.examples import Dataset, Examples, Splits
from apo_bench.models.resnet import resnet18
from apo_bench.plugins.metrics import Accuracy
from apo_bench.plugins.optimizer import resolve_hyperparameters
from apo_bench.plugins.registry import optimizers
from apo_bench.plugins.task import Task
from apo_bench.problem.objectives import CrossEntropy
from apo_bench.records.spec import Budget, Device, OptimizerSpec, Precision, RunSpec
from apo_bench.tasks.images import fashion_mnist_20k_lenet
from apo_bench.training.loop import BLOCK, Loop
from apo_bench.training.trainer import prepare

ALLOWED = {"lenet": 1.0, "resnet18": 0.2}
"""Percent of a step."""


def loop_of(optimizer: str, task: Task) -> Loop:
    """A run's loop, before its first step."""
    competitor = optimizers()[optimizer].load()
    spec = RunSpec(
        task="benchmark",
        optimizer=OptimizerSpec(
            name=optimizer, hyperparameters=resolve_hyperparameters(competitor.hyperparameters, {}, optimizer=optimizer)
        ),
        precision=Precision.FP32,
        seed=0,
        budget=Budget(epochs=10_000),
        device=Device.CPU,
    )
    return prepare(spec, task, competitor, torch.device("cpu"))


class _NoLedger:
    """Keeps nothing."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:  # noqa: ARG002 - as the ledger's
        return _NOTHING


class _NoClock:
    """Always zero."""

    training = 0.0
    ledger = _NoLedger()

    def train(self) -> contextlib.AbstractContextManager[None]:
        return _NOTHING


_NOTHING = contextlib.nullcontext()


def without_ledger(loop: Loop) -> Loop:
    """The same loop with nothing to measure it."""
    loop.setup = dataclasses.replace(loop.setup, clock=_NoClock())  # type: ignore[arg-type] # has what a block asks of it
    loop.setup.problem._ledger = None  # noqa: SLF001 - only a benchmark wants it
    return loop


def _time(block: Callable[[int], None]) -> float:
    start = time.perf_counter()
    block(BLOCK)
    return 1e6 * (time.perf_counter() - start) / BLOCK


def microseconds(optimizer: str, blocks: int) -> list[float]:
    """What ledger and clock add to a step of the tiny network, pair by pair."""
    kept, bare = loop_of(optimizer, tiny()).block, without_ledger(loop_of(optimizer, tiny())).block
    for warm in (kept, bare, kept, bare):
        warm(BLOCK)
    pairs = [(_time(kept), _time(bare), _time(bare), _time(kept)) for _ in range(blocks)]
    return [(a + a2 - b - b2) / 2 for a, b, b2, a2 in pairs]


def resnet18_on_noise() -> Task:
    """ResNet-18 at full width on images of CIFAR's size."""
    source = torch.Generator().manual_seed(0)
    images = torch.randn(512, 3, 32, 32, generator=source)
    examples = Examples((images,), torch.randint(0, 10, (512,), generator=source))
    return Task(
        dataset=Dataset("noise", lambda: Splits(examples, examples, examples), lambda: "1"),
        model_name="resnet18",
        model=lambda: resnet18(in_channels=3, classes=10),
        objective=CrossEntropy(),
        metric=Accuracy(),
        batch_size=128,
        channels_last=True,
    )


def step_milliseconds(task: Task, steps: int) -> float:
    """Milliseconds of an SGDm step, the shortest of some: what is added weighs most against it."""
    loop = loop_of("sgdm", task)
    loop.block(2)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        loop.block(1)
        times.append(1000.0 * (time.perf_counter() - start))
    return min(times)


def main() -> None:
    """Print one line an optimizer and model; exit 1 where more is used than is allowed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps = {
        "lenet": step_milliseconds(fashion_mnist_20k_lenet(), 60),
        "resnet18": step_milliseconds(resnet18_on_noise(), 6),
    }
    for name, milliseconds in steps.items():
        print(f"{name}: a step of SGDm takes {milliseconds:.2f} ms at best")
    too_much = False
    for optimizer in ("sgdm", "kfac", "apo-p"):
        low, middle, high = statistics.quantiles(microseconds(optimizer, options.blocks), n=4)
        shares = {name: 0.1 * middle / milliseconds for name, milliseconds in steps.items()}
        too_much |= any(shares[name] > allowed for name, allowed in ALLOWED.items())
        parts = ", ".join(f"{share:.3f} % of {name}'s (allowed {ALLOWED[name]} %)" for name, share in shares.items())
        print(
            f"{optimizer}: ledger and clock add {middle:.1f} µs to a step (quartiles {low:.1f} to {high:.1f}): {parts}"
        )
    raise SystemExit(1 if too_much else 0)


if __name__ == "__main__":
    main()
