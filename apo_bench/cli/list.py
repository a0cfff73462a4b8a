"""``apo-bench list``: what there is to run."""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from apo_bench.cli.options import add_json
from apo_bench.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from apo_bench.plugins.registry import Registered
    from apo_bench.plugins.task import Task

HELP = "list suites, tasks, optimizers and precisions"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "what", nargs="?", metavar="WHAT", help="suites, tasks, optimizers or precisions; all by default"
    )
    parser.add_argument("--long", action="store_true", help="import the plugins and show what they declare")
    add_json(parser)


def call(options: argparse.Namespace) -> int:
    """Print what is registered."""
    kinds = {"suites": _suites, "tasks": _tasks, "optimizers": _optimizers, "precisions": _precisions}
    if options.what is not None and options.what not in kinds:
        raise UsageError(f"cannot list {options.what!r}{did_you_mean(options.what, kinds)}")
    tables = {kind: rows(options) for kind, rows in kinds.items() if options.what in {None, kind}}
    if options.json:
        print(json.dumps(tables, indent=2))
        return 0
    for kind, rows in tables.items():
        print(f"{kind}:")
        width = max((len(row["name"]) for row in rows), default=0)
        for row in rows:
            print(f"  {row['name']:{width}}  {row.get('about') or row.get('from', '')}".rstrip())
            for key, value in row.items():
                if key not in {"name", "about", "from"}:
                    print(f"      {key}: {value}")
    return 0


_Row = dict[str, str]


def _suites(options: argparse.Namespace) -> list[_Row]:
    from apo_bench.suites import SUITES

    rows = [{"name": name, "about": (make.__doc__ or "").partition("\n")[0]} for name, make in SUITES.items()]
    return [row | _scales(row["name"]) for row in rows] if options.long else rows


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
    from apo_bench.suites import suite

    available = {}
    for scale in Scale:
        entries = suite(name, scale).tasks
        available[f"scale {scale}"] = ", ".join(f"{entry.task} ({entry.epochs:g} epochs)" for entry in entries)
    return available


def _registered(entry: "Registered", options: argparse.Namespace) -> _Row:
    row = {"name": entry.name, "from": f"{entry.distribution} {entry.version}"}
    if not options.long:
        return row
    return row | _declared(entry)


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
        return {
            "about": loaded.title,
            "reference": loaded.reference,
            "hyperparameters": ", ".join(_hyperparameter(field) for field in fields),
        }
    task: Task = loaded()
    sizes = task.dataset.sizes
    parameters = sum(p.numel() for p in make_model(task).parameters())
    target = task.target
    return {
        "about": (loaded.__doc__ or "").partition("\n")[0],
        "suites": "; ".join(_budgets(entry.name)) or "none; give it a budget with --epochs",
        "data": task.dataset.name,
        "examples": "train {:,} / validation {:,} / test {:,}".format(*sizes) if sizes else "not stated",
        "model": task.model_name,
        "parameters": f"{parameters:,}",
        "batch size": str(task.batch_size),
        "metric": f"{task.metric.name}, {task.metric.direction}",
        "target": f"{target.validation:g}, version {target.version}" if target else "none yet",
        "source": task.source or "not stated",
        "trivial predictor": "not stated" if task.trivial is None else f"{task.trivial:g}",
    }


def _budgets(task: str) -> Iterator[str]:
    """Every suite that holds a task, with its budget at each scale; two entries of different budgets show both."""
    from apo_bench.records.spec import Scale
    from apo_bench.suites import SUITES

    for name, make in SUITES.items():
        scales = []
        for scale in Scale:
            epochs = dict.fromkeys(entry.epochs for entry in make(scale).tasks if entry.task == task)
            if epochs:
                scales.append(f"{scale} {' or '.join(f'{budget:g}' for budget in epochs)} epochs")
        if scales:
            yield f"{name}: {', '.join(scales)}"


def _hyperparameter(field: dataclasses.Field[Any]) -> str:
    text = f"{field.name}={field.default}"
    search = field.metadata.get("search")
    return f"{text} [{search.low:g}..{search.high:g}{' log' if search.log else ''}]" if search else text
