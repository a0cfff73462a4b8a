"""``apo-bench report``: the leaderboard of what is in the store."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apo_bench.cli.options import add_store, chosen_scale, warn_of_unreadable, write
from apo_bench.cli.values import SEEDS_PLANNED, add_number, path_of
from apo_bench.errors import UsageError
from apo_bench.say import note, say, show

if TYPE_CHECKING:
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
    add_store(parser)


def call(options: argparse.Namespace) -> int:
    """Print or write the page."""
    from apo_bench.cli.options import installed_code
    from apo_bench.evidence.cells import cells
    from apo_bench.evidence.leaderboard import leaderboard_of
    from apo_bench.render.leaderboard import leaderboard_markdown, leaderboard_text
    from apo_bench.store.store import Store
    from apo_bench.suites import SUITES

    scan = Store(options.store).scan(curves=options.figures is not None)
    warn_of_unreadable(scan)
    scale = chosen_scale(options, scan)
    held = cells(scan.of(options.suite, scale), options.suite, scale, code=installed_code())
    declared = SUITES[options.suite](scale) if options.suite in SUITES else None
    board = leaderboard_of(held, scan.probes, declared=declared, seeds_planned=options.seeds_planned)
    if options.output is None:
        show(leaderboard_text(board) if sys.stdout.isatty() else leaderboard_markdown(board))
    else:
        write(options.output, leaderboard_markdown(board).encode())
        say(options.output)
    if options.figures is not None:
        for path in _draw(options, scale, held.reported):
            (note if options.output is None else say)(path)
    return 0


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
