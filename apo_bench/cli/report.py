"""``apo-bench report``: the leaderboard of what is in the store."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apo_bench.cli.options import add_store, chosen_scale, warn_of, warn_of_unreadable, write
from apo_bench.cli.values import SEEDS_PLANNED, add_number, path_of
from apo_bench.errors import UsageError
from apo_bench.say import note, say, show

_MOST_BYTES = 2**26

if TYPE_CHECKING:
    from apo_bench.evidence.pricing import Pricing
    from apo_bench.records.probe import ProbeRecord
    from apo_bench.records.run import RunRecord
    from apo_bench.records.spec import Scale


HELP = "print the leaderboard of what is in the store"
DESCRIPTION = (
    "Print the leaderboard of what is in the store: the main columns on a terminal, the Markdown page with all columns "
    "into a pipe or a file."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--suite", required=True, metavar="NAME", help="see `apo-bench list suites`")
    parser.add_argument("--scale", metavar="SCALE", help="smoke, local or paper; by default the largest there is")
    parser.add_argument(
        "--output", type=path_of("--output"), metavar="FILE", help="write the Markdown page to FILE instead"
    )
    parser.add_argument(
        "--figures",
        type=path_of("--figures"),
        metavar="FOLDER",
        help="also draw the curves and learning rates of every task into FOLDER, as PNG and SVG",
    )
    add_number(
        parser,
        "--seeds-planned",
        SEEDS_PLANNED,
        help="judge only where there are N seeds: looking after every seed finds differences that are none",
    )
    parser.add_argument(
        "--price-on",
        action="append",
        type=path_of("--price-on"),
        metavar="PROBE",
        help="show the times of another machine: a record of its probe, or a store with its probes; may be repeated",
    )
    add_store(parser)


def call(options: argparse.Namespace) -> int:
    """Print or write the page."""
    from apo_bench.cli.options import installed_code
    from apo_bench.evidence.cells import cells
    from apo_bench.evidence.leaderboard import leaderboard_of, made_on
    from apo_bench.render.leaderboard import leaderboard_markdown, leaderboard_text
    from apo_bench.store.store import Store
    from apo_bench.suites import declared_suite

    scan = Store(options.store).scan(curves=options.figures is not None)
    warn_of_unreadable(scan)
    scale = chosen_scale(options, scan)
    records, probes, pricing = scan.of(options.suite, scale), scan.probes, None
    if options.price_on:
        pricing = _pricing(options, records)
        records, probes = list(pricing.records), pricing.probes
    machine = pricing.machine if pricing else None
    held = cells(records, options.suite, scale, code=installed_code(), machine=machine)
    declared = declared_suite(options.suite, scale)
    board = leaderboard_of(held, probes, declared=declared, seeds_planned=options.seeds_planned)
    if pricing is not None:
        machines = tuple(dict.fromkeys(made_on(one) for one in scan.of(options.suite, scale) if one.environment))
        board = dataclasses.replace(board, machines=machines, provenance=(*pricing.lines, *board.provenance))
        for line in pricing.lines if options.output is not None or sys.stdout.isatty() else ():
            note(line)
    if options.output is None:
        show(leaderboard_text(board) if sys.stdout.isatty() else leaderboard_markdown(board))
    else:
        write(options.output, leaderboard_markdown(board).encode())
        say(options.output)
    if options.figures is not None:
        for path in _draw(options, scale, held.reported):
            (note if options.output is None else say)(path)
    return 0


def _pricing(options: argparse.Namespace, records: "Sequence[RunRecord]") -> "Pricing":
    """The runs at the prices of the machine that ``--price-on`` names.

    Raises:
        UsageError: It names no probe, or probes of several machines.
    """
    from apo_bench.evidence.pricing import machines_of, priced
    from apo_bench.files import read_regular
    from apo_bench.records.probe import decode_probe
    from apo_bench.store.scan import read_probes

    probes: list[ProbeRecord] = []
    for path in options.price_on:
        if path.is_dir():
            read, damaged = read_probes(path)
            warn_of(*damaged)
            probes += sorted(read.values(), key=lambda probe: probe.finished_at)
            continue
        try:
            probes.append(decode_probe(read_regular(path, _MOST_BYTES)))
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise UsageError(
                f"--price-on {path} is no record of a probe ({reason}); give a file of a store's folder probes/, or "
                "the store"
            ) from error
    machines = machines_of(probes)
    if not machines:
        raise UsageError(f"no probes in {options.price_on[0]}; run `apo-bench probe` on that machine first")
    if len(machines) > 1:
        listed = "; ".join(map(str, machines))
        raise UsageError(f"--price-on names probes of several machines ({listed}); give the record files of one")
    return priced(records, probes)


def _draw(options: argparse.Namespace, scale: "Scale", records: "Sequence[RunRecord]") -> Iterator[Path]:
    """Write every figure, whole or not at all.

    Raises:
        UsageError: The folder cannot be made or written, or a name in a record is not fit for a file name.
    """
    from apo_bench.render.figures import drawings

    folder: Path = options.figures
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make {folder} ({error.strerror}); name another folder with --figures") from error
    for drawing in drawings(options.suite, scale, records):
        for ending, data in (("png", drawing.png), ("svg", drawing.svg)):
            path = folder / f"{drawing.name}.{ending}"
            write(path, data, option="--figures")
            yield path
