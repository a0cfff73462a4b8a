"""``apo-bench data``: the datasets that the installed tasks need."""

import argparse
from typing import TYPE_CHECKING

from apo_bench.cli.options import add_json
from apo_bench.errors import DataError, UsageError, did_you_mean, shown
from apo_bench.say import say, show_json

if TYPE_CHECKING:
    from apo_bench.data.examples import Dataset


HELP = "list, fetch or verify datasets"
DESCRIPTION = (
    "List datasets and hold them to their checksums, fetch them, or verify them: read all of them as a run does."
)
_ACTIONS = ("list", "fetch", "verify")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("action", metavar="ACTION", help="list, fetch or verify")
    parser.add_argument("names", nargs="*", metavar="NAME", help="datasets; all by default, but not for fetch")
    add_json(parser)


def call(options: argparse.Namespace) -> int:
    """List, fetch or verify."""
    from apo_bench.plugins.datasets import datasets

    if options.action not in _ACTIONS:
        raise UsageError(f"cannot {shown(options.action)} data{did_you_mean(options.action, _ACTIONS)}")
    known = datasets()
    for name in options.names:
        if name not in known:
            raise UsageError(f"unknown dataset {shown(name)}{did_you_mean(name, known)}")
    if options.action == "fetch":
        return _fetch(known, options.names)
    rows = [_row(known[name], read=options.action == "verify") for name in options.names or known]
    if options.json:
        show_json(rows)
    else:
        width = max((len(row["name"]) for row in rows), default=0)
        for row in rows:
            say(f"{row['name']:{width}}  {row['state']}{': ' if row['message'] else ''}{row['message']}")
    return 1 if options.action == "verify" and any(row["state"] != "ok" for row in rows) else 0


def _row(dataset: "Dataset", *, read: bool) -> dict[str, str]:
    from apo_bench.plugins.datasets import what_is_wrong, what_is_wrong_inside

    wrong = what_is_wrong_inside(dataset) if read else what_is_wrong(dataset)
    return {"name": dataset.name, "state": "ok" if wrong is None else "absent", "message": wrong or ""}


def _fetch(known: "dict[str, Dataset]", names: list[str]) -> int:
    from apo_bench.plugins.datasets import digest_of
    from apo_bench.plugins.guard import PluginRaisedError, guarded

    if not names:
        raise UsageError(f"fetch what? {', '.join(name for name, dataset in known.items() if dataset.fetch)}")
    for name in names:
        fetch = known[name].fetch
        if fetch is None:
            say(f"{name}: nothing to fetch")
            continue
        try:
            guarded(fetch)
        except PluginRaisedError as error:
            raise DataError(f"dataset {name!r} cannot be fetched ({error}); try again, or fix its plugin") from error
        digest_of(known[name])
        say(f"{name}: fetched and verified")
    return 0
