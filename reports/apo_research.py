"""What APO's settings should be, and where its claims can be judged: declared rounds of trials on validation data.

Every trial runs at the budget of scale ``study`` on a tuning seed, in fp32, with one thread, and no trial looks at test
data. What a round asks, and what came out, is in ``reports/apo-research/README.md``; each trial is a row of
``reports/apo-research/trials.csv``.

    python reports/apo_research.py ROUND ... [--workers 2]

Finished trials are kept and not run again; the page is rewritten.
"""

import argparse
import csv
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

import msgspec
from tabulate import tabulate

from apo_bench.plugins.optimizer import resolve_hyperparameters
from apo_bench.plugins.registry import optimizers, tasks
from apo_bench.problem.rule import Observable
from apo_bench.records.schedules import Constant, Cosine, Schedule, Step
from apo_bench.records.spec import Budget, Device, OptimizerSpec, Precision, RunSpec, Scalar

FILE = Path(__file__).parent / "apo-research" / "trials.csv"
SEEDS = (100, 101)
"""Tuning seeds: nothing is ever reported on them."""
LENET, RESNET = "fashion-mnist-20k.lenet-augmented", "fashion-mnist-20k.resnet18-w8-augmented"
EPOCHS = {LENET: 40.0, RESNET: 16.0}
WEIGHT_DECAY: dict[str, Scalar] = {"weight_decay": 5e-4}
SCHEDULES: dict[str, Schedule] = {"constant": Constant(), "cosine": Cosine(), "step": Step()}


class Trial(msgspec.Struct, frozen=True):
    """One training run.

    Attributes:
        task: Name.
        optimizer: Name.
        overrides: Hyperparameters that are not at their defaults, as JSON.
        schedule: Key of `SCHEDULES`.
        seed: A tuning seed.
    """

    task: str
    optimizer: str
    overrides: str
    schedule: str
    seed: int


class Result(msgspec.Struct, frozen=True):
    """What came out of a trial.

    Attributes:
        trial: Which.
        validation: Validation accuracy in percent, a mean over the last tenth of the epochs; `None` where it diverged.
        train_loss: Mean over the last epoch.
        reading: At the end, the learning rate of APO-LR, or how far P of APO-P's first layer is from the identity,
            ‖P − I‖ / ‖I‖.
        seconds: Of the process, evaluations included.
    """

    trial: Trial
    validation: float | None
    train_loss: float | None
    reading: float | None
    seconds: float


def _trials(
    optimizer: str, *settings: dict[str, Scalar], task: str, schedule: str = "constant", seeds: tuple[int, ...] = SEEDS
) -> Iterator[Trial]:
    for seed in seeds:
        for own in settings:
            yield Trial(task, optimizer, json.dumps({**WEIGHT_DECAY, **own}, sort_keys=True), schedule, seed)


QUARTERS: dict[str, Scalar] = {"meta_share": 0.25}


def _proximity(task: str) -> Iterator[Trial]:
    """λ_FSD of APO-P."""
    yield from _trials("apo-p", *({**QUARTERS, "fsd": weight} for weight in (10.0, 100.0, 300.0)), task=task)


def _width(task: str) -> Iterator[Trial]:
    """Whether α falls with the width of A and B."""
    yield from _trials("apo-p", *({**QUARTERS, "fsd": 100.0, "meta_width": width} for width in (64, 256)), task=task)


def _scale(task: str) -> Iterator[Trial]:
    """A scale a layer that moves faster than A, B and S."""
    yield from _trials("apo-p", *({**QUARTERS, "fsd": 100.0, "scale_lr": rate} for rate in (0.01, 0.05)), task=task)


def _share(task: str) -> Iterator[Trial]:
    """Whether the whole batch tells a meta-update more than a quarter of it."""
    yield from _trials("apo-p", {"fsd": 100.0, "meta_share": 1.0}, task=task)


def _first(task: str) -> Iterator[Trial]:
    """On the larger network the most decisive cells first, with what was best on LeNet or in the leads."""
    seeds = SEEDS[:1]
    yield from _trials("apo-p", {**QUARTERS, "fsd": 100.0}, task=task, seeds=seeds)
    yield from _trials("kfac", {}, task=task, seeds=seeds)
    for schedule in ("constant", "step"):
        yield from _trials("sgdm", {"lr": 0.1}, task=task, schedule=schedule, seeds=seeds)
    for whole in (False, True):
        settings = {**QUARTERS, "lr": 0.1, "fsd": 10.0, "meta_lr": 0.03, "whole_move": whole}
        yield from _trials("apo-lr-sgdm", settings, task=task, seeds=seeds)


def _warm(task: str) -> Iterator[Trial]:
    """APO-P from KFAC's factors."""
    for weight, rate in ((3.0, 0.03), (100.0, 1.0)):
        yield from _trials("apo-p-warm", {"fsd": weight, "lr": rate}, task=task)


def _peers(task: str) -> Iterator[Trial]:
    """Whom APO-P and APO-LR are to be judged against; rates as issue and suites had them, half a decade around."""
    rates = {LENET: (0.01, 0.03, 0.1), RESNET: (0.03, 0.1, 0.3)}[task]
    for rate in rates:
        for schedule in ("constant", "step"):
            yield from _trials("sgdm", {"lr": rate}, task=task, schedule=schedule)
    for schedule in ("constant", "cosine"):
        yield from _trials("kfac", {}, task=task, schedule=schedule)


def _rate(task: str) -> Iterator[Trial]:
    """λ_FSD of APO-LR around SGDm, with the step just taken and the gradient's whole move as the lookahead."""
    start = {LENET: 0.03, RESNET: 0.1}[task]
    weights = (1.0, 3.0, 10.0, 30.0)
    for whole in (False, True):
        yield from _trials(
            "apo-lr-sgdm",
            *({**QUARTERS, "lr": start, "fsd": weight, "meta_lr": 0.03, "whole_move": whole} for weight in weights),
            task=task,
            seeds=SEEDS[:1],
        )


QUESTIONS: dict[str, Callable[[str], Iterator[Trial]]] = {
    "proximity": _proximity,
    "width": _width,
    "scale": _scale,
    "peers": _peers,
    "share": _share,
    "first": _first,
    "warm": _warm,
    "rate": _rate,
}
NETWORKS = {"lenet": LENET, "resnet": RESNET}
ROUNDS = {
    f"{name}-{network}": tuple(round_of(task))
    for network, task in NETWORKS.items()
    for name, round_of in QUESTIONS.items()
}
"""Trials by round, each declared before the first of it was run."""


def train(trial: Trial) -> Result:
    """Run one trial with one thread."""
    import torch

    from apo_bench.training.trainer import prepare

    torch.set_num_threads(1)
    begin = time.perf_counter()
    competitor = optimizers()[trial.optimizer].load()
    hyperparameters = resolve_hyperparameters(
        competitor.hyperparameters, json.loads(trial.overrides), optimizer=trial.optimizer
    )
    spec = RunSpec(
        task=trial.task,
        optimizer=OptimizerSpec(
            name=trial.optimizer, hyperparameters=hyperparameters, schedule=SCHEDULES[trial.schedule]
        ),
        precision=Precision.FP32,
        seed=trial.seed,
        budget=Budget(epochs=EPOCHS[trial.task]),
        device=Device.CPU,
    )
    loop = prepare(spec, tasks()[trial.task].load()(), competitor, torch.device("cpu"))
    epoch = loop.setup.facts.steps_per_epoch
    curve: list[float] = []
    train_loss: float | None = None
    while loop.state.taken < loop.setup.total_steps and loop.diverged is None:
        loop.block(min(epoch, loop.setup.total_steps - loop.state.taken))
        loss, metric = loop.validate()
        train_loss = loop.state.train_loss
        loop.state.since_evaluation.clear()
        if not math.isfinite(loss):
            break
        curve.append(metric)
    finished = loop.diverged is None and len(curve) == math.ceil(EPOCHS[trial.task])
    rule = loop.setup.rule
    readings = rule.readings() if isinstance(rule, Observable) else {}
    reading = readings.get("learning_rate", readings.get("distance_from_identity_0"))
    return Result(
        trial,
        validation=statistics.fmean(curve[-max(1, len(curve) // 10) :]) if finished else None,
        train_loss=train_loss if finished else None,
        reading=reading,
        seconds=time.perf_counter() - begin,
    )


def read() -> list[Result]:
    """Finished trials."""
    if not FILE.exists():
        return []
    with FILE.open(newline="") as file:
        rows = [{name: value or None for name, value in row.items()} for row in csv.DictReader(file)]
    fields = Trial.__struct_fields__
    nested = [
        {"trial": {field: row[field] for field in fields}, **{k: v for k, v in row.items() if k not in fields}}
        for row in rows
    ]
    return msgspec.convert(nested, list[Result], strict=False)


def _append(result: Result) -> None:
    FILE.parent.mkdir(exist_ok=True)
    row = msgspec.to_builtins(result)
    row = {**row.pop("trial"), **row, "seconds": round(result.seconds)}
    new = not FILE.exists()
    with FILE.open("a", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def run(trials: Iterable[Trial], workers: int) -> None:
    """Run what is not in the file yet and append it as it finishes, the first seeds first."""
    done = {result.trial for result in read()}
    missing = sorted((trial for trial in dict.fromkeys(trials) if trial not in done), key=lambda trial: trial.seed)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures: list[Future[Result]] = [pool.submit(train, trial) for trial in missing]
        for count, future in enumerate(as_completed(futures), start=1):
            _append(future.result())
            print(f"{count} of {len(missing)}: {future.result()}", flush=True)


def page(results: Iterable[Result]) -> str:
    """What each round asks, and what came out so far."""
    done = {result.trial: result for result in results}
    lines = ["# Research on APO", "", (__doc__ or "").partition("    python")[0].strip(), ""]
    for network, task in NETWORKS.items():
        lines += [f"## {task}, {EPOCHS[task]:g} epochs", ""]
        for name, round_of in QUESTIONS.items():
            trials = ROUNDS[f"{name}-{network}"]
            if any(trial in done for trial in trials):
                lines += [f"### {name}", "", round_of.__doc__ or "", "", _table(trials, done), ""]
    return "\n".join(lines)


def _table(trials: Iterable[Trial], done: Mapping[Trial, Result]) -> str:
    """One row a setting: validation accuracy on each tuning seed, training loss, and the reading at the end."""
    rows: dict[tuple[str, str, str], dict[int, Result]] = {}
    for trial in trials:
        own = rows.setdefault((trial.optimizer, trial.overrides, trial.schedule), {})
        if trial in done:
            own[trial.seed] = done[trial]
    table = []
    for (optimizer, overrides, schedule), own in rows.items():
        setting = {name: value for name, value in json.loads(overrides).items() if name not in WEIGHT_DECAY}
        named = ", ".join(f"{name} {value}" for name, value in setting.items())
        scores = [
            "–" if seed not in own else "diverged" if (found := own[seed].validation) is None else f"{found:.2f}"
            for seed in SEEDS
        ]
        losses = [result.train_loss for result in own.values() if result.train_loss is not None]
        readings = [f"{result.reading:.3g}" for result in own.values() if result.reading is not None]
        loss = f"{statistics.fmean(losses):.3f}" if losses else "–"
        table.append([optimizer, named, schedule, *scores, loss, ", ".join(readings) or "–"])
    headers = ["optimizer", "setting", "schedule", *(f"seed {seed}" for seed in SEEDS), "training loss", "reading"]
    return tabulate(table, headers=headers, tablefmt="pipe", disable_numparse=True)


def main() -> None:
    """Run rounds and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="*", metavar="ROUND", help=", ".join(ROUNDS))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    for name in options.rounds:
        if name not in ROUNDS:
            parser.error(f"unknown round {name!r}; choose from {', '.join(ROUNDS)}")
    run((trial for name in options.rounds for trial in ROUNDS[name]), options.workers)
    (FILE.parent / "README.md").write_text(page(read()), encoding="utf-8")


if __name__ == "__main__":
    main()
