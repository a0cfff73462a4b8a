"""``apo-bench export``: the store as a table, one row a run."""

import argparse

from apo_bench.cli.options import add_store, installed_code, warn_of_unreadable, write
from apo_bench.cli.values import path_of
from apo_bench.errors import UsageError, did_you_mean, shown
from apo_bench.say import pour, say, warn

HELP = "one row a run, as CSV, JSON Lines or Parquet"
_FORMATS = {"csv": ".csv", "jsonl": ".jsonl", "parquet": ".parquet"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--format", metavar="FORMAT", help="csv, jsonl or parquet; by default as --output ends, or csv")
    parser.add_argument(
        "--output", type=path_of("--output"), metavar="FILE", help="write to FILE instead of the standard output"
    )
    parser.add_argument("--suite", metavar="NAME", help="only runs made for this suite")
    add_store(parser)


def call(options: argparse.Namespace) -> int:
    """Print or write the table."""
    form = _format(options)
    if form == "parquet" and options.output is None:
        raise UsageError("Parquet is not text; name a file with --output")

    from apo_bench.evidence.cells import cells
    from apo_bench.evidence.table import run_table
    from apo_bench.render.table import encode_table
    from apo_bench.store.store import Store

    scan = Store(options.store).scan(curves=False)
    warn_of_unreadable(scan)
    suites = scan.suites if options.suite is None else [(options.suite, scale) for scale in scan.scales(options.suite)]
    code = installed_code()
    held = [cells(scan.of(suite, scale), suite, scale, code=code) for suite, scale in suites]
    for left_out in filter(None, (one.left_out for one in held)):
        warn(f"{left_out} runs of another version of the code, or of other data, than the rest of their cells left out")
    rows = {record.run_id: record for one in held for record in one.records} if options.suite is None else None
    records = list(rows.values()) if rows is not None else [record for one in held for record in one.records]
    data = encode_table(run_table(records, scan.probes, code), form)
    if options.output is None:
        pour(data.decode())
    else:
        write(options.output, data)
        say(f"{options.output}: {len(records)} runs")
    return 0


def _format(options: argparse.Namespace) -> str:
    if options.format is not None:
        if options.format not in _FORMATS:
            raise UsageError(f"unknown format {shown(options.format)}{did_you_mean(options.format, _FORMATS)}")
        return str(options.format)
    if options.output is None:
        return "csv"
    for form, suffix in _FORMATS.items():
        if options.output.suffix == suffix:
            return form
    raise UsageError(f"cannot tell the format of {options.output}; name it with --format csv, jsonl or parquet")
