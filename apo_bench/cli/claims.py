"""``apo-bench claims``: the paper's claims C1 to C5, judged by what is in the store."""

import argparse
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from apo_bench.cli.options import add_json, add_store, installed_code, warn_of_unreadable, write
from apo_bench.cli.values import path_of
from apo_bench.errors import UsageError
from apo_bench.say import say, show, show_json

if TYPE_CHECKING:
    from apo_bench.evidence.cells import Cells
    from apo_bench.records.spec import Scale
    from apo_bench.store.scan import Scan


HELP = "judge the paper's claims C1 to C5 by what is in the store"
DESCRIPTION = (
    "Judge the paper's claims C1 to C5 by what is in the store: supported, contradicted, mixed, undecided, or not "
    "judged, because no ground can decide. Prints the verdicts with what they rest on: lines on a terminal, the "
    "Markdown page into a pipe or a file."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--scale",
        metavar="SCALE",
        default="study",
        help="smoke, local, study or paper (default: study, made for claims)",
    )
    parser.add_argument(
        "--output", type=path_of("--output"), metavar="FILE", help="write the Markdown page to FILE instead"
    )
    add_json(parser)
    add_store(parser)


def call(options: argparse.Namespace) -> int:
    """Print or write the verdicts.

    Raises:
        UsageError: Unknown scale, or there is no store.
    """
    from apo_bench.cli.selection import parse_scale
    from apo_bench.evidence.cells import cells
    from apo_bench.evidence.claims import judge
    from apo_bench.evidence.step_costs import Probes
    from apo_bench.render.claims import claims_json, claims_markdown, claims_text
    from apo_bench.store.store import Store
    from apo_bench.suites.claims import claims, suites_of

    scale = parse_scale(options.scale)
    suites = suites_of(scale)
    if not options.store.is_dir():
        raise UsageError(
            f"no results at {options.store}; run `apo-bench run --suite {next(iter(suites))} --scale {scale}`, or name "
            "another folder with --store"
        )
    scan = Store(options.store).scan(curves=False)
    warn_of_unreadable(scan)
    code = installed_code()
    held = {name: cells(found, name, scale, code=code) for name in suites if (found := scan.of(name, scale))}
    judged = judge(claims(scale), suites, held, Probes(scan.probes))
    notes = (*_none(options, scan, scale, suites, held), *_notes(held))
    if options.output is not None:
        write(options.output, claims_markdown(judged, scale, notes).encode())
    if options.json:
        show_json(claims_json(judged, scale, notes))
    elif options.output is not None:
        say(options.output)
    else:
        show((claims_text if sys.stdout.isatty() else claims_markdown)(judged, scale, notes))
    return 0


def _none(
    options: argparse.Namespace, scan: "Scan", scale: "Scale", suites: "Collection[str]", held: "Collection[str]"
) -> Iterator[str]:
    """Where there is nothing to judge, how to make it, or where it is."""
    from apo_bench.records.spec import Scale

    if held:
        return
    others = [other for other in Scale if any(other in scan.scales(name) for name in suites)]
    where = f"; there are results at scale {', '.join(others)} (--scale)" if others else ""
    yield (
        f"No runs decide a claim at scale {scale} in {options.store}{where}. The commands below make them; with --plan "
        "they only say what that takes."
    )


def _notes(held: "Mapping[str, Cells]") -> Iterator[str]:
    """What a reader must know of the runs."""
    for name, own in held.items():
        if own.outdated:
            yield f"Suite {name}: {len(own.outdated)} cells are of another version of the code than the installed one."
        if own.left_out:
            yield f"Suite {name}: {own.left_out} runs of other code or data are left out."
