"""Records as figures: training curves and learning rates. Every number drawn stands in a record."""

import dataclasses
import io
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from apo_bench.evidence.names import competitor_names
from apo_bench.numbers import mean
from apo_bench.records.cell import Cell, Workload
from apo_bench.records.events import CurvePoint
from apo_bench.records.facts import Direction
from apo_bench.records.outcome import Diverged
from apo_bench.records.run import Role, RunRecord
from apo_bench.records.spec import Precision, Scale, check_name, is_name
from apo_bench.text import printable, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that colour-blind readers tell apart (Okabe and Ito, 2008); without yellow, which is faint on white."""
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)))
"""With more competitors than colours, the colours come again in another stroke."""
_DECADES = 100.0
_SHOWN = 1e250
_RATE = "learning_rate"
_FONT = "DejaVu Sans"
_LONGEST_LABEL = 80
_STYLE: Any = {
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.dpi": 150,
    "font.family": _FONT,
    "font.size": 9,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "apo-bench",
    "text.parse_math": False,
}

_Value = Callable[[RunRecord, CurvePoint], float | None]
_Trace = list[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """One figure in both forms.

    Attributes:
        name: File name without its ending.
        png: Raster, 150 dots an inch.
        svg: Vectors; equal records give equal bytes.
    """

    name: str
    png: bytes
    svg: bytes


def drawings(suite: str, scale: Scale, records: Sequence[RunRecord]) -> Iterator[Drawing]:
    """Draw each budget of every task of a suite: training curves, and learning rates where something moves them.

    Args:
        suite: Its name.
        scale: Its scale.
        records: The newest record of each run; those of other suites and scales, and tuning runs, are left out.

    Raises:
        UsageError: A suite or task name in a record is not fit for a file name; after all others are drawn.
    """
    check_name(suite, "suite")
    groups: dict[Workload, list[RunRecord]] = defaultdict(list)
    for record in records:
        if (record.suite, record.scale) != (suite, scale) or record.role is not Role.REPORTED:
            continue
        if record.is_result and record.curve:
            groups[Cell.of(record.spec).workload].append(record)
    devices = {workload.device for workload in groups}
    budgets = Counter((workload.task, workload.device) for workload in groups)
    unfit: list[str] = []
    for (task, device, epochs), own in sorted(groups.items()):
        if not is_name(task):
            unfit.append(task)
            continue
        name = f"{suite}-{scale}-{task}"
        if len(devices) > 1:
            name = f"{name}-{device}"
        if budgets[task, device] > 1:
            name = f"{name}-{epochs:g}-epochs"
        yield _drawn(name, lambda own=own: curves(own))  # type: ignore[misc]
        if any(_moves(record) for record in own):
            yield _drawn(f"{name}-learning-rates", lambda own=own: learning_rates(own))  # type: ignore[misc]
    for task in unfit:
        check_name(task, "task")


def curves(records: Sequence[RunRecord]) -> "Figure":
    """Training loss and validation metric against steps, for runs of one task and budget, a column for each precision.

    A thick line is the mean over the seeds that are there, each seed a thin one. The mean ends where the first of its
    runs ends; a cross marks the last finite point of a diverged run.
    """
    facts = next((record.task for record in records if record.task), None)
    metric = f"validation {facts.metric}" if facts else "validation metric"
    minimized = facts is not None and facts.direction is Direction.MINIMIZE
    return _panels(
        records,
        [("training loss", lambda _, point: point.train_loss), (metric, lambda _, point: point.validation)],
        [True, minimized],
    )


def learning_rates(records: Sequence[RunRecord]) -> "Figure":
    """Learning rate against steps for runs of one task and budget, a panel a precision.

    The rate is the rule's own reading where there is one, otherwise the declared one times the schedule's factor.
    """
    return _panels(records, [("learning rate", _rate)], [None])


def _rate(record: RunRecord, point: CurvePoint) -> float | None:
    read = [value for name, value in point.readings.items() if name == _RATE or name.startswith(f"{_RATE}_")]
    if read:
        # the mean of logarithms may be rounded to more than the largest of the rates
        largest = math.log(max(read)) if min(read) > 0 else None
        return None if largest is None else math.exp(min(largest, mean([math.log(rate) for rate in read])))
    declared = record.spec.optimizer.hyperparameters.get("lr")
    if isinstance(declared, bool) or not isinstance(declared, int | float):
        return None
    rate = declared * point.learning_rate_factor
    return rate if 0 < rate < math.inf else None  # a logarithm shows no 0


def _moves(record: RunRecord) -> bool:
    """Whether the rule reports a learning rate, or the schedule's factor is not 1 throughout."""
    return any(
        point.learning_rate_factor != 1.0 or any(name.startswith(_RATE) for name in point.readings)
        for point in record.curve
    )


def _drawn(name: str, make: Callable[[], "Figure"]) -> Drawing:
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()  # not the user's own style: equal records give equal figures
        mpl.rcParams.update(_STYLE)
        figure = make()
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Drawing(name, png.getvalue(), svg.getvalue())


def _competitors(records: Sequence[RunRecord], names: Mapping[str, str]) -> dict[str, list[RunRecord]]:
    """Runs by competitor, which has the name that it has in leaderboards."""
    groups: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        groups[record.spec.optimizer.name, names[record.run_id]].append(record)
    competitors: dict[str, list[RunRecord]] = {}
    for (_, label), runs in sorted(groups.items()):
        competitors.setdefault(label, []).extend(runs)  # a name may be what another is called with its settings
    return competitors


def _label(text: str) -> str:
    """A name as a text of a figure: one line, not too long, without characters that the font lacks."""
    from matplotlib.font_manager import findfont, get_font

    held = get_font(findfont(_FONT)).get_charmap()
    shown = shortened(printable(text), _LONGEST_LABEL)
    return "".join(one if ord(one) in held else one.encode("ascii", "backslashreplace").decode() for one in shown)


def _panels(
    records: Sequence[RunRecord], rows: Sequence[tuple[str, _Value]], logarithmic: Sequence[bool | None]
) -> "Figure":
    """A grid of panels: a row a quantity, a column a precision; `True` asks for a logarithmic axis where it helps."""
    from matplotlib.figure import Figure

    precisions = [precision for precision in Precision if any(run.spec.precision is precision for run in records)]
    names = competitor_names(record.spec for record in records)
    # over all precisions, so that a competitor keeps its colour
    styles = _styles(sorted({run.spec.optimizer.name for run in records}))
    figure = Figure(figsize=(1.9 + 4.4 * len(precisions), 0.9 + 2.2 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(precisions), squeeze=False, sharex="col", sharey="row")
    handles: dict[str, Any] = {}
    for column, precision in enumerate(precisions):
        competitors = _competitors([run for run in records if run.spec.precision is precision], names)
        for place, (label, value) in enumerate(rows):
            axes = grid[place][column]
            for name, runs in competitors.items():
                style = styles[name] if name in styles else styles.setdefault(name, _style(len(styles)))
                line = _competitor(axes, [_trace(run, value) for run in runs], _lost(runs), style)
                handles.setdefault(name, line)
            if column == 0:
                axes.set_ylabel(_label(label))
            if place == 0:
                axes.set_title(str(precision))
        grid[-1][column].set_xlabel("steps")
        grid[-1][column].set_xlim(left=0)
    for axes_row, (_, value), wish in zip(grid, rows, logarithmic, strict=True):
        _scale(axes_row[0], [y for run in records for _, y in _trace(run, value)], logarithmic=wish)
    figure.suptitle(
        _label(f"{records[0].spec.task} on {records[0].spec.device}"), x=0.01, ha="left", fontsize=11, weight="bold"
    )
    shown = {name: line for name, line in handles.items() if line is not None}
    figure.legend(list(shown.values()), list(map(_label, shown)), loc="outside right upper")
    return figure


def _styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {name: _style(place) for place, name in enumerate(names)}


def _style(place: int) -> dict[str, Any]:
    again, colour = divmod(place, len(_OKABE_ITO))
    return {"color": _OKABE_ITO[colour], "linestyle": _DASHES[again % len(_DASHES)]}


def _trace(run: RunRecord, value: _Value) -> _Trace:
    """Points of a curve; a number that no axis with its margins can show is left out."""
    values = ((point.step, value(run, point)) for point in run.curve)
    return [(step, y) for step, y in values if y is not None and (y == 0 or 1 / _SHOWN <= abs(y) <= _SHOWN)]


def _lost(runs: Sequence[RunRecord]) -> list[bool]:
    return [isinstance(run.outcome, Diverged) for run in runs]


def _competitor(axes: "Axes", traces: Sequence[_Trace], lost: Sequence[bool], style: Mapping[str, Any]) -> Any:
    """Draw the mean and the seeds; return the mean's line, `None` where there is nothing to draw."""
    drawn = [trace for trace in traces if trace]
    if not drawn:
        return None
    if len(drawn) > 1:
        for trace in drawn:
            axes.plot(*zip(*trace, strict=True), linewidth=0.7, alpha=0.45, **style)
    common = set.intersection(*(set(dict(trace)) for trace in drawn))
    steps = sorted(common)
    means = [mean([dict(trace)[step] for trace in drawn]) for step in steps]
    marker = "o" if max(map(len, drawn)) <= 12 else None  # noqa: PLR2004 - so few that one wants to see where they are
    (line,) = axes.plot(steps, means, linewidth=1.8, marker=marker, markersize=3.5, **style)
    for trace, gone in zip(traces, lost, strict=True):
        if gone and trace:
            axes.plot(*trace[-1], marker="X", markersize=9, color=style["color"], markeredgecolor="white", zorder=5)
    return line


def _scale(axes: "Axes", values: Sequence[float], *, logarithmic: bool | None) -> None:
    """Logarithmic where asked (`None`), or where positive values span more than two decades (`True`)."""
    if not values or min(values) <= 0:
        return
    if logarithmic is None or (logarithmic and max(values) / min(values) > _DECADES):
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        decades = math.log10(max(values) / min(values))
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2 else (1.0,)))  # noqa: PLR2004
        # plain numbers: with mathematics off, so that no name is read as any, powers would show their source
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
