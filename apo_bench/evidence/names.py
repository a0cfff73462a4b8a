"""Which runs belong together, and what their competitor is called."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from apo_bench.records.cell import Cell
from apo_bench.records.schedules import Schedule, kind_of
from apo_bench.records.spec import Precision, RunSpec, Scalar


def competitor_names(runs: Iterable[RunSpec]) -> dict[str, str]:
    """Name the competitor of each run as leaderboards do, by ``run_id``; the runs are of one task and one budget."""
    cells = {run.run_id: Cell.of(run) for run in runs}
    names = name_cells(set(cells.values()))
    return {run_id: names[cell] for run_id, cell in cells.items()}


def name_cells(cells: Iterable[Cell]) -> dict[Cell, str]:
    """Name competitors, each alike in all precisions; where an optimizer has several settings, append what differs.

    What differs between precisions only, as a default that an optimizer declares for one of them, is no part of a name.
    With three settings or more, the one value that is more common than any other goes without saying: an ablation's
    rows name the one thing that they vary.
    """
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.optimizer.name].append(cell)
    names = {}
    for optimizer, same in groups.items():
        settings = {cell.optimizer: None for cell in same}
        values: dict[str, Counter[Scalar]] = defaultdict(Counter)
        for setting in settings:
            for name, value in setting.hyperparameters.items():
                values[name][value] += 1
        usual = {name: _most_common(counts) for name, counts in values.items() if len(settings) > 2}  # noqa: PLR2004
        varied, schedules = _varied(same)
        for cell in same:
            differing = [
                f"{name}={value}"
                for name, value in sorted(cell.optimizer.hyperparameters.items())
                if name in varied and (usual.get(name) is None or usual[name] != (value,))
            ]
            if len(schedules) > 1:
                differing.append(_schedule_name(cell.optimizer.schedule, schedules))
            if cell.compile:
                differing.append("compiled")
            names[cell] = f"{optimizer} ({', '.join(differing)})" if differing else optimizer
    return names


def _varied(cells: Iterable[Cell]) -> tuple[set[str], set[Schedule]]:
    """Hyperparameters with several values within one precision; and all schedules, where one has several."""
    values: dict[tuple[Precision, str], set[Scalar]] = defaultdict(set)
    schedules: dict[Precision, set[Schedule]] = defaultdict(set)
    for cell in cells:
        schedules[cell.precision].add(cell.optimizer.schedule)
        for name, value in cell.optimizer.hyperparameters.items():
            values[cell.precision, name].add(value)
    varied = {name for (_, name), found in values.items() if len(found) > 1}
    several = any(len(found) > 1 for found in schedules.values())
    return varied, set().union(*schedules.values()) if several else set()


def _most_common(counts: Counter[Scalar]) -> tuple[Scalar] | None:
    """The value that is more common than any other, in a tuple, since it may be `None`."""
    (value, most), *others = counts.most_common(2)
    return (value,) if all(n < most for _, n in others) else None


def _schedule_name(schedule: Schedule, among: Iterable[Schedule]) -> str:
    """Its kind, with the parameters in which it differs from others of that kind."""
    kin = [other for other in among if type(other) is type(schedule)]
    differing = [
        f"{name}={getattr(schedule, name)}"
        for name in schedule.__struct_fields__
        if any(getattr(other, name) != getattr(schedule, name) for other in kin)
    ]
    return " ".join([kind_of(schedule), *differing])
