"""The probe: what a step of each competitor costs, side by side, so that what the machine does cancels.

All competitors of a cell live in one process. A *visit* takes one step that is not timed, so that nobody finds
another's data in the caches, and then times a few steps of one kind. A *round* visits every kind of step of every
competitor in a random order and then in the reverse order (A B B A), on one batch for all, and averages the two: a
drift that is linear within the round cancels. The costs of the kinds are composed by how often they occur
(`apo_bench.measure.kinds`), on the reading side (`apo_bench.evidence.step_costs`).
"""

import dataclasses
import gc
import math
import random
import statistics
import time
import traceback
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from apo_bench.data.examples import Batch, Splits
from apo_bench.errors import ApoBenchError, last_line
from apo_bench.measure.card import CardUse
from apo_bench.measure.kinds import Kind, prepare_kind, step_kinds
from apo_bench.measure.load import ForeignLoad
from apo_bench.measure.nvml import open_card
from apo_bench.plugins.optimizer import Competitor
from apo_bench.plugins.task import Task
from apo_bench.problem.rule import StepResult
from apo_bench.records.probe import CompetitorSample, KindSample, Omitted, ProbeSpec, Sample
from apo_bench.records.spec import OptimizerSpec, RunSpec
from apo_bench.training.blame import RuleFailedError
from apo_bench.training.loop import Loop
from apo_bench.training.trainer import prepare

VISIT_SECONDS = 0.03
"""Shortest timed part of a visit, unless one step takes longer."""
_MOST_STEPS = 50
_WARM_UP = 3
_SETTLED_SECONDS = 0.25
"""A step this long needs no untimed step before it: what it finds in the caches is nothing to it."""


def measure(
    spec: ProbeSpec, task: Task, competitors: Mapping[str, Competitor[Any]], device: torch.device, seed: int
) -> Sample:
    """Time the steps of all competitors in this process.

    Args:
        spec: What is probed.
        task: The task named in it.
        competitors: The optimizers named in it, by name.
        device: Where; of the kind named in it.
        seed: Of initial weights, batches and the order of visits; another in each process.

    Returns:
        Times. A competitor that refuses the cell, fails in it, needs more memory than there is, or whose loss stops
        being finite is left out with the reason.

    Raises:
        DataError: The dataset is missing or damaged.
    """
    splits = task.dataset.load().to(device)
    contestants: list[_Contestant] = []
    omitted: list[Omitted] = []
    for optimizer in spec.competitors:
        try:
            run = spec.cell(optimizer).run(seed)
            contestants.append(_set_up(run, task, competitors[optimizer.name], device, splits))
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises, the others are measured
            omitted.append(_omitted(optimizer, error))
    order = random.Random(seed)  # noqa: S311 - nothing secret is drawn
    load, card = ForeignLoad(), CardUse(open_card(device))
    for _ in range(spec.rounds):
        if contestants:
            omitted += _round(contestants, order)
            card.sample()
    foreign = load.cores()
    for contestant in list(contestants):
        if not contestant.finite():
            contestants.remove(contestant)
            message = "its loss stopped being finite while it was probed"
            omitted.append(Omitted(optimizer=contestant.optimizer, message=message))
    return Sample(
        competitors=tuple(contestant.sample() for contestant in contestants),
        omitted=tuple(omitted),
        foreign_cores=foreign,
        foreign_processes=card.foreign_processes,
        throttle_reasons=card.throttle_reasons,
    )


def _set_up(
    run: RunSpec, task: Task, competitor: Competitor[Any], device: torch.device, splits: Splits
) -> "_Contestant":
    """A competitor ready to be timed."""
    contestant = _Contestant(run.optimizer, prepare(run, task, competitor, device, splits=splits), device)
    contestant.warm_up()
    return contestant


def _round(contestants: "list[_Contestant]", order: random.Random) -> list[Omitted]:
    """Visit all kinds of step of everybody, there and back, on one batch; who fails is taken out, and returned."""
    omitted: list[Omitted] = []
    batch = contestants[-1].loop.setup.batches.draw()
    gc.collect()
    visits = [visit for contestant in contestants for visit in contestant.visits]
    order.shuffle(visits)
    for visit in (*visits, *reversed(visits)):
        if visit.contestant not in contestants:
            continue  # it failed a moment ago
        try:
            visit.take(batch)
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises, the others are measured
            contestants.remove(visit.contestant)
            omitted.append(_omitted(visit.contestant.optimizer, error))
    for visit in visits:
        if visit.contestant in contestants:
            visit.close_round()
    return omitted


def _omitted(optimizer: OptimizerSpec, error: Exception) -> Omitted:
    """Why a competitor is left out; what was raised in full goes to the probe's log."""
    if not isinstance(error, ApoBenchError) or isinstance(error, RuleFailedError):
        traceback.print_exception(error)
    return Omitted(optimizer=optimizer, message=last_line(error))


class _Contestant:
    """A competitor in its process."""

    def __init__(self, optimizer: OptimizerSpec, loop: Loop, device: torch.device) -> None:
        self.optimizer = optimizer
        self.loop = loop
        self.rule = loop.setup.rule
        self.device = device
        self.kinds = step_kinds(self.rule)
        self.visits: list[_Visit] = []
        self.last_loss: Tensor | None = None
        self.skipped = 0

    def warm_up(self) -> None:
        """Let all that happens once happen, take each kind of step, and tell from it how many make a visit."""
        batch = self.loop.setup.batches.draw()
        for _ in range(_WARM_UP):
            self.rule.step(batch)
        for kind in self.kinds:
            for _ in range(_WARM_UP):
                seconds, _ = self.timed(kind, batch, 1)
            count = max(1, min(_MOST_STEPS, math.ceil(VISIT_SECONDS / max(seconds, 1e-6))))
            self.visits.append(_Visit(self, kind, count, settle=seconds < _SETTLED_SECONDS))

    def timed(self, kind: Kind, batch: Batch, count: int) -> tuple[float, list[StepResult]]:
        """Seconds of some steps of a kind."""
        self._synchronize()
        start = time.perf_counter()
        results = []
        for _ in range(count):
            prepare_kind(self.rule, kind)
            results.append(self.rule.step(batch))
        self._synchronize()
        seconds = time.perf_counter() - start
        self.loop.setup.clock.ledger.settle()  # as after every block of a run: its events are used again
        return seconds, results

    def finite(self) -> bool:
        """Whether the last loss that counted was finite."""
        return self.last_loss is None or bool(self.last_loss.isfinite())

    def sample(self) -> CompetitorSample:
        """What was measured."""
        return CompetitorSample(
            optimizer=self.optimizer,
            kinds=tuple(
                KindSample(name=visit.kind.name, share=float(visit.kind.share), milliseconds=tuple(visit.rounds))
                for visit in sorted(self.visits, key=lambda visit: self.kinds.index(visit.kind))
            ),
            skipped=self.skipped,
        )

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclasses.dataclass(eq=False)
class _Visit:
    """Visits of one kind of step, over the rounds."""

    contestant: _Contestant
    kind: Kind
    count: int
    settle: bool
    round: list[float] = dataclasses.field(default_factory=list)
    rounds: list[float] = dataclasses.field(default_factory=list)

    def take(self, batch: Batch) -> None:
        contestant = self.contestant
        if self.settle:
            contestant.timed(contestant.kinds[0], batch, 1)
        seconds, results = contestant.timed(self.kind, batch, self.count)
        self.round.append(1000.0 * seconds / self.count)
        contestant.skipped += sum(not result.applied for result in results)
        applied = [result.loss for result in results if result.applied]
        if applied and contestant.finite():  # looked at between visits, off the clock
            contestant.last_loss = applied[-1]

    def close_round(self) -> None:
        self.rounds.append(statistics.fmean(self.round))
        self.round.clear()
