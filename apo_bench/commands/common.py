"""What several commands share: the store, its damage, and scalars on the command line."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from apo_bench.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from apo_bench.spec import Scale
    from apo_bench.store import Scan

_DEFAULT_STORE = "apo-bench-results"


def add_store(parser: argparse.ArgumentParser) -> None:
    """Declare ``--store``."""
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        default=Path(os.environ.get("APO_BENCH_STORE", _DEFAULT_STORE)),
        help=f"folder of the results (default: $APO_BENCH_STORE or {_DEFAULT_STORE})",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def warn_of_damage(scan: "Scan") -> None:
    """Name every damaged record in a line of its own."""
    for damaged in scan.damaged:
        print(
            f"apo-bench: damaged record set aside: {damaged.path} ({damaged.reason}); `apo-bench run` makes it anew",
            file=sys.stderr,
        )


def write(path: Path, data: bytes, *, option: str = "--output") -> None:
    """Write a file that the user named.

    Raises:
        UsageError: It cannot be written.
    """
    from apo_bench.files import write_durably

    try:
        write_durably(path, data)
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror}); name another place with {option}") from error


def chosen_scale(options: argparse.Namespace, scan: "Scan") -> "Scale":
    """The scale that a reading command means: the one it names, or the largest of the suite that the store holds.

    Raises:
        UsageError: Unknown suite or scale, or the store holds nothing of it.
    """
    from apo_bench.selection import parse_scale
    from apo_bench.spec import Scale
    from apo_bench.suites import SUITES

    if options.suite not in SUITES:
        raise UsageError(f"unknown suite {options.suite!r}{did_you_mean(options.suite, SUITES)}")
    held = sorted({record.scale for record in scan.records if record.suite == options.suite}, key=list(Scale).index)
    if not held:
        raise UsageError(f"no results of suite {options.suite!r} in {options.store}; run it first")
    scale = parse_scale(options.scale) if options.scale else held[-1]
    if scale not in held:
        raise UsageError(
            f"no results of suite {options.suite!r} at scale {str(scale)!r} in {options.store}; "
            f"there are: {', '.join(held)}"
        )
    return scale
