"""``apo-bench probe``: what a step of each competitor costs, side by side."""

import argparse
from typing import TYPE_CHECKING

from apo_bench.cli.options import (
    add_json,
    add_selection,
    add_store,
    check_device,
    chosen_device,
    default_scale,
    set_damaged_aside,
)
from apo_bench.cli.values import PROCESSES, ROUNDS, THREADS, add_number, fixed
from apo_bench.errors import UsageError

if TYPE_CHECKING:
    from apo_bench.session.probe import ProbeSettings

HELP = "measure what a step of each competitor costs, side by side; leaderboards then show it"
DESCRIPTION = (
    "Measure what a step of each competitor of a suite costs: all of a cell in one process, every kind of step in "
    "interleaved rounds, in several processes one after the other, as a ratio to SGDm's step with its interval over "
    "processes. Nothing else should run meanwhile. Cells that have been measured already, without a doubt, are not "
    "measured again."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_selection(parser)
    add_number(parser, "--processes", PROCESSES, default=5, help="processes a cell (default 5)")
    add_number(parser, "--rounds", ROUNDS, default=10, help="rounds in each process (default 10)")
    add_number(parser, "--threads", THREADS, help="CPU threads (default: as of `run`)")
    parser.add_argument("--again", action="store_true", help="re-measure what has been measured already")
    add_json(parser)
    add_store(parser)


def call(options: argparse.Namespace) -> int:
    """Measure cell by cell."""
    from apo_bench.cli.selection import Selection, parse_scale
    from apo_bench.execution.process import start_fork_server
    from apo_bench.session.probe import ProbeSession, refuse_beside_runs
    from apo_bench.store.store import Store

    fixed(options.store, "--store")  # the processes of probes are told it as text
    options.epochs, options.seeds = (1.0 if options.tasks else None), None  # a step costs the same in any budget
    check_device(options)
    selection = Selection.of(options)
    chosen = None if options.scale is None else selection.at(parse_scale(options.scale))
    store = Store(options.store, create=True)
    scan = store.scan()
    set_damaged_aside(store, scan)
    context = start_fork_server()
    device = chosen_device(options)
    suite = (chosen or selection.at(default_scale(device))).on(device)
    with store.probing(device, patience=1.0) as mine:
        if not mine:
            who = store.probed_by(device)
            raise UsageError(f"another probe of {options.store} is measuring on {device}; wait for it ({who})")
        refuse_beside_runs(store, device)
        return ProbeSession(_settings(options), store, scan, device, context).carry_out(suite)


def _settings(options: argparse.Namespace) -> "ProbeSettings":
    from apo_bench.measure.cores import threads_of_a_run
    from apo_bench.session.probe import ProbeSettings

    threads = threads_of_a_run(options.threads)
    return ProbeSettings(
        threads=threads.count,
        threads_from=threads.source,
        processes=options.processes,
        rounds=options.rounds,
        compile=options.compile,
        again=options.again,
        output_is_data=options.json,
    )
