"""Which runs belong together, and what their competitor is called."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from apo_bench.records.cell import Cell
from apo_bench.records.schedules import Schedule
from apo_bench.records.spec import Precision, RunSpec, Scalar


def competitor_names(runs: Iterable[RunSpec]) -> dict[str, str]:
    """Name the competitor of each run as leaderboards do, by ``run_id``; the runs are of one task and one budget."""
    cells = {run.run_id: Cell.of(run) for run in runs}
    names = name_cells(set(cells.values()))
    return {run_id: names[cell] for run_id, cell in cells.items()}


def name_cells(cells: Iterable[Cell]) -> dict[Cell, str]:
    """Name competitors; where an optimizer appears with several settings, append what differs.

    With three settings or more, the one value that is more common than any other goes without saying: an ablation's
    rows name the one thing that they vary.
    """
    groups: dict[tuple[str, Precision], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.optimizer.name, cell.precision].append(cell)
    names = {}
    for (optimizer, _), same in groups.items():
        values: dict[str, Counter[Scalar]] = defaultdict(Counter)
        for cell in same:
            for name, value in cell.optimizer.hyperparameters.items():
                values[name][value] += 1
        usual = {name: _most_common(counts) for name, counts in values.items() if len(same) > 2}  # noqa: PLR2004
        schedules = {cell.optimizer.schedule for cell in same}
        for cell in same:
            differing = [
                f"{name}={value}"
                for name, value in sorted(cell.optimizer.hyperparameters.items())
                if len(values[name]) > 1 and (usual.get(name) is None or usual[name] != (value,))
            ]
            if len(schedules) > 1:
                differing.append(_schedule_name(cell.optimizer.schedule, schedules))
            if cell.compile:
                differing.append("compiled")
            names[cell] = f"{optimizer} ({', '.join(differing)})" if differing else optimizer
    return names


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
    return " ".join([type(schedule).__name__.lower(), *differing])
