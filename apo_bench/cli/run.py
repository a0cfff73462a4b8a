"""``apo-bench run``: run a suite and keep its leaderboard up to date."""

import argparse
import sys
from typing import TYPE_CHECKING

from apo_bench.cli.options import (
    add_json,
    add_selection,
    add_store,
    check_device,
    chosen_device,
    default_scale,
    refuse_vanished,
    set_damaged_aside,
    warn_of_unreadable,
)
from apo_bench.cli.values import CHECKPOINT_SECONDS, EPOCHS, TFLOPS, THREADS, WORKERS, add_number, fixed
from apo_bench.errors import UsageError
from apo_bench.say import warn

if TYPE_CHECKING:
    from apo_bench.planning.plan import Plan
    from apo_bench.records.spec import Device
    from apo_bench.store.store import Store


HELP = "run a suite; re-issue the command to continue where it stopped"
DESCRIPTION = (
    "Run a suite and keep its leaderboard up to date. Where an optimizer has a grid, its values are tried first, on a "
    "seed of their own, and the best by validation is run. Finished runs are reused; Ctrl-C lets the runs in flight "
    "finish, twice saves them and stops, three times stops at once; SIGTERM saves them and stops. The same command "
    "continues."
)
_CONSENT_SECONDS = 3600.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_selection(parser)
    add_number(parser, "--epochs", EPOCHS, help="this budget on every task")
    parser.add_argument("--seeds", metavar="0,1,4-6", help="these seeds on every task")
    add_number(parser, "--workers", WORKERS, default=1, help="runs at a time (default 1)")
    add_number(
        parser,
        "--threads",
        THREADS,
        help="CPU threads a run (default: $OMP_NUM_THREADS, or the cores of this process, shared among workers)",
    )
    add_number(
        parser,
        "--checkpoint-every",
        CHECKPOINT_SECONDS,
        default=60.0,
        metavar="SECONDS",
        help="save runs in flight this often (default 60)",
    )
    parser.add_argument("--wandb", action="store_true", help="follow the runs in W&B, in a process of its own")
    parser.add_argument(
        "--plan", action="store_true", help="print what would be run and what each cell costs, and stop"
    )
    add_number(
        parser,
        "--gpu-tflops",
        TFLOPS,
        default=20.0,
        help="sustained TFLOP/s assumed in the estimate of GPU hours (default 20)",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before hours of work")
    add_json(parser)
    add_store(parser)


def call(options: argparse.Namespace) -> int:
    """Plan, run, publish."""
    from apo_bench.cli.selection import EVERYONE, Selection, parse_scale
    from apo_bench.execution.process import start_fork_server
    from apo_bench.measure.cores import threads_of_a_run
    from apo_bench.plugins.registry import optimizers, tasks
    from apo_bench.records.spec import Scale
    from apo_bench.store.scan import Scan
    from apo_bench.store.store import Store

    fixed(options.store, "--store")  # the processes of runs are told it as text
    check_device(options)
    threads = threads_of_a_run(options.threads, options.workers)
    selection = Selection.of(options)
    chosen = None if options.scale is None else selection.at(parse_scale(options.scale))
    refused = optimizers().refused if options.optimizers == EVERYONE else ()
    for line in refused:
        warn(line)  # they were asked for, too
    # whatever is wrong so far was told before torch is imported
    store = None if options.plan else Store(options.store, create=True)
    held = store or (Store(options.store) if (options.store / "runs").is_dir() else None)
    scan = held.scan(curves=False) if held else Scan({}, ())
    if store:
        set_damaged_aside(store, scan)
        start_fork_server()
    else:
        warn_of_unreadable(scan)
    device = chosen_device(options)
    suite = (chosen or selection.at(default_scale(device))).on(device)

    from apo_bench.cli.plan import print_costs, print_json, print_plan
    from apo_bench.planning.plan import plan
    from apo_bench.session.live import LiveLeaderboard
    from apo_bench.session.run import RunSession, RunSettings, warn_of_ends

    def look(scan: Scan, *, after_tuning: bool) -> "Plan":
        return plan(suite, device, tasks(), optimizers(), scan, compile=options.compile, after_tuning=after_tuning)

    planned = look(scan, after_tuning=False)
    if options.json:
        print_json(planned, options)
    else:
        print_plan(planned, device, options, threads)
        if options.plan or suite.scale is Scale.PAPER:
            print_costs(planned, options)
    for line in planned.unavailable:
        warn(line)
    warn_of_ends(planned.searches)
    if store is None:
        return 0
    _refuse_beside_a_probe(store, device)
    _ask(planned, options)
    settings = RunSettings(
        workers=options.workers,
        threads=threads.count,
        threads_from=threads.source,
        checkpoint_seconds=options.checkpoint_every,
        wandb=options.wandb,
        output_is_data=options.json,
    )
    live = LiveLeaderboard(store, planned, scan)
    session = RunSession(settings, store, live, lambda: look(store.scan(curves=False), after_tuning=True))
    try:
        status = session.carry_out(planned)
    except OSError as error:
        refuse_vanished(store.path, error)
        raise
    return status or (1 if refused else 0)


def _refuse_beside_a_probe(store: "Store", device: "Device") -> None:
    """Leave a probe the device to itself.

    Raises:
        UsageError: One is measuring.
    """
    with store.probing(device, patience=1.0) as free:
        if not free:
            raise UsageError(
                f"a probe of {store.path} is measuring on {device}, and runs would disturb it; wait until it is done "
                f"({store.probed_by(device)})"
            )


def _ask(plan: "Plan", options: argparse.Namespace) -> None:
    """Have hours of work confirmed.

    Raises:
        UsageError: The standard input is no terminal, or the answer is no.
    """
    from apo_bench.records.spec import Scale
    from apo_bench.text import duration

    total = plan.expected_seconds
    long = plan.suite.scale is Scale.PAPER if total is None else total / options.workers > _CONSENT_SECONDS
    if not plan.pending or not long or options.yes:
        return
    time = "hours" if total is None else f"about {duration(total / options.workers)}"
    if not sys.stdin.isatty():
        raise UsageError(f"this takes {time}; give --yes to start it, or --plan to look at it")
    if input(f"This takes {time}. Start? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise UsageError("not started; give fewer --tasks, --seeds or --epochs, or a smaller --scale")
