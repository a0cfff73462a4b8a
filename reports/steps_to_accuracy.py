"""Tune every optimizer with the same number of trials, then race them: steps to 85 % validation accuracy.

LeNet on Fashion-MNIST-20k, fp32, 5 epochs, constant learning rate; validation every 20 steps. Each optimizer gets the
same number of quasi-random trials (scrambled Sobol points) in the search space that it declares, on a tuning seed that
is no reporting seed. Weight decay is not searched: 5e-4 where it is coupled to the gradient, as in the paper, and the
declared default where it is decoupled. Two settings are chosen, on validation alone: the one that needs the fewest
steps (ties by accuracy), and the one with the highest accuracy, a mean over the last epoch's evaluations; the latter
are the declared defaults. Both race on the reporting seeds, and test accuracy is read once, at the end of each race.

    python reports/steps_to_accuracy.py [--trials 8] [--workers 2]

Finished trials and races are kept in ``reports/steps-to-accuracy/`` and not run again.
"""

import argparse
import csv
import dataclasses
import json
import math
import multiprocessing
import statistics
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
from scipy import stats

from apo_bench.evidence.intervals import mean_interval
from apo_bench.registry import optimizers, tasks
from apo_bench.spec import Budget, Device, OptimizerSpec, Precision, RunSpec, Scalar, resolve_hyperparameters

FOLDER = Path(__file__).parent / "steps-to-accuracy"
TASK = "fashion-mnist-20k.lenet"
EPOCHS = 5
EVERY = 20
TARGET = 85.0
TUNING_SEED = 100
REPORTING_SEEDS = (0, 1, 2)
DECOUPLED = ("adamw", "muon", "soap", "schedule-free-adamw")
"""Optimizers whose weight decay does not pass through the gradient."""


class Job(msgspec.Struct, frozen=True):
    """One training run."""

    optimizer: str
    overrides: dict[str, Scalar]
    seed: int
    test: bool

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes it another run."""
        return self.optimizer, json.dumps(self.overrides, sort_keys=True), self.seed


class Result(msgspec.Struct, frozen=True):
    """What came out; ``steps`` is `None` where the target was not reached, ``accuracy`` where it diverged."""

    optimizer: str
    overrides: str
    seed: int
    steps: int | None
    accuracy: float | None
    best: float | None
    test: float | None


def train(job: Job) -> Result:
    """Train one run with one thread and follow its validation accuracy."""
    import torch

    from apo_bench.training.trainer import prepare

    torch.set_num_threads(1)
    competitor = optimizers()[job.optimizer].load()
    hyperparameters = resolve_hyperparameters(competitor.hyperparameters, job.overrides, optimizer=job.optimizer)
    spec = RunSpec(
        task=TASK,
        optimizer=OptimizerSpec(name=job.optimizer, hyperparameters=hyperparameters),
        precision=Precision.FP32,
        seed=job.seed,
        budget=Budget(epochs=EPOCHS),
        device=Device.CPU,
    )
    loop = prepare(spec, tasks()[TASK].load()(), competitor, torch.device("cpu"))
    curve: list[tuple[int, float]] = []
    while loop.taken < loop.total_steps and loop.diverged is None:
        loop.block(min(EVERY, loop.total_steps - loop.taken))
        loss, accuracy = loop.validate()
        if not math.isfinite(loss):
            break
        curve.append((loop.taken, accuracy))
    finished = loop.taken == loop.total_steps and len(curve) * EVERY >= loop.total_steps
    last_epoch = [accuracy for step, accuracy in curve if step > loop.total_steps * (1 - 1 / EPOCHS)]
    optimizer, overrides, seed = job.key
    return Result(
        optimizer,
        overrides,
        seed,
        steps=next((step for step, accuracy in curve if accuracy >= TARGET), None),
        accuracy=statistics.fmean(last_epoch) if finished else None,
        best=max((accuracy for _, accuracy in curve), default=None),
        test=loop.test()[1] if job.test and finished else None,
    )


def trials(name: str, count: int) -> Iterator[Job]:
    """Quasi-random points in the declared search space."""
    kind = optimizers()[name].load().hyperparameters
    fixed: dict[str, Scalar] = {} if name in DECOUPLED else {"weight_decay": 5e-4}
    searches = {
        field.name: field.metadata["search"]
        for field in dataclasses.fields(kind)
        if field.metadata["search"] is not None and field.name != "weight_decay"
    }
    for point in stats.qmc.Sobol(len(searches), seed=0).random(count):
        chosen: dict[str, Scalar] = {}
        for (field, search), share in zip(searches.items(), point, strict=True):
            low, high = (math.log(search.low), math.log(search.high)) if search.log else (search.low, search.high)
            value = low + float(share) * (high - low)
            chosen[field] = float(f"{math.exp(value) if search.log else value:.3g}")
        yield Job(name, {**fixed, **chosen}, TUNING_SEED, test=False)


def run(jobs: Iterable[Job], path: Path, workers: int) -> list[Result]:
    """Run what is not in the file yet, append it as it finishes, and return what was asked for."""
    done = {(result.optimizer, result.overrides, result.seed): result for result in read(path)}
    wanted = list(dict.fromkeys(job.key for job in jobs))
    missing = [job for job in {job.key: job for job in jobs}.values() if job.key not in done]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures: list[Future[Result]] = [pool.submit(train, job) for job in missing]
        for count, future in enumerate(as_completed(futures), start=1):
            result = future.result()
            done[result.optimizer, result.overrides, result.seed] = result
            _append(path, result)
            print(f"{count} of {len(missing)}: {result}", flush=True)
    return [done[key] for key in wanted]


def read(path: Path) -> list[Result]:
    """Results in a file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [{name: value or None for name, value in row.items()} for row in csv.DictReader(file)]
    return msgspec.convert(rows, list[Result], strict=False)


def _append(path: Path, result: Result) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, Result.__struct_fields__, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(msgspec.to_builtins(result))


def by_steps(result: Result) -> tuple[float, float]:
    """Order of choice for speed: fewest steps, ties by accuracy."""
    return (-math.inf if result.steps is None else -result.steps, result.accuracy or -math.inf)


def by_accuracy(result: Result) -> tuple[float, float]:
    """Order of choice for the declared defaults."""
    return (result.accuracy or -math.inf, 0.0)


CHOICES: dict[str, Callable[[Result], tuple[float, float]]] = {"steps": by_steps, "accuracy": by_accuracy}


def table(names: list[str], chosen: dict[tuple[str, str], Result], races: list[Result], choice: str) -> pd.DataFrame:
    """One row an optimizer: steps to the target, accuracies, and the paired difference to SGDm's steps."""
    by_run = {(result.optimizer, result.overrides, result.seed): result for result in races}

    def seeds(name: str) -> list[Result]:
        return [by_run[name, chosen[name, choice].overrides, seed] for seed in REPORTING_SEEDS]

    rows = []
    reference = [result.steps for result in seeds("sgdm")]
    for name in names:
        own = seeds(name)
        steps = [result.steps for result in own]
        differences = [a - b for a, b in zip(steps, reference, strict=True) if a is not None and b is not None]
        rows.append(
            {
                "optimizer": name,
                f"steps to {TARGET:g} %": ", ".join("–" if step is None else str(step) for step in steps),
                "mean": _interval(steps, digits=0),
                "minus SGDm, paired": _interval(
                    differences if len(differences) == len(steps) else [None], digits=0, comparisons=len(names) - 1
                ),
                "test accuracy (%)": _interval([result.test for result in own], digits=2),
                "setting": ", ".join(
                    f"{key} {value:g}" for key, value in json.loads(chosen[name, choice].overrides).items()
                ),
            }
        )
    order = {name: statistics.fmean([result.steps or math.inf for result in seeds(name)]) for name in names}
    rows.sort(key=lambda row: order[row["optimizer"]])
    return pd.DataFrame(rows)


def _interval(values: list[Any], digits: int, comparisons: int = 1) -> str:
    if any(value is None for value in values):
        return "–"
    interval = mean_interval(values, comparisons=comparisons)
    return f"{interval.mean:.{digits}f} ± {interval.half_width:.{digits}f}"


def main() -> None:
    """Tune, race, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    names = optimizers().names()
    tried = run([job for name in names for job in trials(name, options.trials)], FOLDER / "trials.csv", options.workers)
    chosen = {
        (name, choice): max((result for result in tried if result.optimizer == name), key=order)
        for name in names
        for choice, order in CHOICES.items()
    }
    races = run(
        [
            Job(name, json.loads(result.overrides), seed, test=True)
            for (name, _), result in chosen.items()
            for seed in REPORTING_SEEDS
        ],
        FOLDER / "races.csv",
        options.workers,
    )
    parts = [f"# Steps to {TARGET:g} % validation accuracy\n\n{(__doc__ or '').partition('    python')[0].strip()}\n"]
    parts.append(
        f"{options.trials} trials an optimizer (`trials.csv`), seed {TUNING_SEED}; races (`races.csv`) on seeds "
        f"{', '.join(map(str, REPORTING_SEEDS))}. ± is half of a 95 % t interval over the seeds; those of "
        "the paired differences hold all together (Bonferroni). With three seeds they are wide.\n"
    )
    for choice, title in (("steps", "Chosen for fewest steps"), ("accuracy", "Chosen for validation accuracy")):
        page = table(names, chosen, races, choice).to_markdown(index=False, disable_numparse=True)
        parts.append(f"## {title}\n\n{page}\n")
    (FOLDER / "README.md").write_text("\n".join(parts))
    print(f"written: {FOLDER / 'README.md'}")


if __name__ == "__main__":
    main()
