"""Records of runs and of probes, made by hand."""

from collections.abc import Mapping
from typing import Any

import msgspec

from apo_bench.evidence.step_costs import StepCost, step_costs
from apo_bench.records.facts import Cost, Direction, Environment, PrecisionBackend, PrecisionFacts, Scores, TaskFacts
from apo_bench.records.outcome import Exhausted, Outcome
from apo_bench.records.probe import SCHEMA as PROBE_SCHEMA
from apo_bench.records.probe import KindTimes, Probed, ProbeRecord, ProbeSpec
from apo_bench.records.run import SCHEMA, Fingerprint, Intent, Role, RunRecord, now
from apo_bench.records.spec import Budget, Device, OptimizerSpec, Precision, RunSpec, Scalar, Scale
from apo_bench.records.suite import TUNING_SEED

PRINT = Fingerprint(harness="h", task="t", optimizer="o", torch="2", data="d")
Times = list[list[float]]
FACTS = TaskFacts(
    dataset="d",
    model="m",
    parameters=10,
    train_examples=100,
    validation_examples=10,
    test_examples=10,
    batch_size=10,
    steps_per_epoch=10,
    metric="accuracy (%)",
    direction=Direction.MAXIMIZE,
)


def record(
    optimizer: str,
    seed: int,
    test: float | None,
    *,
    outcome: Outcome | None = None,
    backend: PrecisionBackend = PrecisionBackend.NATIVE,
    precision: Precision = Precision.FP32,
    facts: TaskFacts = FACTS,
    task: str = "t",
    **hyperparameters: Scalar,
) -> RunRecord:
    return RunRecord(
        schema=SCHEMA,
        intent=Intent(
            spec=RunSpec(
                task=task,
                optimizer=OptimizerSpec(name=optimizer, hyperparameters={"lr": 0.1, **hyperparameters}),
                precision=precision,
                seed=seed,
                budget=Budget(epochs=5),
                device=Device.CPU,
            ),
            suite="s",
            scale=Scale.LOCAL,
            fingerprint=Fingerprint(harness="h", task="t", optimizer="o", torch="2", data="d"),
            role=Role.TUNING if seed == TUNING_SEED else Role.REPORTED,
        ),
        started_at=now(),
        finished_at=now(),
        outcome=outcome or Exhausted(),
        task=facts,
        precision=PrecisionFacts(backend=backend, kept_fp32=()),
        scores=Scores(test=test, validation=test, best_validation=test),
        cost=Cost(
            steps=50,
            skipped_steps=0,
            train_seconds=2.0 + seed,
            eval_seconds=1.0,
            step_ms=4.0 + seed,
            peak_memory_bytes=2**30,
            state_bytes=2048,
        ),
    )


MADE_ON = Environment(
    apo_bench="1", git_sha=None, dirty=None, python="3", torch="2", platform="p", device_name="cpu name", cpu_count=2,
    threads=1, deterministic=False,
)  # fmt: skip


def made_probe(
    kinds: Mapping[str, Mapping[str, tuple[float, Times]]],
    *,
    foreign: float | None = 0.0,
    skipped: int = 0,
    threads: int = 1,
    fingerprint: Fingerprint = PRINT,
) -> ProbeRecord:
    """A record of made-up times: kinds of step by optimizer, each with its share."""
    specs = {name: OptimizerSpec(name=name, hyperparameters={"lr": 0.1}) for name in kinds}
    processes = len(next(iter(next(iter(kinds.values())).values()))[1])
    return ProbeRecord(
        schema=PROBE_SCHEMA,
        spec=ProbeSpec(
            task="t",
            precision=Precision.FP32,
            device=Device.CPU,
            compile=False,
            threads=threads,
            processes=processes,
            rounds=3,
            competitors=tuple(specs.values()),
        ),
        started_at=now(),
        finished_at=now(),
        environment=msgspec.structs.replace(MADE_ON, threads=threads),
        competitors=tuple(
            Probed(
                optimizer=specs[name],
                fingerprint=fingerprint,
                kinds=tuple(
                    KindTimes(name=kind, share=share, milliseconds=tuple(map(tuple, times)))
                    for kind, (share, times) in own.items()
                ),
                skipped=skipped,
            )
            for name, own in kinds.items()
        ),
        foreign_cores=(foreign,) * processes,
    )


def costs_of(probe: ProbeRecord) -> dict[str, StepCost]:
    return {probed.optimizer.name: cost for probed, cost in step_costs(probe)}


def flat(x: float = 8.0, **fields: Any) -> ProbeRecord:
    return made_probe({"sgdm": {"plain": (1.0, [[4.0] * 2] * 3)}, "x": {"plain": (1.0, [[x] * 2] * 3)}}, **fields)
