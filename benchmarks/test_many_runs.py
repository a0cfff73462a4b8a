"""How long commands take on stores of ten thousand and a hundred thousand runs, and how much memory.

Each is a process of its own, as a user starts it, with one thread. Its processor time is held, the best of three: on a
machine with nothing else to do that is how long the user waits, and on a busy one the clock says nothing.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from synthetic import CELLS, SCALE, SUITE, synthetic_store

if TYPE_CHECKING:
    from resource import struct_rusage

COMMAND = str(Path(sys.executable).with_name("apo-bench"))
GIB = 2**20
"""In units of ``ru_maxrss``."""
PLAN = ("run", "--plan", "--suite", SUITE, "--scale", str(SCALE), "--device", "cpu", "--seeds")
REPORT = ("report", "--suite", SUITE, "--output", "page.md")


def seeds_of(runs: int) -> str:
    """All seeds of a synthetic store."""
    last = -(-runs // CELLS)
    return f"0-99,101-{last}" if last > 100 else f"0-{last - 1}"


@pytest.fixture(scope="module")
def ten_thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ten-thousand")
    synthetic_store(folder / "apo-bench-results", 10_000)
    command(folder, "check", "--suite", SUITE, "--scale", str(SCALE), "--save", "baseline.json")
    return folder


@pytest.fixture(scope="module")
def hundred_thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hundred-thousand")
    synthetic_store(folder / "apo-bench-results", 100_000)
    return folder


def command(folder: Path, *arguments: str) -> "struct_rusage":
    """Run a command to its end; returns what it used."""
    environment = {"OMP_NUM_THREADS": "1"} | {
        key: value for key, value in os.environ.items() if not key.startswith("APO_BENCH")
    }
    started = subprocess.Popen(  # noqa: S603 - our own command
        [COMMAND, *arguments], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    assert started.returncode == 0
    return used


def three_times(benchmark: BenchmarkFixture, task: Callable[[], object]) -> None:
    benchmark.pedantic(task, rounds=3)  # type: ignore[no-untyped-call]


def hold(benchmark: BenchmarkFixture, folder: Path, arguments: tuple[str, ...], seconds: float) -> int:
    """Hold a command to a time; returns its peak of memory."""
    used: list[struct_rusage] = []
    three_times(benchmark, lambda: used.append(command(folder, *arguments)))
    assert min(one.ru_utime + one.ru_stime for one in used) < seconds
    return max(one.ru_maxrss for one in used)


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        (REPORT, 2.0),
        (("export", "--output", "runs.csv"), 3.0),
        (("status",), 2.0),
        (("check", "--baseline", "baseline.json"), 5.0),
        (("compare", "sgdm", "kfac"), 2.0),
    ],
    ids=["report", "export", "status", "check", "compare"],
)
def test_ten_thousand_runs(
    benchmark: BenchmarkFixture, ten_thousand: Path, arguments: tuple[str, ...], seconds: float
) -> None:
    hold(benchmark, ten_thousand, arguments, seconds)


def test_a_plan_of_ten_thousand_runs(benchmark: BenchmarkFixture, ten_thousand: Path) -> None:
    """Held is what the runs add to a plan of one seed without a store.

    That one takes 4.5 s of processor time where 10,000 runs were 5.8 s: 2.2 s to import torch, 1.6 s to import what its
    shapes without numbers need (`torch._dynamo`), the rest to count the networks and to read their sources.
    """
    alone: list[struct_rusage] = []
    whole: list[struct_rusage] = []
    nothing = ("--store", "nothing")

    def both() -> None:
        alone.append(command(ten_thousand, *PLAN, "0", *nothing))
        whole.append(command(ten_thousand, *PLAN, seeds_of(10_000)))

    three_times(benchmark, both)
    fixed, seconds = (min(one.ru_utime + one.ru_stime for one in used) for used in (alone, whole))
    assert seconds - fixed < 2.5


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("arguments", "seconds"), [(REPORT, 15.0), (("status",), 5.0)], ids=["report", "status"])
def test_a_hundred_thousand_runs(
    benchmark: BenchmarkFixture, hundred_thousand: Path, arguments: tuple[str, ...], seconds: float
) -> None:
    assert hold(benchmark, hundred_thousand, arguments, seconds) < GIB


def test_writing_a_store(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """A record takes less than a millisecond, without waiting for the disk."""
    places = iter(range(100))
    three_times(benchmark, lambda: synthetic_store(tmp_path / str(next(places)), 1000))
    begin = time.process_time()
    synthetic_store(tmp_path / "held", 1000)
    assert time.process_time() - begin < 1.5
