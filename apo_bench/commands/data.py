"""``apo-bench data``: the datasets that the installed tasks need."""

import argparse
import json
from typing import TYPE_CHECKING

from apo_bench.commands.common import add_json
from apo_bench.errors import DataError, UsageError, did_you_mean

if TYPE_CHECKING:
    from apo_bench.data.examples import Dataset

HELP = "list, fetch or verify datasets"
_ACTIONS = ("list", "fetch", "verify")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("action", metavar="ACTION", help="list, fetch or verify")
    parser.add_argument("names", nargs="*", metavar="NAME", help="datasets; all by default, but not for fetch")
    add_json(parser)


def call(options: argparse.Namespace) -> int:
    """List, fetch or verify."""
    if options.action not in _ACTIONS:
        raise UsageError(f"cannot {options.action!r} data{did_you_mean(options.action, _ACTIONS)}")
    known = datasets()
    for name in options.names:
        if name not in known:
            raise UsageError(f"unknown dataset {name!r}{did_you_mean(name, known)}")
    if options.action == "fetch":
        return _fetch(known, options.names)
    rows = [look(known[name]) for name in options.names or known]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        width = max(len(row["name"]) for row in rows)
        for row in rows:
            print(f"{row['name']:{width}}  {row['state']}{': ' if row['message'] else ''}{row['message']}")
    return 1 if options.action == "verify" and any(row["state"] != "ok" for row in rows) else 0


def datasets() -> "dict[str, Dataset]":
    """Every dataset of an installed task, by name; a plugin that fails to import is passed over."""
    from apo_bench.registry import tasks

    found = {}
    registered = tasks()
    for name in registered.names():
        try:
            dataset = registered[name].load()().dataset
        except UsageError:
            continue
        found[dataset.name] = dataset
    return dict(sorted(found.items()))


def look(dataset: "Dataset") -> dict[str, str]:
    """Whether a dataset is here and whole, and the mend."""
    try:
        dataset.digest()
    except DataError as error:
        return {"name": dataset.name, "state": "absent", "message": str(error)}
    return {"name": dataset.name, "state": "ok", "message": ""}


def _fetch(known: "dict[str, Dataset]", names: list[str]) -> int:
    if not names:
        raise UsageError(f"fetch what? {', '.join(name for name, dataset in known.items() if dataset.fetch)}")
    for name in names:
        fetch = known[name].fetch
        if fetch is None:
            print(f"{name}: nothing to fetch")
            continue
        fetch()
        print(f"{name}: fetched and verified" if known[name].digest() else name)
    return 0
