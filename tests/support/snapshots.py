"""Snapshots of runs made by hand."""

import random
from collections.abc import Sequence
from typing import Any

import msgspec
from support.records import MADE_ON, made_probe, record

from apo_bench.evidence.check import Quantity, Verdict, check
from apo_bench.evidence.snapshot import snapshot_of
from apo_bench.records.facts import Cost
from apo_bench.records.probe import ProbeRecord
from apo_bench.records.run import RunRecord
from apo_bench.records.snapshot import Snapshot
from apo_bench.records.spec import Scale

SEEDS = (0, 1, 2)


def run(optimizer: str = "kfac", seed: int = 0, score: float | None = 80.0, **changed: Any) -> RunRecord:
    """A run with counted costs."""
    costs = {"flops_per_step": 1e6, "operator_calls_per_step": 50.0, "state_bytes": 2048, "not_counted": None}
    costs |= {name: changed.pop(name) for name in list(changed) if name in costs or name == "bytes_by_purpose"}
    made = record(optimizer, seed, score, **changed)
    assert isinstance(made.cost, Cost)
    return msgspec.structs.replace(made, cost=msgspec.structs.replace(made.cost, **costs), environment=MADE_ON)


def runs(scores: Sequence[float] = (80.0, 81.0, 79.0), **changed: Any) -> list[RunRecord]:
    return [run(seed=seed, score=score, **changed) for seed, score in enumerate(scores)]


def held(records: Sequence[RunRecord], *probes: ProbeRecord) -> Snapshot:
    return snapshot_of("s", Scale.LOCAL, records, probes)


def found(
    before: Sequence[RunRecord], now: Sequence[RunRecord], *arguments: Any
) -> dict[Quantity | None, tuple[Verdict, str]]:
    """Verdict and reason by quantity, for one cell."""
    findings = check(held(before), held(now), *arguments)
    assert len({finding.quantity for finding in findings}) == len(findings)
    return {finding.quantity: (finding.verdict, finding.reason) for finding in findings}


def ratios(source: random.Random, ratio: float, noise: float = 0.02) -> ProbeRecord:
    """A probe of five processes; a reference, and kfac at a ratio to it."""
    own = [[ratio * source.lognormvariate(0.0, noise)] * 3 for _ in range(5)]
    return made_probe({"sgdm": {"plain": (1.0, [[1.0] * 3] * 5)}, "kfac": {"plain": (1.0, own)}})
