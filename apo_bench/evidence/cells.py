"""The filter between records and statements: which of a store's records make up a cell, of what code, on what machine.

Everything that is said of several runs is said of what `cells` returns. A cell is of one fingerprint, code and data:
that of the installed code where it has results of it, else that of its newest result. What it costs is of one machine.
What is left out is counted, and what is of other code is marked.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from apo_bench.evidence.quantities import is_emulated
from apo_bench.records.cell import Cell, Contender
from apo_bench.records.outcome import Diverged, Failed, Undefined
from apo_bench.records.run import Fingerprint, Role, RunRecord
from apo_bench.records.spec import Device, RunSpec, Scale

ANY_DATA = ""
"""In place of a digest: the data of a fingerprint is not known, and fits any."""
Installed = Callable[[RunSpec], Fingerprint | None]
"""With which code a run would be made now; `None` where that cannot be told."""


class Made(StrEnum):
    """Of which code the runs of a cell are."""

    INSTALLED = "installed"
    OTHER = "other"
    UNKNOWN = "unknown"


class Machine(NamedTuple):
    """What times are compared on.

    Attributes:
        device_name: The card, or the processor.
        threads: CPU threads.
    """

    device_name: str
    threads: int

    def __str__(self) -> str:
        return f"{self.device_name}, {self.threads} thread{'' if self.threads == 1 else 's'}"


def machine_of(record: RunRecord) -> Machine | None:
    """Where a run was made; `None` where the record does not say."""
    made = record.environment
    return None if made is None else Machine(made.device_name, made.threads)


@dataclasses.dataclass(frozen=True)
class Runs:
    """A cell: its key, and the runs that count, all of one fingerprint.

    Attributes:
        cell: The key: what they are runs of.
        records: One for each seed that has one.
        planned: How many a plan holds; `None` without a plan, or outside of it.
        made: Of which code they are.
        left_out: Seeds that have a result of other code or data only.
        machine: On which times count; `None` where the records do not say.
    """

    cell: Cell
    records: tuple[RunRecord, ...]
    planned: int | None = None
    made: Made = Made.UNKNOWN
    left_out: int = 0
    machine: Machine | None = None

    @cached_property
    def results(self) -> tuple[RunRecord, ...]:
        """Those that say something about the competitor."""
        return tuple(record for record in self.records if record.is_result)

    @cached_property
    def by_seed(self) -> dict[int, RunRecord]:
        """Results by seed, in the order of the seeds."""
        return {record.spec.seed: record for record in sorted(self.results, key=lambda record: record.spec.seed)}

    @cached_property
    def failures(self) -> tuple[RunRecord, ...]:
        """Runs without a result, whatever the reason."""
        return tuple(record for record in self.records if not record.is_result)

    @property
    def fingerprint(self) -> Fingerprint | None:
        """Code and data of all its runs; `None` of none."""
        return self.records[0].fingerprint if self.records else None

    @cached_property
    def diverged(self) -> int:
        """How many of them diverged."""
        return sum(isinstance(record.outcome, Diverged) for record in self.results)

    @cached_property
    def failed(self) -> int:
        """In how many the optimizer raised."""
        return sum(isinstance(record.outcome, Failed) for record in self.records)

    @cached_property
    def undefined(self) -> int:
        """How many have no score because their metric is undefined."""
        return sum(isinstance(record.outcome, Undefined) for record in self.records)

    @property
    def has_mean(self) -> bool:
        """Whether a mean over those with a score would not flatter.

        It would where some diverged, are undefined, or the optimizer raised in some.
        """
        return not (self.diverged or self.undefined or self.failed)

    @cached_property
    def tests(self) -> dict[int, float]:
        """Test scores by seed."""
        return {seed: record.scores.test for seed, record in self.by_seed.items() if record.scores.test is not None}

    @property
    def is_emulated(self) -> bool:
        """Whether 16-bit arithmetic was emulated."""
        return any(map(is_emulated, self.results))

    def is_comparable(self, other: "Runs") -> bool:
        """Whether a difference is one of the competitors: both of one harness, task, torch and data."""
        return self.fingerprint is None or other.fingerprint is None or _ground(self) == _ground(other)

    @cached_property
    def timed(self) -> tuple[RunRecord, ...]:
        """Results whose times and memory count: those of the machine, and none where 16 bit is emulated."""
        if self.is_emulated:
            return ()
        return tuple(record for record in self.results if machine_of(record) == self.machine)

    @property
    def elsewhere(self) -> int:
        """Results that were made on another machine, so that only their scores count."""
        return 0 if self.is_emulated else len(self.results) - len(self.timed)


def _ground(runs: Runs) -> tuple[str, ...] | None:
    made = runs.fingerprint
    return None if made is None else (made.harness, made.task, made.torch, made.data)


@dataclasses.dataclass(frozen=True)
class Cells:
    """What of a store counts for a suite at one scale.

    Attributes:
        suite: Its name.
        scale: Its scale.
        cells: In the order in which they are planned or first have a record.
        tries: Runs that try settings; one of each.
        left_out: Runs that are not among these, because they have results of other code or data only.
    """

    suite: str
    scale: Scale
    cells: tuple[Runs, ...]
    tries: tuple[RunRecord, ...] = ()
    left_out: int = 0

    @cached_property
    def reported(self) -> tuple[RunRecord, ...]:
        """The records of all cells, failures included."""
        return tuple(record for runs in self.cells for record in runs.records)

    @property
    def records(self) -> tuple[RunRecord, ...]:
        """Everything that counts: runs that try settings, and reported ones."""
        return (*self.tries, *self.reported)

    @property
    def outdated(self) -> tuple[Runs, ...]:
        """Cells that have no result of the installed code, and are of another version."""
        return tuple(runs for runs in self.cells if runs.made is Made.OTHER)

    @property
    def machines(self) -> dict[Device, Machine]:
        """The machine whose times count, for each kind of device."""
        return {runs.cell.device: runs.machine for runs in self.cells if runs.machine is not None}

    @property
    def elsewhere(self) -> Counter[str]:
        """Runs of which only the scores count, by the machine that they were made on."""
        found: Counter[str] = Counter()
        for runs in self.cells:
            if not runs.is_emulated:
                others = (record for record in runs.results if machine_of(record) != runs.machine)
                found.update(str(machine_of(record) or "unknown") for record in others)
        return found


def cells(
    records: Iterable[RunRecord],
    suite: str,
    scale: Scale,
    *,
    code: Installed | None = None,
    machine: Machine | None = None,
    planned: Sequence[RunSpec] | None = None,
) -> Cells:
    """Choose what counts.

    A run of which several records are of the cell's fingerprint counts with its newest result, else with its newest
    failure. Whether runs that try settings are of one fingerprint is decided for each competitor.

    Args:
        records: All that there are, oldest first (`apo_bench.store.scan.Scan.of`); others than the suite's are passed
            over.
        suite: Its name.
        scale: Its scale.
        code: The code that is installed; without it, each cell is of the code of its newest result.
        machine: Whose times count; by default the one on which most results of a kind of device were made.
        planned: Runs that are to have a cell, with a record or without.
    """
    attempts: dict[Cell, list[RunRecord]] = {Cell.of(run): [] for run in planned or ()}
    tries: dict[Contender, list[RunRecord]] = defaultdict(list)
    known: dict[str, Cell] = {}  # a cell is hashed slowly
    for record in records:
        if (record.suite, record.scale) != (suite, scale):
            continue
        run_id = record.run_id
        cell = known.get(run_id) or known.setdefault(run_id, Cell.of(record.spec))
        if record.role is Role.TUNING:
            tries[cell.contender].append(record)
        else:
            attempts.setdefault(cell, []).append(record)
    sizes = Counter(map(Cell.of, planned or ()))
    found = []
    for cell, own in attempts.items():
        chosen, made, left_out = _of_one_code(own, code)
        found.append(Runs(cell, chosen, sizes[cell] or None, made, left_out))
    tried = [_of_one_code(own, code) for own in tries.values()]
    machines = {} if machine is not None else _most_common(found)
    return Cells(
        suite=suite,
        scale=scale,
        cells=tuple(
            dataclasses.replace(runs, machine=machine if machine is not None else machines.get(runs.cell.device))
            for runs in found
        ),
        tries=tuple(record for chosen, _, _ in tried for record in chosen),
        left_out=sum(runs.left_out for runs in found) + sum(left_out for _, _, left_out in tried),
    )


def _of_one_code(records: Sequence[RunRecord], code: Installed | None) -> tuple[tuple[RunRecord, ...], Made, int]:
    """Choose the records of one fingerprint.

    Args:
        records: Of several runs, oldest first.
        code: The code that is installed.

    Returns:
        One record a run, of which code they are, and how many runs have a result of other code or data only.
    """
    if not records:
        return (), Made.UNKNOWN, 0
    present = None if code is None else code(records[0].spec)
    telling = [record for record in records if _tells(record)]
    fitting: list[RunRecord] = []
    if present is not None:
        fit = {made for made in {record.fingerprint for record in telling} if _fits(made, present)}
        fitting = [record for record in telling if record.fingerprint in fit]
    chosen = (fitting or telling or records)[-1].fingerprint
    kept: dict[str, RunRecord] = {}
    for record in records:
        old = kept.get(record.run_id)
        if record.fingerprint == chosen and (old is None or record.is_result or not old.is_result):
            kept[record.run_id] = record
    left_out = len({record.run_id for record in telling if record.is_result} - kept.keys())
    made = Made.UNKNOWN if present is None else Made.INSTALLED if fitting else Made.OTHER
    return tuple(kept.values()), made, left_out


def _most_common(found: Iterable[Runs]) -> dict[Device, Machine | None]:
    """The machine on which most results of each kind of device were made; of as many, the one that came last."""
    counts: dict[Device, Counter[Machine | None]] = defaultdict(Counter)
    for runs in found:
        if not runs.is_emulated:
            counts[runs.cell.device].update(map(machine_of, runs.results))
    return {device: max(reversed(own), key=lambda one: own[one]) for device, own in counts.items() if own}


def is_installed(record: RunRecord, code: Installed) -> bool | None:
    """Whether a record is of the installed code; `None` where that cannot be told."""
    present = code(record.spec)
    return None if present is None else _fits(record.fingerprint, present)


def _tells(record: RunRecord) -> bool:
    """Whether a record says something about the competitor: then none of earlier code stands in for it."""
    return record.is_result or isinstance(record.outcome, Failed | Undefined)


def _fits(made: Fingerprint, present: Fingerprint) -> bool:
    changes = made.changes(present)
    return not changes or (changes == ("data",) and present.data == ANY_DATA)
