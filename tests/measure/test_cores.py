"""Cores of a process: affinity, then the control group's quota, then the machine; what the user says comes first."""

import os
from pathlib import Path

import pytest
from support.commands import TINY, records_in
from support.shell import Shell

from apo_bench.errors import UsageError
from apo_bench.measure.cores import Cores, threads_of_a_run, usable_cores


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores, all of them allowed."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def _files(root: Path, **texts: str) -> Path:
    for name, text in texts.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return root


def _group(root: Path, line: str, files: dict[str, str]) -> Path:
    return _files(root, **{"proc/self/cgroup": line} | {f"sys/fs/cgroup/{name}": text for name, text in files.items()})


def test_nothing_bounds_a_machine(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == Cores(8, "machine")


def test_what_the_scheduler_allows_bounds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3, 4})
    assert usable_cores(tmp_path) == Cores(3, "affinity")


@pytest.mark.parametrize(
    ("line", "files", "cores"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, Cores(2, "cgroup quota")),
        ("0::/", {"cpu.max": "250000 100000"}, Cores(2, "cgroup quota")),
        ("0::/", {"cpu.max": "50000 100000"}, Cores(1, "cgroup quota")),
        ("0::/", {"cpu.max": "max 100000"}, Cores(8, "machine")),
        ("0::/", {"cpu.max": "1600000 100000"}, Cores(8, "machine")),
        ("0::/", {"cpu.max": ""}, Cores(8, "machine")),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, Cores(3, "cgroup quota")),
        ("0::/a/b", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "600000 100000"}, Cores(4, "cgroup quota")),
        ("0::/docker/of/the/host", {"cpu.max": "300000 100000"}, Cores(3, "cgroup quota")),
        ("0::/a", {"unified/a/cpu.max": "300000 100000"}, Cores(3, "cgroup quota")),
        (
            "4:memory:/m\n3:cpu,cpuacct:/a\n0::/",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "300000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            Cores(3, "cgroup quota"),
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, Cores(8, "machine")),
        (
            "1:cpuacct,cpu:/x",
            {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "50000"},
            Cores(3, "cgroup quota"),
        ),
        ("1:cpuset:/", {"cpuset/cpu.cfs_quota_us": "1", "cpuset/cpu.cfs_period_us": "1"}, Cores(8, "machine")),
        ("nonsense", {}, Cores(8, "machine")),
    ],
)
def test_the_quota_of_a_control_group_bounds_it(tmp_path: Path, line: str, files: dict[str, str], cores: Cores) -> None:
    assert usable_cores(_group(tmp_path, line, files)) == cores


@pytest.mark.parametrize(("allowed", "cores"), [(1, Cores(1, "affinity")), (4, Cores(2, "cgroup quota"))])
def test_the_smaller_of_affinity_and_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int, cores: Cores
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)))
    assert usable_cores(_group(tmp_path, "0::/", {"cpu.max": "200000 100000"})) == cores


@pytest.mark.parametrize(
    ("asked", "workers", "variables", "threads"),
    [
        (None, 1, {}, Cores(8, "machine")),
        (None, 3, {}, Cores(2, "machine")),
        (None, 20, {}, Cores(1, "machine")),
        (3, 2, {"OMP_NUM_THREADS": "5"}, Cores(3, "--threads")),
        (None, 2, {"OMP_NUM_THREADS": "5"}, Cores(5, "OMP_NUM_THREADS")),
        (None, 1, {"OMP_NUM_THREADS": "16"}, Cores(16, "OMP_NUM_THREADS")),
        (None, 1, {"OMP_NUM_THREADS": "4,2"}, Cores(4, "OMP_NUM_THREADS")),
        (None, 1, {"OMP_NUM_THREADS": " "}, Cores(8, "machine")),
        (None, 1, {"MKL_NUM_THREADS": "3"}, Cores(3, "MKL_NUM_THREADS")),
        (None, 1, {"MKL_NUM_THREADS": "3", "OMP_NUM_THREADS": "2"}, Cores(2, "OMP_NUM_THREADS")),
    ],
)
def test_what_the_user_says_comes_first(
    tmp_path: Path, asked: int | None, workers: int, variables: dict[str, str], threads: Cores
) -> None:
    assert threads_of_a_run(asked, workers, variables, tmp_path) == threads


@pytest.mark.parametrize("value", ["two", "0", "-1", "1.5", ",2", "²"])
def test_a_variable_that_is_no_number_is_one_line(tmp_path: Path, value: str) -> None:
    with pytest.raises(UsageError, match=r"OMP_NUM_THREADS must be a whole number of at least 1 \(got "):
        threads_of_a_run(None, 1, {"OMP_NUM_THREADS": value}, tmp_path)


@pytest.mark.slow
def test_the_record_says_how_many_threads_a_run_had_and_why(tiny_shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    one = (*TINY, "--optimizers", "sgd", "--precisions", "fp32")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "1 x 3 threads (OMP_NUM_THREADS)" in tiny_shell(*one).stdout
    assert "1 x 2 threads (--threads)" in tiny_shell(*one, "--threads", "2", "--seeds", "7").stdout
    made = {record["intent"]["spec"]["seed"]: record["environment"] for record in records_in(tiny_shell)}
    assert {made[seed]["threads"]: made[seed]["threads_from"] for seed in made} == {
        3: "OMP_NUM_THREADS",
        2: "--threads",
    }


@pytest.mark.slow
def test_a_process_that_may_use_one_core_plans_for_one(tiny_shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    allowed = os.sched_getaffinity(0)
    if len(allowed) == os.cpu_count() == 1:
        pytest.skip("a machine of one core")
    os.sched_setaffinity(0, {min(allowed)})
    try:
        said = tiny_shell(*TINY, "--optimizers", "sgd", "--precisions", "fp32", "--plan").stdout
    finally:
        os.sched_setaffinity(0, allowed)
    assert "1 x 1 threads (affinity)" in said
