"""Three hundred runs in one command: the last starts as fast as the first."""

import json
import statistics
from datetime import datetime
from pathlib import Path
from unittest import mock

import msgspec
import pytest
from support.commands import store_of
from support.hostile_records import write
from support.opened import opened
from support.records import record
from support.shell import Shell

from apo_bench.records.events import Progress
from apo_bench.store.store import Store

RUNS = 300
COMPARED = 30
WARM_UP = 10
TOLERANCE = 1.5
"""Of the ratio of two medians of 30 on a machine that does other work too."""


def _opened_by_a_run(store: Store, seed: int) -> list[str]:
    """Names of the files that the store opens from a run's claim to its record."""
    made = record("sgdm", 1000 + seed, 80.0)
    with opened() as names:
        with store.claim(made.run_id) as mine:
            assert mine
            store.finish_written(made.run_id)
            assert store.result(made.intent) is None
            workspace = store.begin(made.intent)
            workspace.append(Progress(step=1, train_loss=1.0))
            workspace.finish(made)
        return sorted(Path(name).name.partition("-")[0].replace(made.run_id, "") for name in names())


def test_what_a_run_opens_does_not_grow_with_the_runs_before_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", create=True)
    first = _opened_by_a_run(store, 0)
    with mock.patch("os.fsync"):
        assert all(write(store, record("sgdm", 2000 + place, 80.0)) for place in range(RUNS))
    assert _opened_by_a_run(store, 1) == first
    assert not any("record.json" in name and not name.startswith(".") for name in first)


@pytest.mark.soak
@pytest.mark.timing
@pytest.mark.timeout(3000)
def test_the_last_of_three_hundred_runs_starts_as_fast_as_the_first(tiny_shell: Shell) -> None:
    """From the end of one run to the beginning of the next, in its process: one after the other, by one command."""
    tiny_shell(
        "run", "--suite", "classification", "--scale", "smoke", "--tasks", "tiny", "--epochs", "1", "--optimizers",
        "sgdm", "--precisions", "fp32", "--seeds", f"0-99,200-{RUNS + 99}", "--workers", "1", "--threads", "1",
        "--device", "cpu", timeout=2900,
    )  # fmt: skip
    made = [json.loads(path.read_bytes()) for path in store_of(tiny_shell).glob("runs/*/record.json")]
    assert len(made) == RUNS
    made.sort(key=lambda one: str(one["started_at"]))
    begun, ended = (
        [datetime.fromisoformat(one[name]).timestamp() for one in made] for name in ("started_at", "finished_at")
    )
    between = [after - before for before, after in zip(ended, begun[1:], strict=False)]
    first = statistics.median(between[WARM_UP : WARM_UP + COMPARED])
    last = statistics.median(between[-COMPARED:])
    figures = {"first": first, "last": last, "all": statistics.quantiles(between, n=10)}
    (tiny_shell.folder / "starts.json").write_bytes(msgspec.json.encode(figures))
    assert last < TOLERANCE * first, figures
