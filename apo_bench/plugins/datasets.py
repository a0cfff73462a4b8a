"""The datasets that the installed tasks need."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from apo_bench.errors import DataError, UsageError, kind_of
from apo_bench.plugins.guard import PluginRaisedError, guarded
from apo_bench.plugins.registry import tasks

if TYPE_CHECKING:
    from apo_bench.data.examples import Dataset

_LONGEST_DIGEST = 1000
"""Characters: it stands in every record."""


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


def digest_of(dataset: "Dataset") -> str:
    """The digest of a dataset.

    Raises:
        DataError: It cannot be had; whatever a plugin raises is that.
    """
    try:
        digest = guarded(dataset.digest)
    except PluginRaisedError as error:
        raise DataError(f"dataset {dataset.name!r} has no digest ({error}); fix its plugin") from error
    if type(digest) is not str or len(digest) > _LONGEST_DIGEST or not digest.isprintable():
        got = f"a text of {len(digest)} characters" if type(digest) is str else f"a {kind_of(digest)}"
        raise DataError(
            f"dataset {dataset.name!r} has {got} as its digest; return a text of at most {_LONGEST_DIGEST} characters "
            "that can be printed"
        )
    return digest


def what_is_wrong(dataset: "Dataset") -> str | None:
    """Why a dataset cannot be used, and how to fix it; `None` when it is here and whole."""
    try:
        digest_of(dataset)
    except DataError as error:
        return str(error)
    return None


def what_is_wrong_inside(dataset: "Dataset") -> str | None:
    """The same, after the dataset was read as a run reads it: a checksum holds for nonsense too."""
    wrong = what_is_wrong(dataset)
    if wrong is not None:
        return wrong
    fix = f"run `apo-bench data fetch {dataset.name}`" if dataset.fetch else "fix its plugin"
    try:
        splits = guarded(dataset.load)
        found = tuple(len(part) for part in (splits.train, splits.validation, splits.test))
    except DataError as error:
        return str(error)
    except (PluginRaisedError, UsageError, AttributeError, TypeError) as error:
        return f"it cannot be read ({error}); {fix}"
    if not all(found):
        return f"it has {_sizes(found)} examples, and no split may be empty; {fix}"
    if dataset.sizes is not None and found != tuple(dataset.sizes):
        return f"it has {_sizes(found)} examples, expected {_sizes(dataset.sizes)}; {fix}"
    return None


def _sizes(counts: Iterable[int]) -> str:
    """Sizes of the training, validation and test split."""
    return " + ".join(f"{count:,}" for count in counts)
