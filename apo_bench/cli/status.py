"""``apo-bench status``: what a store holds and what is in flight."""

import argparse
from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apo_bench.cli.options import add_json, add_store, warn_of, warn_of_unreadable
from apo_bench.say import say, show, show_json, warn

if TYPE_CHECKING:
    from apo_bench.store.active import Active
    from apo_bench.store.scan import Scan, Unreadable


HELP = "what the store holds, what is in flight, what waits to be continued"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_json(parser)
    add_store(parser)


def call(options: argparse.Namespace) -> int:
    """Print the counts and the runs in flight."""
    from apo_bench.render.terminal import terminal_table
    from apo_bench.store.store import Store

    store = Store(options.store)
    scan = store.scan(curves=False)
    warn_of_unreadable(scan)
    suites = _suites(scan)
    flight = store.in_flight()
    warn_of(*flight.unreadable)
    named = {found.path for found in flight.unreadable}
    active = [_active(run, named) for run in flight.runs if run.running or run.folder not in named]
    if options.json:
        show_json({"suites": suites, "active": active})
        return 0
    rows = [[str(cell) for cell in row.values()] for row in suites]
    if rows:
        show(terminal_table(list(suites[0]), rows, "<<>>>>"))
    else:
        say(f"{options.store} holds no finished run")
    for run in active:
        place = f"step {run['step']}" + (f" of {run['steps']}" if run["steps"] else "")
        say(f"{'running' if run['running'] else 'waits to be continued'}: {run['run']}, {place}")
    return 0


def _suites(scan: "Scan") -> list[dict[str, Any]]:
    counts: dict[tuple[str, str], Counter[str]] = {}
    for record in scan.newest().values():
        kind = type(record.outcome).__name__.lower()
        counts.setdefault((record.suite, str(record.scale)), Counter())[kind] += 1
    return [
        {
            "suite": suite,
            "scale": scale,
            "results": sum(count[kind] for kind in ("exhausted", "reached", "diverged")),
            "diverged": count["diverged"],
            "failed": sum(count[kind] for kind in ("failed", "crashed", "outofmemory", "undefined")),
            "interrupted": count["interrupted"],
        }
        for (suite, scale), count in sorted(counts.items())
    ]


def _active(run: "Active", named: Container[Path]) -> dict[str, Any]:
    from apo_bench.records.events import Evaluated, Progress, Started
    from apo_bench.store.scan import read_events

    def damaged(found: "Unreadable") -> None:
        if found.path not in named:
            warn(f"damaged {found.piece}: {found.path} ({found.reason}); the rest of it is read")

    step, steps = 0, None
    for event in read_events(run.folder, damaged=damaged)[0]:
        match event:
            case Started():
                steps = event.steps
            case Progress():
                step = event.step
            case Evaluated():
                step = event.point.step
    return {"run": run.intent.spec.title, "running": run.running, "step": step, "steps": steps}
