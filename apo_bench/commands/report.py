"""``apo-bench report``: the leaderboard of what is in the store."""

import argparse
from pathlib import Path

from apo_bench.commands.common import add_store, chosen_scale, warn_of_damage, write

HELP = "print the leaderboard of what is in the store"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--suite", required=True, metavar="NAME", help="see `apo-bench list suites`")
    parser.add_argument("--scale", metavar="SCALE", help="smoke, local or paper; by default the largest there is")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the Markdown page to FILE instead")
    add_store(parser)


def call(options: argparse.Namespace) -> int:
    """Print or write the page."""
    from apo_bench.evidence.leaderboard import leaderboard
    from apo_bench.report.markdown import leaderboard_markdown
    from apo_bench.store import Store

    scan = Store(options.store).scan()
    warn_of_damage(scan)
    scale = chosen_scale(options, scan)
    page = leaderboard_markdown(leaderboard(options.suite, scale, scan.newest().values()))
    if options.output is None:
        print(page)
    else:
        write(options.output, page.encode())
        print(options.output)
    return 0
