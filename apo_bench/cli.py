"""The command line: parses, calls, prints; decides nothing.

Heavy modules are imported by the command that needs them, so that `--help` and `list` answer at once.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from apo_bench.errors import ApoBenchError, UsageError, did_you_mean

if TYPE_CHECKING:
    from apo_bench.plan import Plan
    from apo_bench.registry import Registered
    from apo_bench.spec import Device
    from apo_bench.store import Scan, Store

_DEFAULT_STORE = "apo-bench-results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 runs failed, 2 wrong use."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        status: int = options.call(options)
    except ApoBenchError as error:
        if options.debug:
            raise
        print(f"apo-bench: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader is gone, and so is its interest
        return 0
    return status


class _Parser(argparse.ArgumentParser):
    """Reports wrong use in one line, without the usage block."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    from apo_bench import _version

    parser = _Parser(
        prog="apo-bench",
        description="Which neural-network optimizer, at which precision, at what cost: run suites, read leaderboards.",
    )
    parser.add_argument("--version", action="version", version=f"apo-bench {_version()}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    listing = commands.add_parser("list", help="list suites, tasks, optimizers and precisions")
    listing.add_argument(
        "what", nargs="?", metavar="WHAT", help="suites, tasks, optimizers or precisions; all by default"
    )
    listing.add_argument("--long", action="store_true", help="import the plugins and show what they declare")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(call=_list)

    run = commands.add_parser(
        "run",
        help="run a suite; re-issue the command to continue where it stopped",
        description="Run a suite and keep its leaderboard up to date. Finished runs are reused; Ctrl-C lets the runs "
        "in flight finish, twice stops at once, and the same command continues.",
    )
    _suite_options(run)
    run.add_argument("--tasks", metavar="A,B", help="these tasks instead of the suite's; any other needs --epochs")
    run.add_argument("--optimizers", metavar="A,B", help="these optimizers instead of the suite's")
    run.add_argument("--precisions", metavar="A,B", help="these precisions instead of the suite's")
    run.add_argument("--epochs", type=float, metavar="N", help="this budget on every task")
    run.add_argument("--seeds", metavar="0,1,4-6", help="these seeds on every task")
    run.add_argument("--device", metavar="DEVICE", help="cpu or cuda; by default cuda where there is one")
    run.add_argument("--workers", type=int, default=1, metavar="N", help="runs at a time (default 1)")
    run.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads a run (default: all cores, shared among workers)",
    )
    run.add_argument("--plan", action="store_true", help="print what would be run, and stop")
    run.set_defaults(call=_run)

    report = commands.add_parser("report", help="print the leaderboard of what is in the store")
    _suite_options(report)
    report.add_argument("--output", type=Path, metavar="FILE", help="write the Markdown page to FILE instead")
    report.set_defaults(call=_report)
    return parser


def _suite_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", required=True, metavar="NAME", help="see `apo-bench list suites`")
    parser.add_argument(
        "--scale",
        metavar="SCALE",
        help="smoke, local or paper; by default paper where there is CUDA, else local",
    )
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get("APO_BENCH_STORE", _DEFAULT_STORE)),
        help=f"folder of the results (default: $APO_BENCH_STORE or {_DEFAULT_STORE})",
    )


def _list(options: argparse.Namespace) -> int:
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
    from apo_bench.registry import tasks

    return [_registered(tasks()[name], options) for name in tasks().names()]


def _optimizers(options: argparse.Namespace) -> list[_Row]:
    from apo_bench.registry import optimizers

    return [_registered(optimizers()[name], options) for name in optimizers().names()]


def _precisions(options: argparse.Namespace) -> list[_Row]:  # noqa: ARG001 - all rows are made alike
    from apo_bench.spec import Precision

    return [{"name": str(precision)} for precision in Precision]


def _scales(name: str) -> _Row:
    from apo_bench.spec import Scale
    from apo_bench.suites import suite

    available = {}
    for scale in Scale:
        try:
            entries = suite(name, scale).tasks
        except UsageError:
            continue
        available[f"scale {scale}"] = ", ".join(f"{entry.task} ({entry.epochs:g} epochs)" for entry in entries)
    return available


def _registered(entry: "Registered", options: argparse.Namespace) -> _Row:
    row = {"name": entry.name, "from": f"{entry.distribution} {entry.version}"}
    if not options.long:
        return row
    from apo_bench.describe import describe

    return row | describe(entry)


def _run(options: argparse.Namespace) -> int:
    from apo_bench.executors.local import start_fork_server
    from apo_bench.registry import optimizers, tasks
    from apo_bench.selection import known, parse_scale, select
    from apo_bench.spec import Device, Scale
    from apo_bench.store import Scan, Store

    _check_counts(options)
    if options.device is not None:
        known(options.device, [str(device) for device in Device], "device")
    likely = parse_scale(options.scale) if options.scale else Scale.LOCAL
    suite = select(options, likely)  # before torch is imported: a typo answers at once
    store = Store(options.store, create=True) if not options.plan else None
    scan = store.scan() if store else _scan_if_any(options.store)
    _warn_of_damage(scan)
    if store:
        start_fork_server()
    device = _device(options)
    if options.scale is None and device is Device.CUDA:
        suite = select(options, Scale.PAPER)

    from apo_bench.plan import plan

    planned = plan(suite, device, tasks(), optimizers(), scan or Scan((), ()))
    threads = options.threads or max(1, (os.cpu_count() or 1) // options.workers)
    _print_plan(planned, device, options, threads)
    if store is None:
        return 0
    return _execute(planned, store, options, threads)


def _execute(plan: "Plan", store: "Store", options: argparse.Namespace, threads: int) -> int:
    from apo_bench.display import display
    from apo_bench.executors.job import Job
    from apo_bench.executors.local import execute
    from apo_bench.publish import Publisher
    from apo_bench.report.markdown import leaderboard_text

    store.remove_orphans()
    jobs = [
        Job(
            run=pending.run,
            suite=plan.suite.name,
            scale=plan.suite.scale,
            fingerprint=pending.fingerprint,
            store=str(store.path),
            threads=threads,
        )
        for pending in plan.pending
    ]
    publisher = Publisher(store, plan)
    expected = {pending.run.run_id: pending.expected_seconds for pending in plan.pending}
    complete = True
    if jobs:
        with display(len(jobs), expected, options.workers) as shown:
            publisher.follow(shown)

            def result_of(job: Job) -> Any:
                record = store.scan(job.run.run_id).find_result(job.run.run_id, job.fingerprint)
                return record.outcome if record else None

            complete = execute(jobs, store, workers=options.workers, watcher=publisher, result_of=result_of)
    board = publisher.publish()
    print(f"\n{leaderboard_text(board)}\nleaderboard: {publisher.path}")
    if not complete:
        print("interrupted; the same command continues", file=sys.stderr)
        return 1
    if board.failures:
        title, message = board.failures[0]
        print(
            f"apo-bench: {len(board.failures)} runs failed, the first: {title}: {message}; "
            "the same command tries them again",
            file=sys.stderr,
        )
        return 1
    return 0


def _report(options: argparse.Namespace) -> int:
    from apo_bench.evidence.leaderboard import leaderboard
    from apo_bench.report.markdown import leaderboard_markdown
    from apo_bench.selection import parse_scale
    from apo_bench.spec import Scale
    from apo_bench.store import Store, write_durably
    from apo_bench.suites import SUITES

    if options.suite not in SUITES:
        raise UsageError(f"unknown suite {options.suite!r}{did_you_mean(options.suite, SUITES)}")
    store = Store(options.store)
    scan = store.scan()
    _warn_of_damage(scan)
    newest = scan.newest().values()
    held = sorted({record.scale for record in newest if record.suite == options.suite}, key=list(Scale).index)
    if options.scale:
        scale = parse_scale(options.scale)
    elif held:
        scale = held[-1]
    else:
        raise UsageError(f"no results of suite {options.suite!r} in {options.store}; run it first")
    if scale not in held:
        raise UsageError(
            f"no results of suite {options.suite!r} at scale {str(scale)!r} in {options.store}; "
            f"there are: {', '.join(held) or 'none'}"
        )
    page = leaderboard_markdown(leaderboard(options.suite, scale, newest))
    if options.output is None:
        print(page)
        return 0
    try:
        write_durably(options.output, page.encode())
    except OSError as error:
        raise UsageError(
            f"cannot write {options.output} ({error.strerror}); name another file with --output"
        ) from error
    print(options.output)
    return 0


def _device(options: argparse.Namespace) -> "Device":
    import torch

    from apo_bench.spec import Device

    available = torch.cuda.is_available()
    if options.device is None:
        return Device.CUDA if available else Device.CPU
    if options.device == Device.CUDA and not available:
        raise UsageError("device 'cuda' is not available: torch finds no CUDA device; use --device cpu")
    return Device(options.device)


def _check_counts(options: argparse.Namespace) -> None:
    for name in ("workers", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value} is not possible; give 1 or more")


def _scan_if_any(path: Path) -> "Scan | None":
    from apo_bench.store import Store

    return Store(path).scan() if (path / "runs").is_dir() else None


def _warn_of_damage(scan: "Scan | None") -> None:
    for damaged in scan.damaged if scan else ():
        print(f"apo-bench: damaged record set aside: {damaged.path} ({damaged.reason})", file=sys.stderr)


def _print_plan(plan: "Plan", device: "Device", options: argparse.Namespace, threads: int) -> None:
    from tabulate import tabulate

    from apo_bench.display import duration

    suite = plan.suite
    print(
        f"suite {suite.name}, scale {suite.scale}, on {device}, {options.workers} x {threads} threads, "
        f"store {options.store}\n"
    )
    rows = []
    for entry in suite.tasks:
        runs = [planned for planned in plan.runs if planned.run.task == entry.task]
        times = [planned.expected_seconds for planned in runs if planned.reused is None]
        known = [seconds for seconds in times if seconds is not None]
        rows.append(
            [
                entry.task,
                " ".join(competitor.optimizer for competitor in suite.optimizers),
                " ".join(suite.precisions),
                f"{entry.epochs:g}",
                ",".join(map(str, entry.seeds)),
                len(runs),
                sum(planned.reused is not None for planned in runs),
                duration(sum(known) / options.workers) if len(known) == len(times) else "?",
            ]
        )
    headers = ["task", "optimizers", "precisions", "epochs", "seeds", "runs", "done", "expected"]
    print(tabulate(rows, headers=headers, disable_numparse=True, colalign=["left"] * 3 + ["right"] * 5))
    total = plan.expected_seconds
    time = f"about {duration(total / options.workers)} of training" if total is not None else "unknown time"
    print(f"\n{len(plan.pending)} of {len(plan.runs)} runs to be made: {time}")
    for name, parts in _changes(plan).items():
        print(f"running {name} anew, for these changed: {', '.join(parts)}")
    sys.stdout.flush()


def _changes(plan: "Plan") -> dict[str, list[str]]:
    """By what must run anew (an optimizer on a task), the changed parts of its fingerprint."""
    changes: dict[str, list[str]] = {}
    for planned in plan.pending:
        if planned.changed:
            name = f"{planned.run.optimizer.name} on {planned.run.task}"
            changes.setdefault(name, list(planned.changed))
    return changes
