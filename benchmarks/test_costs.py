"""How fast our own code is: `tox -e bench`. Compare two revisions with pytest-benchmark's --benchmark-compare."""

from pathlib import Path

import msgspec
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from support.records import record
from support.runs import TASK, run_spec

from apo_bench.data.batches import BatchStream, crop_and_flip
from apo_bench.data.examples import Examples
from apo_bench.evidence.leaderboard import leaderboard
from apo_bench.evidence.table import run_table
from apo_bench.plugins.registry import optimizers
from apo_bench.records.run import Intent
from apo_bench.records.spec import Precision, Scale
from apo_bench.render.leaderboard import leaderboard_markdown
from apo_bench.store.store import Store
from apo_bench.training.loop import BLOCK
from apo_bench.training.trainer import prepare

RECORDS = [
    record(name, seed, 80.0 + seed / 100, task=f"task-{task}")
    for name in ("sgdm", "adam", "kfac", "apo-p", "sgd")
    for task in range(20)
    for seed in range(10)
]


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
@pytest.mark.parametrize("optimizer", optimizers().names())
def test_a_block_of_steps(benchmark: BenchmarkFixture, optimizer: str, precision: Precision) -> None:
    """A network with hardly any arithmetic: what is left is the harness and the optimizer."""
    torch.set_num_threads(1)
    run = msgspec.structs.replace(run_spec(optimizer, precision=precision), budget=run_spec(epochs=1e6).budget)
    loop = prepare(run, TASK, optimizers()[optimizer].load(), torch.device("cpu"))
    benchmark(lambda: loop.block(BLOCK))


def test_an_augmented_batch(benchmark: BenchmarkFixture) -> None:
    torch.set_num_threads(1)
    examples = Examples((torch.randn(5000, 3, 32, 32),), torch.zeros(5000, dtype=torch.int64))
    stream = BatchStream(examples, 128, torch.Generator(), crop_and_flip(4), torch.Generator())
    benchmark(stream.draw)


def test_scanning_a_store_of_1000_runs(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    store = Store(tmp_path / "store", create=True)
    for made in RECORDS:
        intent = Intent(spec=made.spec, suite=made.suite, scale=made.scale, fingerprint=made.fingerprint)
        store.begin(intent).finish(made)
    scan = benchmark(store.scan)
    assert len(scan.records) == len(RECORDS)


def test_a_leaderboard_of_1000_runs(benchmark: BenchmarkFixture) -> None:
    page = benchmark(lambda: leaderboard_markdown(leaderboard("s", Scale.LOCAL, RECORDS)))
    assert "task-19" in page


def test_a_table_of_1000_runs(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(lambda: run_table(RECORDS))) == len(RECORDS)
