"""Two results, compared: of two stores, published tables or revisions cell by cell, or two optimizers of one store.

Each quantity of each table (a task on a device with a budget) is a family: its intervals hold together at 95 %, and
their number is that of the cells that are compared there. Two versions of one cell are compared seed by seed (paired),
two optimizers are not (`apo_bench.evidence.families`). What is counted has no noise: any difference is one. What is
equal to the last bit is called identical, and nothing else is.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from apo_bench.evidence.cells import Cells, Runs
from apo_bench.evidence.contrasts import resolve
from apo_bench.evidence.findings import Finding, Pair, Row, row_of
from apo_bench.evidence.names import name_cells
from apo_bench.evidence.sides import COMPARED, Code, Entry, Side, entry_of, made_of
from apo_bench.evidence.step_costs import Probes
from apo_bench.records.cell import Cell, Contender, Workload
from apo_bench.records.contrast import Contrast, Selector


@dataclasses.dataclass(frozen=True)
class Alone:
    """A cell that is not compared.

    Attributes:
        side: ``A`` or ``B``, where it is on one side only; empty otherwise.
        workload: Its task, device and budget.
        name: The competitor.
        reason: Why it is not compared; empty where the other side has nothing of the kind.
    """

    side: str
    workload: Workload
    name: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """All comparisons on a task with its device and budget.

    Attributes:
        workload: Which.
        metric: Name of the task's metric.
        pairs: How many pairs of cells are compared: the size of each quantity's family.
        rows: In the order of the pairs and of the quantities.
    """

    workload: Workload
    metric: str
    pairs: int
    rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two results, compared.

    Attributes:
        a: What the user called the one.
        b: What the user called the other, of which findings speak.
        made: Of which code and machines A and B are, one line each.
        paired: Whether seed by seed.
        tables: One a task.
        identical: Names of the cells in which everything is equal to the last bit, and that have equal seeds.
        changed: In how many pairs each part of the code, or the data, differs; `None` where a side does not say.
        pairs: How many there are.
        only: What is not compared.
        left_out: Runs of A and of B that do not count, of other code or data than the rest of their cell.
    """

    a: str
    b: str
    made: tuple[tuple[str, ...], tuple[str, ...]]
    paired: bool
    tables: tuple[Table, ...]
    identical: tuple[str, ...]
    changed: Mapping[str, int] | None
    pairs: int
    only: tuple[Alone, ...]
    left_out: tuple[int, int] = (0, 0)

    @property
    def rows(self) -> tuple[Row, ...]:
        """All comparisons."""
        return tuple(row for table in self.tables for row in table.rows)

    @property
    def counts(self) -> Counter[Finding]:
        """How many of each finding."""
        return Counter(row.finding for row in self.rows)

    @property
    def families(self) -> int:
        """Families of intervals in which something could be claimed falsely."""
        intervals = (Finding.WORSE, Finding.BETTER, Finding.UNDECIDED)
        noisy = (
            (table.workload, row.quantity.name)
            for table in self.tables
            for row in table.rows
            if row.finding in intervals and not row.quantity.exact and row.estimate.low is not None
        )
        return len(set(noisy))


def compare_sides(a: Side, b: Side) -> Comparison:
    """Compare two stores, published tables or revisions, cell by cell and seed by seed."""
    names = _names({**a.entries, **b.entries})
    pairs = [
        Pair(names[cell], entry, b.entries[cell])
        for cell, entry in a.entries.items()
        if cell in b.entries and entry.seeds & b.entries[cell].seeds
    ]
    return _comparison(a, b, pairs, _alone(a, b, names), paired=True)


def _alone(a: Side, b: Side, names: Mapping[Cell, str]) -> list[Alone]:
    """Cells that have no counterpart; where the other side has another setting in its place, with what differs."""
    found, replaced = [], set()
    theirs: dict[Contender, list[Cell]] = {}
    for cell in b.entries.keys() - a.entries.keys():
        theirs.setdefault(cell.contender, []).append(cell)
    mine = Counter(cell.contender for cell in a.entries.keys() - b.entries.keys())
    for cell, entry in a.entries.items():
        other = b.entries.get(cell)
        if other is not None and entry.seeds and other.seeds:
            if not entry.seeds & other.seeds:
                found.append(Alone("", cell.workload, names[cell], "no seed in common"))
            continue
        same = theirs.get(cell.contender, [])
        if len(same) == mine[cell.contender] == 1 and other is None:
            replaced.add(same[0])
            name = f"{cell.optimizer.name} {cell.precision}"
            found.append(Alone("", cell.workload, name, f"another setting in B: {_changes(cell, same[0])}"))
        elif entry.seeds:
            found.append(Alone("A", cell.workload, names[cell]))
    for cell, entry in b.entries.items():
        matched = cell in a.entries and a.entries[cell].seeds
        if entry.seeds and not matched and cell not in replaced:
            found.append(Alone("B", cell.workload, names[cell]))
    return found


def _changes(before: Cell, after: Cell) -> str:
    """In what two settings of one optimizer differ."""
    old, new = before.optimizer.hyperparameters, after.optimizer.hyperparameters
    said = [
        f"{name} {old.get(name, 'absent')} → {new.get(name, 'absent')}"
        for name in sorted(old.keys() | new.keys())
        if name not in old or name not in new or old[name] != new[name]
    ]
    if before.optimizer.schedule != after.optimizer.schedule:
        said.append(f"schedule {before.optimizer.schedule} → {after.optimizer.schedule}")
    return ", ".join(said)


def compare_optimizers(a: Selector, b: Selector, held: Iterable[Cells], probes: Probes) -> Comparison:
    """Compare two optimizers of one store wherever either has a run; unpaired."""
    wanted = Contrast(name="compare", left=a, right=b)
    pairs: dict[tuple[Cell, Cell], Pair] = {}
    runs: tuple[list[Runs], list[Runs]] = ([], [])
    only: dict[Alone, None] = {}
    for one in held:
        names = _titles(runs.cell for runs in one.cells)
        for place in resolve(wanted, one):
            if place.left is None or place.right is None or place.reason:
                side = "A" if place.left and not place.right else "B" if place.right and not place.left else ""
                only[Alone(side, place.workload, str(place.precision), place.reason or "")] = None
                continue
            left, right = entry_of(place.left, probes), entry_of(place.right, probes)
            titles = dict.fromkeys(names[entry.cell] for entry in (left, right))
            formats = dict.fromkeys(str(entry.cell.precision) for entry in (left, right))
            pairs[left.cell, right.cell] = Pair(f"{' → '.join(titles)} {' → '.join(formats)}", left, right)
            runs[0].append(place.left)
            runs[1].append(place.right)
    sides = [
        Side(selector.words, {}, made_of(own), sum(runs.left_out for runs in own))
        for selector, own in zip((a, b), runs, strict=True)
    ]
    return _comparison(sides[0], sides[1], list(pairs.values()), list(only), paired=False)


def _names(cells: Iterable[Cell]) -> dict[Cell, str]:
    """What cells are called on their tasks, with their precision."""
    return {cell: f"{name} {cell.precision}" for cell, name in _titles(cells).items()}


def _titles(cells: Iterable[Cell]) -> dict[Cell, str]:
    """What competitors are called on each task."""
    tables: dict[Workload, list[Cell]] = {}
    for cell in cells:
        tables.setdefault(cell.workload, []).append(cell)
    return {cell: name for own in tables.values() for cell, name in name_cells(own).items()}


def _comparison(a: Side, b: Side, pairs: Sequence[Pair], only: Sequence[Alone], *, paired: bool) -> Comparison:
    tables: dict[Workload, list[Pair]] = {}
    for pair in pairs:
        tables.setdefault(pair.left.cell.workload, []).append(pair)
    made = []
    for workload, own in sorted(tables.items()):
        rows = [
            row
            for pair in sorted(own, key=lambda one: one.name)
            for name in COMPARED
            if (row := row_of(pair.on_common_seeds() if paired else pair, name, len(own), paired=paired)) is not None
        ]
        metric = next((entry.metric for pair in own for entry in (pair.right, pair.left) if entry.metric), "")
        made.append(Table(workload, metric, len(own), tuple(rows)))
    codes = [(pair.left.code, pair.right.code) for pair in pairs]
    return Comparison(
        a=a.name,
        b=b.name,
        made=(a.made, b.made),
        paired=paired,
        tables=tuple(made),
        identical=tuple(
            f"{pair.left.cell.task}, {pair.name}" for pair in pairs if paired and _is_identical(pair.left, pair.right)
        ),
        changed=_changed(codes),
        pairs=len(pairs),
        only=tuple(only),
        left_out=(a.left_out, b.left_out),
    )


def _changed(codes: Sequence[tuple[Code | None, Code | None]]) -> dict[str, int] | None:
    if any(left is None or right is None for left, right in codes):
        return None
    found: Counter[str] = Counter()
    for left, right in codes:
        if left is not None and right is not None:
            found.update(part for part in Code._fields if getattr(left, part) != getattr(right, part))
    return {part: found[part] for part in Code._fields if found[part]}


def _is_identical(left: Entry, right: Entry) -> bool:
    """Whether all that a deterministic run repeats is equal in all seeds, where both sides say it."""
    if left.repeated.keys() != right.repeated.keys() or left.lost != right.lost or not left.repeated:
        return False
    return all(
        value == other
        for seed, one in left.repeated.items()
        for name, value in one.items()
        if value is not None and (other := right.repeated[seed].get(name)) is not None
    )
