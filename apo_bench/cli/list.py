"""``apo-bench list``: what there is to run."""

import argparse
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from apo_bench.cli.options import add_json
from apo_bench.errors import ApoBenchError, UsageError, did_you_mean, shown
from apo_bench.say import say, show, show_json, warn

if TYPE_CHECKING:
    from torch import nn

    from apo_bench.plugins.registry import Registered

_Row = dict[str, str]
_KINDS = ("suites", "tasks", "optimizers", "precisions")

HELP = "list suites, tasks, optimizers and precisions"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "what",
        nargs="?",
        metavar="WHAT",
        help="suites, tasks, optimizers or precisions, all by default; or the name of one of them, to show all of it",
    )
    parser.add_argument("--long", action="store_true", help="import the plugins and show what they declare")
    add_json(parser)


def call(options: argparse.Namespace) -> int:
    """Print what is registered."""
    kinds = {"suites": _suites, "tasks": _tasks, "optimizers": _optimizers, "precisions": _precisions}
    if options.what is not None and options.what not in kinds:
        return _print_one(options)
    tables = {kind: rows(options) for kind, rows in kinds.items() if options.what in {None, kind}}
    broken = _warn(tables)
    if options.json:
        show_json(tables)
        return 1 if broken else 0
    for kind, listed in tables.items():
        say(f"{kind}:")
        rows = [row for row in listed if "broken" not in row]
        if options.long and kind == "tasks":
            _print_tasks(rows)
            continue
        width = max((len(row["name"]) for row in rows), default=0)
        for row in rows:
            if options.long:
                _print_row({key: value for key, value in row.items() if key != "from"})
            else:
                say(f"  {row['name']:{width}}  {row.get('about') or row.get('from', '')}".rstrip())
    return 1 if broken else 0


def _warn(tables: Mapping[str, Sequence[_Row]]) -> bool:
    """Name in a line of its own what is registered and cannot be used; whether there is any."""
    from apo_bench.plugins.registry import optimizers, tasks

    kinds = {"tasks": tasks, "optimizers": optimizers}
    lines = [line for kind in tables if kind in kinds for line in kinds[kind]().refused]
    lines += [row["broken"] for rows in tables.values() for row in rows if "broken" in row]
    for line in dict.fromkeys(lines):
        warn(line)
    return bool(lines)


def _print_one(options: argparse.Namespace) -> int:
    """Show everything that one suite, task or optimizer declares.

    Raises:
        UsageError: There is none of that name.
    """
    from apo_bench.plugins.registry import optimizers, tasks
    from apo_bench.suites import SUITES

    rows: list[_Row] = []
    if options.what in SUITES:
        rows.append({"name": options.what, "about": _first_line(SUITES[options.what])} | _scales(options.what))
    known = [*_KINDS, *SUITES]
    for registry in (tasks(), optimizers()):
        known += registry.names()
        if options.what in registry:
            entry = registry[options.what]
            rows.append(
                {"name": entry.name, "from": f"{entry.distribution} {entry.version}"}
                | entry.held(functools.partial(_declared, entry))
            )
    if not rows:
        raise UsageError(f"cannot list {shown(options.what)}{did_you_mean(options.what, known)}")
    if options.json:
        show_json(rows)
        return 0
    for row in rows:
        _print_row(row, indent="")
    return 0


def _print_row(row: _Row, indent: str = "  ") -> None:
    from apo_bench.render.terminal import paragraph

    show(paragraph(f"{row['name']}  {row.get('about', '')}".rstrip(), indent, hang="    "))
    for key, value in row.items():
        if key not in {"name", "about"}:
            show(paragraph(f"{key}: {value}", f"{indent}    ", hang="  "))


def _print_tasks(rows: Sequence[_Row]) -> None:
    """One line a task; `apo-bench list TASK` has the rest."""
    from apo_bench.render.terminal import terminal_table
    from apo_bench.text import MISSING, quantity

    table = []
    for row in rows:
        examples = row["examples"].removeprefix("train ").partition(" ")[0].replace(",", "")
        metric = row["metric"].partition(",")[0].partition(" (")[0]
        table.append(
            [
                row["name"],
                quantity(int(row["parameters"].removeprefix("at least ").partition(":")[0].replace(",", ""))),
                quantity(int(examples)) if examples.isdigit() else MISSING,
                metric,
            ]
        )
    show(terminal_table(["task", "parameters", "train", "metric"], table, "<>><", wrapped=3))
    say("`apo-bench list TASK` shows everything that a task declares")


def _suites(options: argparse.Namespace) -> list[_Row]:
    from apo_bench.suites import SUITES

    rows = [{"name": name, "about": _first_line(make)} for name, make in SUITES.items()]
    return [row | _scales(row["name"]) for row in rows] if options.long else rows


def _first_line(documented: object) -> str:
    text = documented.__doc__
    return text.strip().partition("\n")[0] if isinstance(text, str) else ""


def _tasks(options: argparse.Namespace) -> list[_Row]:
    from apo_bench.plugins.registry import tasks

    registry = tasks()
    return [_registered(registry[name], options) for name in registry.names()]


def _optimizers(options: argparse.Namespace) -> list[_Row]:
    from apo_bench.plugins.registry import optimizers

    registry = optimizers()
    return [_registered(registry[name], options) for name in registry.names()]


def _precisions(options: argparse.Namespace) -> list[_Row]:  # noqa: ARG001 - all rows are made alike
    from apo_bench.records.spec import Precision

    return [{"name": str(precision)} for precision in Precision]


def _scales(name: str) -> _Row:
    from apo_bench.records.spec import Scale
    from apo_bench.suites import SUITES, suite

    available = {}
    from apo_bench.text import epochs

    if name == "all":
        return {"holds": ", ".join(other for other in SUITES if other != name)}
    for scale in Scale:
        entries = suite(name, scale).tasks
        available[f"scale {scale}"] = ", ".join(f"{entry.task} ({epochs(entry.epochs)})" for entry in entries)
    return available


def _registered(entry: "Registered", options: argparse.Namespace) -> _Row:
    row = {"name": entry.name, "from": f"{entry.distribution} {entry.version}"}
    if not options.long:
        return row
    try:
        return row | entry.held(lambda: _declared(entry))
    except ApoBenchError as error:
        return row | {"broken": str(error)}


def _declared(entry: "Registered") -> dict[str, str]:
    """What a task or an optimizer declares of itself; imports the plugin.

    Raises:
        UsageError: The plugin fails to import.
    """
    from apo_bench.planning.cost import make_model
    from apo_bench.plugins.optimizer import Competitor

    loaded = entry.load()
    if isinstance(loaded, Competitor):
        fields = dataclasses.fields(loaded.hyperparameters)
        row = {
            "about": loaded.title,
            "reference": loaded.reference,
            "hyperparameters": ", ".join(_hyperparameter(field) for field in fields),
        }
        return row | ({"leaves alone": loaded.left_alone} if loaded.left_alone else {})
    task = entry.task()
    sizes = task.dataset.sizes
    target = task.target
    return {
        "about": _first_line(loaded),
        "suites": "; ".join(_budgets(entry.name)) or "none; give it a budget with --epochs",
        "data": task.dataset.name,
        "examples": "train {:,} / validation {:,} / test {:,}".format(*sizes) if sizes else "not stated",
        "model": task.model_name,
        "parameters": _parameters(make_model(task)),
        "batch size": str(task.batch_size),
        "metric": f"{task.metric.name}, {task.metric.direction}",
        "target": f"{target.validation:g}, version {target.version}" if target else "none yet",
        "source": task.source or "not stated",
        "trivial predictor": "not stated" if task.trivial is None else f"{task.trivial:g}",
    }


def _parameters(model: "nn.Module") -> str:
    """Number of parameters; those of lazy modules get their shapes from the data."""
    from apo_bench.models.lazy import uninitialized

    unknown = {id(tensor) for tensor in uninitialized(model)}
    known = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in unknown)
    return f"at least {known:,}: lazy modules take their shapes from the data" if unknown else f"{known:,}"


def _budgets(task: str) -> Iterator[str]:
    """Every suite that holds a task, with its budget at each scale; two entries of different budgets show both."""
    from apo_bench.records.spec import Scale
    from apo_bench.suites import SUITES
    from apo_bench.text import epochs

    for name, make in SUITES.items():
        scales = []
        for scale in Scale:
            budgets = dict.fromkeys(entry.epochs for entry in make(scale).tasks if entry.task == task)
            if budgets:
                scales.append(f"{scale} {' or '.join(map(epochs, budgets))}")
        if scales:
            yield f"{name}: {', '.join(scales)}"


def _hyperparameter(field: dataclasses.Field[Any]) -> str:
    text = f"{field.name}={field.default}"
    search = field.metadata.get("search")
    return f"{text} [{search.low:g}..{search.high:g}{' log' if search.log else ''}]" if search else text
