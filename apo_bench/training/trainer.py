"""From a run's specification to its outcome: everything it needs is made here, and `loop` trains it."""

import contextlib
import copy
import dataclasses
import gc
from collections.abc import Callable
from typing import Any

import msgspec
import torch
from torch import nn

from apo_bench.data.batches import BatchStream
from apo_bench.data.examples import Batch, Examples, Splits
from apo_bench.errors import ApoBenchError, UsageError, last_line
from apo_bench.measure.clock import Clock
from apo_bench.measure.kinds import prepare_kind, step_kinds
from apo_bench.measure.memory import loaded_above_baseline
from apo_bench.models.lazy import initialize, uninitialized
from apo_bench.plugins.metrics import CorpusMetric
from apo_bench.plugins.optimizer import Competitor
from apo_bench.plugins.task import Task
from apo_bench.problem import seeds
from apo_bench.problem.precision import PrecisionPolicy
from apo_bench.problem.problem import Problem
from apo_bench.problem.rule import UpdateRule
from apo_bench.problem.seeds import Purpose
from apo_bench.records.events import Event
from apo_bench.records.facts import Axis, PrecisionBackend, TaskFacts
from apo_bench.records.outcome import Diverged
from apo_bench.records.spec import RunSpec
from apo_bench.training import autopsy
from apo_bench.training.agreement import check_metric, check_targets
from apo_bench.training.blame import OF_THE_MACHINE, RuleFailedError
from apo_bench.training.checkpoint import Checkpoints
from apo_bench.training.contract import check_loss, check_rule, check_splits
from apo_bench.training.loop import Loop
from apo_bench.training.result import Training
from apo_bench.training.setup import Setup
from apo_bench.training.stop import Stop
from apo_bench.training.watched import WatchedProblem


def initial_model(task: Task, run: RunSpec, examples: Examples | None = None) -> nn.Module:
    """Make the network with the weights that every competitor of this (task, seed) starts from.

    Args:
        task: The task.
        run: Says the seed.
        examples: What lazy modules take their shapes from; `None` where there is none.

    Raises:
        UsageError: The task makes no `torch.nn.Module`.
    """
    with seeds.preserved_random_state(torch.device("cpu")):
        seeds.seed_everything(seeds.derive(run.seed, run.task, Purpose.INITIALIZATION))
        model = task.model()
        if not isinstance(model, nn.Module):
            raise UsageError(f"task {run.task!r}: model() returns a {type(model).__name__}, no torch.nn.Module")
        if examples is not None and uninitialized(model):  # they draw their weights at the first pass
            initialize(model, [part.cpu() for part in examples.slice(0, task.batch_size).inputs])
        return model


def training_batches(task: Task, run: RunSpec, examples: Examples, *, additional: bool = False) -> BatchStream:
    """Make the stream of batches that every competitor of this (task, seed) sees, or the additional stream."""
    order, augmentation = (
        (Purpose.ADDITIONAL_BATCH_ORDER, Purpose.ADDITIONAL_AUGMENTATION)
        if additional
        else (Purpose.BATCH_ORDER, Purpose.AUGMENTATION)
    )
    return BatchStream(
        examples,
        task.batch_size,
        seeds.generator(run.seed, run.task, order),
        task.augmentation,
        seeds.generator(run.seed, run.task, augmentation),
    )


def train(
    run: RunSpec,
    task: Task,
    competitor: Competitor[Any],
    device: torch.device,
    observe: Callable[[Event], None] = lambda _: None,
    checkpoints: Checkpoints | None = None,
    stop: Stop | None = None,
) -> Training:
    """Train one run from its first step, or from its checkpoint, to its outcome.

    Args:
        run: What to run.
        task: The task named in it.
        competitor: The optimizer named in it.
        device: Where; of the kind named in it.
        observe: Called with each event, off the clock.
        checkpoints: Where to save the run, and to find it when it was interrupted.
        stop: Where it is asked to end early.

    Returns:
        Outcome, scores, cost and curve; all numbers in it are finite. After a divergence a second look, off the clock,
        says where it began.

    Raises:
        UsageError: The device has no such precision, the optimizer cannot follow the schedule, or task or optimizer
            break their contract (`apo_bench.training.contract`).
        DataError: The dataset is missing or damaged.
        Stopped: It was asked to end; what it had is in its checkpoint.
    """
    training = prepare(run, task, competitor, device, observe, stop=stop).run(checkpoints)
    if not isinstance(training.outcome, Diverged):
        return training
    eager = msgspec.structs.replace(run, compile=False)
    first = autopsy.first_non_finite(
        lambda: prepare(eager, task, competitor, device, problem=WatchedProblem),
        training.outcome,
        training.cost.steps,
        checkpoints,
    )
    return dataclasses.replace(training, outcome=msgspec.structs.replace(training.outcome, first=first))


def prepare(
    run: RunSpec,
    task: Task,
    competitor: Competitor[Any],
    device: torch.device,
    observe: Callable[[Event], None] = lambda _: None,
    splits: Splits | None = None,
    *,
    problem: type[Problem] = Problem,
    stop: Stop | None = None,
) -> Loop:
    """Make everything a run needs and warm it up, as `train` does, and take no step.

    Args:
        run: What to run.
        task: The task named in it.
        competitor: The optimizer named in it.
        device: Where; of the kind named in it.
        observe: Called with each event.
        splits: The task's data on the device, where they are shared; loaded otherwise.
        problem: Makes the problem that the rule sees.
        stop: Where the run is asked to end early.

    Raises:
        UsageError: The device has no such precision, the optimizer cannot follow the schedule, or task or optimizer
            break their contract (`apo_bench.training.contract`).
        DataError: The dataset is missing or damaged.
    """
    data, baseline = loaded_above_baseline(lambda: splits or task.dataset.load().to(device), device)
    check_splits(task, data)
    policy = PrecisionPolicy(run.precision, device)
    if run.compile and policy.backend is PrecisionBackend.EMULATED:
        raise UsageError(f"torch.compile cannot see emulated {run.precision}; leave out --compile, or use fp32 here")
    policy.apply_flags()
    model = initial_model(task, run, data.train).to(device)
    if task.channels_last:
        model = model.to(memory_format=torch.channels_last)
    precision = policy.prepare(model)
    batches = training_batches(task, run, data.train)
    additional = training_batches(task, run, data.train, additional=True)
    own = seeds.derive(run.seed, run.task, Purpose.UPDATE_RULE)
    clock = Clock(device)
    seen = problem(model, task.objective, policy, additional.draw, compile=run.compile, seed=own, ledger=clock.ledger)
    _warm_up(seen, task, data)
    hyperparameters = competitor.settings(run.optimizer.hyperparameters)
    if device.type == "cuda":
        rehearse(seen, competitor, hyperparameters, data.train.slice(0, task.batch_size))
    clock.ledger.reset()
    rule = _built(competitor, seen, hyperparameters)
    seeds.seed_everything(seeds.derive(run.seed, run.task, Purpose.NETWORK))
    setup = Setup(
        spec=run,
        task=task,
        problem=seen,
        rule=rule,
        batches=batches,
        additional=additional,
        splits=data,
        facts=_facts(task, model, data, batches),
        precision=precision,
        clock=clock,
        baseline=baseline,
        observe=observe,
    )
    loop = Loop(setup, stop)
    check_rule(run.optimizer.name, rule)
    return loop


def _built(competitor: Competitor[Any], problem: Problem, hyperparameters: Any) -> UpdateRule:
    """Make the rule.

    Raises:
        RuleFailedError: Its own code raised.
    """
    try:
        return competitor.build(problem, hyperparameters)
    except (ApoBenchError, *OF_THE_MACHINE):
        raise
    except Exception as error:
        raise RuleFailedError(0, last_line(error)) from error


def _facts(task: Task, model: nn.Module, splits: Splits, batches: BatchStream) -> TaskFacts:
    """What the record says of the task."""
    target = task.target
    return TaskFacts(
        dataset=task.dataset.name,
        model=task.model_name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        train_examples=len(splits.train),
        validation_examples=len(splits.validation),
        test_examples=len(splits.test),
        batch_size=task.batch_size,
        steps_per_epoch=batches.batches_per_pass,
        metric=task.metric.name,
        direction=task.metric.direction,
        metric_axis=axis if isinstance(axis := getattr(task.metric, "axis", None), Axis) else None,
        metric_signature=task.metric.signature if isinstance(task.metric, CorpusMetric) else None,
        target=target.validation if target else None,
        target_version=target.version if target else None,
        trivial=task.trivial,
    )


def _warm_up(problem: Problem, task: Task, splits: Splits) -> None:
    """Let kernels be chosen, caches filled and the model compiled before the clock runs; leaves no trace."""
    batch = splits.train.slice(0, task.batch_size)
    with problem.lookahead():
        outputs = problem.outputs(batch)
        check_targets(task, outputs, splits)
        loss = problem.loss(outputs, batch)
        check_loss(loss)
        check_metric(task, outputs, batch)
        problem.gradients(loss, "warm-up")
        if problem.compiled:
            with torch.no_grad():  # compiled apart
                problem.outputs(batch)


def rehearse(problem: Problem, competitor: Competitor[Any], hyperparameters: Any, batch: Batch) -> None:
    """Take a step of every kind with a copy that is thrown away; leaves no trace.

    On CUDA a library is loaded when it is first used: without this, whoever factors matrices would pay for cuSOLVER on
    the training clock, and the others for nothing.
    """
    device = problem.precision.device
    devices = [device] if device.type == "cuda" else []
    with (
        seeds.preserved_random_state(device),
        contextlib.suppress(Exception),
    ):  # whatever fails here, the run itself will tell
        copied = Problem(copy.deepcopy(problem.model), problem.objective, problem.precision, lambda: batch)
        rule = competitor.build(copied, hyperparameters)
        for kind in step_kinds(rule):
            prepare_kind(rule, kind)
            rule.step(batch)
        if devices:
            torch.cuda.synchronize(device)
    gc.collect()
    if devices:
        torch.cuda.empty_cache()
