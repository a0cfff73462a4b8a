"""A store of as many valid, sealed runs as are wanted, of a real suite and with the installed code: no training.

Values are drawn, everything else is what a run of the suite would have written; the files are written without waiting
for the disk, which takes a minute a hundred thousand.
"""

import hashlib
import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from apo_bench.planning.plan import plan
from apo_bench.plugins.registry import optimizers, tasks
from apo_bench.records.events import CurvePoint
from apo_bench.records.facts import Cost, Direction, Environment, PrecisionBackend, PrecisionFacts, Scores, TaskFacts
from apo_bench.records.outcome import Exhausted
from apo_bench.records.run import SCHEMA, Fingerprint, Intent, RunRecord, encode
from apo_bench.records.spec import Device, Precision, RunSpec, Scale
from apo_bench.store.scan import RECORD, Scan
from apo_bench.store.store import Store
from apo_bench.suites import suite

SUITE, SCALE = "classification", Scale.LOCAL
CELLS = 32
"""Of the suite at this scale: four tasks, four optimizers, two precisions."""
FLAGS = {f"backends.some.switch_number_{number}": "True" for number in range(24)}
"""As many as torch has."""
ENVIRONMENT = Environment(
    apo_bench="0.2.0", git_sha="0" * 40, dirty=False, python="3.11.7", torch="2.14.1", platform="Linux-x86_64",
    device_name="a processor", cpu_count=8, threads=1, deterministic=False, flags=FLAGS, co_scheduled=0,
    variables={"OMP_NUM_THREADS": "1"}, packages={"numpy": "2.4.6", "schedulefree": "1.4.1"}, threads_from="--threads",
)  # fmt: skip
FACTS = TaskFacts(
    dataset="fashion-mnist-20k", model="lenet", parameters=61706, train_examples=18000, validation_examples=2000,
    test_examples=10000, batch_size=128, steps_per_epoch=140, metric="accuracy (%)", direction=Direction.MAXIMIZE,
    target=85.0, target_version=1, trivial=10.0,
)  # fmt: skip


def planned(seeds: int) -> Iterator[tuple[RunSpec, Fingerprint]]:
    """The runs of the suite with so many seeds, with the code that is installed."""
    chosen = suite(SUITE, SCALE)
    entries = tuple(msgspec.structs.replace(entry, seeds=(0,)) for entry in chosen.tasks)
    made = plan(msgspec.structs.replace(chosen, tasks=entries), Device.CPU, tasks(), optimizers(), Scan({}))
    for seed in range(seeds):
        for one in made.runs:  # a plan of a hundred thousand takes as long as what is measured
            yield msgspec.structs.replace(one.run, seed=seed if seed < 100 else seed + 1), one.fingerprint


def record(run: RunSpec, fingerprint: Fingerprint, points: int) -> RunRecord:
    """A result of a run, drawn from its identity."""
    drawn = random.Random(run.run_id)  # noqa: S311 - no secret
    level = 80.0 + 8.0 * drawn.random()
    steps = 140 * points
    curve = tuple(
        CurvePoint(
            step=140 * (place + 1), epoch=place + 1.0, seconds=(place + 1) * drawn.random(), train_loss=drawn.random(),
            validation_loss=drawn.random(), validation=level * (place + 1) / points, learning_rate_factor=1.0,
        )
        for place in range(points)
    )  # fmt: skip
    minute, second = divmod(drawn.randrange(3600), 60)
    return RunRecord(
        schema=SCHEMA,
        intent=Intent(spec=run, suite=SUITE, scale=SCALE, fingerprint=fingerprint),
        started_at="2026-01-01T00:00:00.000000+00:00",
        finished_at=f"2026-01-01T01:{minute:02}:{second:02}.{drawn.randrange(10**6):06}+00:00",
        outcome=Exhausted(),
        environment=ENVIRONMENT,
        task=FACTS,
        precision=PrecisionFacts(
            backend=PrecisionBackend.EMULATED if run.precision is Precision.FP16 else PrecisionBackend.NATIVE,
            kept_fp32=(),
        ),
        scores=Scores(test=level, validation=level, best_validation=level),
        cost=Cost(
            steps=steps, skipped_steps=0, train_seconds=steps * 0.01, eval_seconds=1.0, step_ms=9.0 + drawn.random(),
            peak_memory_bytes=2**29, state_bytes=246824, data_seconds=0.02, baseline_memory_bytes=2**28,
            phases={"forward": 0.3, "backward": 0.5, "update": 0.1}, flops_per_step=2.9e8, operator_calls_per_step=58.0,
            bytes_by_purpose={"parameters": 246824, "gradients": 246824, "buffers": 0, "optimizer": 246824},
        ),
        curve=curve,
    )  # fmt: skip


def synthetic_store(path: Path, runs: int, points: int = 5) -> Store:
    """Write a store of so many runs, or a few more: every cell has as many seeds."""
    store = Store(path, create=True)
    for run, fingerprint in planned(math.ceil(runs / CELLS)):
        attempt = hashlib.sha256(run.run_id.encode()).hexdigest()[:8]
        folder = store.path / "runs" / f"{run.run_id}-{attempt}"
        folder.mkdir()
        (folder / RECORD).write_bytes(encode(record(run, fingerprint, points)))
    return store


if __name__ == "__main__":
    begin = time.perf_counter()
    synthetic_store(Path(sys.argv[1]), int(sys.argv[2]))
    print(f"{time.perf_counter() - begin:.1f} s")
