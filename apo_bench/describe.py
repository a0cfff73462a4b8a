"""What a task or an optimizer declares of itself, for `apo-bench list --long`; imports the plugin."""

import dataclasses
from typing import Any

from apo_bench.competitor import Competitor
from apo_bench.registry import Registered
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
    model = task.model()
    return {
        "about": (loaded.__doc__ or "").partition("\n")[0],
        "model": f"{task.model_name}, {sum(p.numel() for p in model.parameters()):,} parameters",
        "data": task.dataset.name,
        "batch size": str(task.batch_size),
        "metric": f"{task.metric.name}, {task.metric.direction}",
    }


def _hyperparameter(field: dataclasses.Field[Any]) -> str:
    text = f"{field.name}={field.default}"
    search = field.metadata.get("search")
    return f"{text} [{search.low:g}..{search.high:g}{' log' if search.log else ''}]" if search else text
