"""What a task or an optimizer declares of itself, for `apo-bench list --long`; imports the plugin."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from apo_bench.competitor import Competitor
from apo_bench.measure.flops import make_model
from apo_bench.registry import Registered
from apo_bench.spec import Scale
from apo_bench.suites import SUITES
from apo_bench.tasks.task import Task


def describe(entry: Registered) -> dict[str, str]:
    """Facts by name, each a short text.

    Raises:
        UsageError: The plugin fails to import.
    """
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
