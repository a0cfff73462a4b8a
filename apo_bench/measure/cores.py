"""How many CPU threads a run may use, and what says so: the user, else the cores that this process really has.

The cores are those that the scheduler allows (``taskset``, a cpuset), no more than the CPU time that the control group
grants (a container's quota, of version 1 or 2), and no more than the machine has.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from apo_bench.errors import UsageError, shown

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Those that torch itself reads, in its order."""
MOST_THREADS = 1024
"""More than any machine has for one run, and few enough to be started."""


@dataclasses.dataclass(frozen=True)
class Cores:
    """Some cores or threads.

    Attributes:
        count: How many, at least 1.
        source: What says so: ``--threads``, an environment variable, ``affinity``, ``cgroup quota`` or ``machine``.
    """

    count: int
    source: str


def threads_of_a_run(
    asked: int | None = None, workers: int = 1, variables: Mapping[str, str] = os.environ, root: Path = Path("/")
) -> Cores:
    """The CPU threads of each run: what was asked for, else what the environment says, else the cores' share.

    Args:
        asked: Number given on the command line.
        workers: Runs at a time.
        variables: The environment.
        root: Of the file system.

    Raises:
        UsageError: An environment variable is no number of threads.
    """
    if asked is not None:
        return Cores(asked, "--threads")
    for name in _VARIABLES:
        value = variables.get(name, "").strip()
        if value:
            first = value.partition(",")[0].strip()  # of nested regions; torch has one
            if not re.fullmatch("[0-9]+", first) or not first.strip("0"):
                raise UsageError(
                    f"{name} must be a whole number of at least 1 (got {shown(value)}); correct or unset it"
                )
            if len(first) > len(str(MOST_THREADS)) or int(first) > MOST_THREADS:
                raise UsageError(f"{name} must be at most {MOST_THREADS} (got {shown(value)}); correct or unset it")
            return Cores(int(first), name)
    cores = usable_cores(root)
    return Cores(max(1, cores.count // workers), cores.source)


def usable_cores(root: Path = Path("/")) -> Cores:
    """The cores that this process has, with what bounds them.

    Of a quota that is no whole number the fraction is left out: a thread too many waits for the others' time.
    """
    machine = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    found = Cores(allowed, "affinity") if allowed < machine else Cores(machine, "machine")
    quota = min(_quotas(root), default=None)
    if quota is not None and quota < found.count:
        return Cores(max(1, int(quota)), "cgroup quota")
    return found


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of CPU time that each control group of this process grants, those above it included."""
    mounts = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers:
            if "cpu" in controllers.split(","):
                for folder in _upwards([mounts / controllers, mounts / "cpu"], path):
                    yield from _share(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))
        else:
            for folder in _upwards([mounts, mounts / "unified"], path):
                quota, _, period = _text(folder / "cpu.max").partition(" ")
                yield from _share(quota, period)


def _upwards(mounts: list[Path], path: str) -> Iterator[Path]:
    """The folder of a group and of all above it; a container may see only the last, whatever its own is called."""
    for mount in mounts:
        folder = mount / path.strip("/")
        yield folder
        for above in folder.parents:
            if not above.is_relative_to(mount):
                break
            yield above


def _share(quota: str, period: str) -> Iterator[float]:
    """Microseconds in each period, as cores; a quota of ``max`` or −1 is none."""
    try:
        granted, every = int(quota), int(period)
    except ValueError:
        return
    if granted > 0 and every > 0:
        yield granted / every


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
