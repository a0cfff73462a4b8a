"""Tuning with the same number of trials for every optimizer; what the scripts beside this file have in common.

Each optimizer gets quasi-random trials (scrambled Sobol points) in the search space that it declares, on a tuning seed
that is no reporting seed. Weight decay is not searched: 5e-4 where it is coupled to the gradient, as in the paper, and
the declared default where it is decoupled. Every choice is made on validation data.

APO-P's meta-learning rate is searched from 1e-3 on: in the few hundred steps of these tasks a smaller one hardly moves
P, and the race would be one of SGDm under another name. A first round of trials, from 1e-4 on, was dropped for that.

Not everything was equal: the ranges of KFAC, EKFAC and APO-P were declared, and KFAC's share of the batch chosen, after
some forty exploratory runs of them on LeNet with the tuning seed and two others; the other optimizers have the ranges
that are usual for them, declared without such runs.
"""

import csv
import dataclasses
import json
import math
import multiprocessing
import statistics
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

import msgspec
from scipy import stats

from apo_bench.errors import UsageError
from apo_bench.plugins.optimizer import Search, resolve_hyperparameters
from apo_bench.plugins.registry import optimizers, tasks
from apo_bench.records.facts import Direction
from apo_bench.records.spec import Budget, Device, OptimizerSpec, Precision, RunSpec, Scalar
from apo_bench.records.suite import TUNING_SEED

TARGET = 85.0
"""Validation accuracy whose first reaching is recorded, in percent."""
WEIGHT_DECAY = 5e-4
DECOUPLED = ("adamw", "muon", "soap", "schedule-free-adamw")
"""Optimizers whose weight decay does not pass through the gradient."""


NARROWED = {("apo-p", "meta_lr"): Search(1e-3, 1e-2, log=True)}
"""Searches that differ from the declared ones, for the reason above."""


class Job(msgspec.Struct, frozen=True):
    """One training run, fp32, at a constant learning rate.

    Attributes:
        task: Name.
        optimizer: Name.
        overrides: Hyperparameters that are not at their defaults.
        seed: Seed.
        epochs: Budget.
        every: Steps between two evaluations.
        test: Whether test data are looked at, once, at the end.
    """

    task: str
    optimizer: str
    overrides: dict[str, Scalar]
    seed: int
    epochs: float
    every: int
    test: bool = False

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What makes it another run."""
        return self.task, self.optimizer, json.dumps(self.overrides, sort_keys=True), self.seed


class Result(msgspec.Struct, frozen=True):
    """What came out of a run.

    Attributes:
        task: Name.
        optimizer: Name.
        overrides: As JSON.
        seed: Seed.
        steps: First evaluation at an accuracy of `TARGET` or above; `None` where there was none.
        validation: Validation metric, a mean over the last epoch's evaluations; `None` where the run diverged.
        best: Best validation metric.
        test: Test metric, where it was asked for.
    """

    task: str
    optimizer: str
    overrides: str
    seed: int
    steps: int | None
    validation: float | None
    best: float | None
    test: float | None

    @property
    def key(self) -> tuple[str, str, str, int]:
        """As of its job."""
        return self.task, self.optimizer, self.overrides, self.seed


def train(job: Job) -> Result:
    """Train one run with one thread and follow its validation accuracy."""
    import torch

    from apo_bench.training.trainer import prepare

    torch.set_num_threads(1)
    competitor = optimizers()[job.optimizer].load()
    hyperparameters = resolve_hyperparameters(competitor.hyperparameters, job.overrides, optimizer=job.optimizer)
    spec = RunSpec(
        task=job.task,
        optimizer=OptimizerSpec(name=job.optimizer, hyperparameters=hyperparameters),
        precision=Precision.FP32,
        seed=job.seed,
        budget=Budget(epochs=job.epochs),
        device=Device.CPU,
    )
    try:
        loop = prepare(spec, tasks()[job.task].load()(), competitor, torch.device("cpu"))
    except UsageError as error:
        print(f"{job.key}: {error}", flush=True)
        return Result(*job.key, steps=None, validation=None, best=None, test=None)
    curve: list[tuple[int, float]] = []
    while loop.state.taken < loop.setup.total_steps and loop.diverged is None:
        loop.block(min(job.every, loop.setup.total_steps - loop.state.taken))
        loss, metric = loop.validate()
        if not math.isfinite(loss):
            break
        if math.isfinite(metric):  # else undefined for these outputs, which is no divergence
            curve.append((loop.state.taken, metric))
    finished = bool(curve) and curve[-1][0] == loop.setup.total_steps and loop.diverged is None
    begin = loop.setup.total_steps - loop.setup.facts.steps_per_epoch
    last_epoch = [metric for step, metric in curve if step > begin]
    maximize = loop.setup.facts.direction is Direction.MAXIMIZE
    return Result(
        *job.key,
        steps=next((step for step, metric in curve if metric >= TARGET), None) if maximize else None,
        validation=statistics.fmean(last_epoch) if finished else None,
        best=(max if maximize else min)((metric for _, metric in curve), default=None),
        test=loop.test()[1] if job.test and finished else None,
    )


def trials(
    task: str, optimizer: str, count: int, *, epochs: float, every: int, weight_decay: float = WEIGHT_DECAY
) -> Iterator[Job]:
    """Quasi-random points in the declared search space; ``count`` is a power of two.

    A weight decay of 0 is set for all optimizers, any other only where it is coupled to the gradient.
    """
    kind = optimizers()[optimizer].load().hyperparameters
    coupled = optimizer not in DECOUPLED or weight_decay == 0.0
    fixed: dict[str, Scalar] = {"weight_decay": weight_decay} if coupled else {}
    searches = {
        field.name: NARROWED.get((optimizer, field.name), field.metadata["search"])
        for field in dataclasses.fields(kind)
        if field.metadata["search"] is not None and field.name != "weight_decay"
    }
    for point in stats.qmc.Sobol(len(searches), seed=0).random(count):
        chosen: dict[str, Scalar] = {}
        for (field, search), share in zip(searches.items(), point, strict=True):
            low, high = (math.log(search.low), math.log(search.high)) if search.log else (search.low, search.high)
            value = low + float(share) * (high - low)
            chosen[field] = float(f"{math.exp(value) if search.log else value:.3g}")
        yield Job(task, optimizer, {**fixed, **chosen}, TUNING_SEED, epochs, every)


def run(jobs: Iterable[Job], path: Path, workers: int) -> list[Result]:
    """Run what is not in the file yet, append it as it finishes, and return what was asked for."""
    by_key = {job.key: job for job in jobs}
    done = {result.key: result for result in read(path)}
    missing = [job for key, job in by_key.items() if key not in done]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures: list[Future[Result]] = [pool.submit(train, job) for job in missing]
        for count, future in enumerate(as_completed(futures), start=1):
            result = future.result()
            done[result.key] = result
            _append(path, result)
            print(f"{count} of {len(missing)}: {result}", flush=True)
    return [done[key] for key in by_key]


def read(path: Path) -> list[Result]:
    """Results in a file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [{name: value or None for name, value in row.items()} for row in csv.DictReader(file)]
    return msgspec.convert(rows, list[Result], strict=False)


def by_steps(result: Result) -> tuple[float, float]:
    """Order of choice for speed: fewest steps to the target, ties by accuracy."""
    return (-math.inf if result.steps is None else -result.steps, by_accuracy(result)[0])


def by_accuracy(result: Result) -> tuple[float, float]:
    """Order of choice for quality, where more is better."""
    return (-math.inf if result.validation is None else result.validation, 0.0)


def best(results: Iterable[Result]) -> Result:
    """The trial of one competitor on one task that validates best."""
    own = list(results)
    maximize = tasks()[own[0].task].load()().metric.direction is Direction.MAXIMIZE
    finished = [result for result in own if result.validation is not None]
    if not finished:
        return own[0]
    return max(finished, key=lambda result: (result.validation or 0.0) * (1.0 if maximize else -1.0))


def _append(path: Path, result: Result) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, Result.__struct_fields__, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(msgspec.to_builtins(result))
