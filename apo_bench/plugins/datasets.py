"""The datasets that the installed tasks need."""

from typing import TYPE_CHECKING

from apo_bench.errors import DataError, UsageError
from apo_bench.plugins.registry import tasks

if TYPE_CHECKING:
    from apo_bench.data.examples import Dataset


def datasets() -> "dict[str, Dataset]":
    """Every dataset of an installed task, by name; a plugin that fails to import is passed over."""
    found = {}
    registered = tasks()
    for name in registered.names():
        try:
            dataset = registered[name].task().dataset
        except UsageError:
            continue
        found[dataset.name] = dataset
    return dict(sorted(found.items()))


def what_is_wrong(dataset: "Dataset") -> str | None:
    """Why a dataset cannot be used, and how to fix it; `None` when it is here and whole."""
    try:
        dataset.digest()
    except DataError as error:
        return str(error)
    return None
