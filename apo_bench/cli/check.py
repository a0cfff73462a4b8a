"""``apo-bench check``: hold a suite to its baseline; for CI."""

import argparse
import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from apo_bench.cli.options import add_json, add_store, chosen_scale, warn_of_unreadable, write
from apo_bench.cli.values import TOLERANCE, path_of
from apo_bench.errors import UsageError, shown
from apo_bench.say import say, show, show_json, warn

if TYPE_CHECKING:
    from apo_bench.evidence.cells import Cells
    from apo_bench.evidence.check import Quantity, Tolerances
    from apo_bench.records.run import RunRecord
    from apo_bench.records.snapshot import Snapshot
    from apo_bench.records.spec import Scale
    from apo_bench.store.scan import Scan


HELP = "fail when anything is worse than in a saved baseline"
DESCRIPTION = (
    "Hold the results of a suite to a baseline: FLOPs of a step and bytes of state exactly, quality by paired "
    "differences over seeds, the cost of a step by the intervals of probes. Exit status 1 where something is worse or "
    "missing. Save the baseline with --save and commit it; run the suite, and probe it, before each check."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--baseline", type=path_of("--baseline"), metavar="FILE", help="compare with FILE")
    what.add_argument(
        "--save", type=path_of("--save"), metavar="FILE", help="write what the store holds of --suite to FILE"
    )
    parser.add_argument("--suite", metavar="NAME", help="with --save: which; see `apo-bench list suites`")
    parser.add_argument("--scale", metavar="SCALE", help="with --save: smoke, local or paper; by default the largest")
    parser.add_argument(
        "--hold", metavar="A,B", help="compare these of flops, calls, state, quality, step (default: all but calls)"
    )
    parser.add_argument(
        "--tolerance",
        metavar="A=N,B=N",
        help="what may become worse: flops, calls, state and step as a share (default 0, step 0.03), quality in the "
        "metric's unit (default 0)",
    )
    parser.add_argument(
        "--output",
        type=path_of("--output"),
        metavar="FILE",
        help="also write everything as a Markdown page to FILE",
    )
    add_json(parser)
    add_store(parser)


def call(options: argparse.Namespace) -> int:
    """Save a baseline, or compare with one; returns the exit status."""
    from apo_bench.store.store import Store

    held, tolerances = _held(options), _tolerances(options)
    if options.save is not None:
        if options.suite is None:
            raise UsageError("--save needs --suite NAME")
        scan = Store(options.store).scan(curves=False)
        warn_of_unreadable(scan)
        return _save(options, scan)
    before = _read(options.baseline)
    _check_suite(options, before)
    scan = Store(options.store).scan(curves=False)
    warn_of_unreadable(scan)
    return _compare(options, before, scan, held, tolerances)


def _save(options: argparse.Namespace, scan: "Scan") -> int:
    from apo_bench.evidence.snapshot import snapshot_of_cells
    from apo_bench.records.snapshot import encode_snapshot

    scales = scan.scales(options.suite)
    if options.scale is None and len(scales) > 1:
        raise UsageError(f"{options.store} holds {options.suite!r} at {', '.join(scales)}; give --scale")
    scale = chosen_scale(options, scan)
    destination = options.save.absolute()  # before a plugin changes the folder
    held = _current(scan.of(options.suite, scale), options.suite, scale)
    for record in held.reported:
        if not record.is_result:
            warn(f"{record.spec.title} has no result and is left out; run the suite again")
    made = snapshot_of_cells(held, scan.probes)
    if not made.cells:
        raise UsageError(f"nothing to save: no result of {options.suite!r} at scale {str(scale)!r} in {options.store}")
    write(destination, encode_snapshot(made), option="--save")
    runs = sum(len(cell.seeds) for cell in made.cells)
    say(f"{options.save}: {options.suite}, scale {scale}: {len(made.cells)} cells, {runs} runs; commit it")
    return 0


def _compare(
    options: argparse.Namespace,
    before: "Snapshot",
    scan: "Scan",
    held: "tuple[Quantity, ...]",
    tolerances: "Tolerances",
) -> int:
    from apo_bench.evidence.check import check
    from apo_bench.evidence.snapshot import snapshot_of_cells
    from apo_bench.render.check import check_markdown, check_text

    page = options.output and options.output.absolute()  # before a plugin changes the folder
    now = snapshot_of_cells(_current(scan.of(before.suite, before.scale), before.suite, before.scale), scan.probes)
    findings = check(before, now, held, tolerances)
    name = options.baseline.name
    holds = not any(finding.verdict.fails for finding in findings)
    if page is not None:
        write(page, check_markdown(findings, before, now, name).encode())
    with contextlib.suppress(BrokenPipeError):  # the reader closed the pipe; the verdict stands
        if options.json:
            found = [dataclasses.asdict(finding) for finding in findings]
            told = {"suite": before.suite, "scale": before.scale, "holds": holds, "findings": found}
            show_json(told)
        else:
            show(check_text(findings, before, now, name), flush=True)
    return 0 if holds else 1


def _current(records: "Iterable[RunRecord]", suite: str, scale: "Scale") -> "Cells":
    """The cells whose results `run` would reuse today; says what is left out."""
    from apo_bench.evidence.cells import Made, cells
    from apo_bench.planning.reuse import Sources
    from apo_bench.plugins.registry import optimizers, tasks

    sources = Sources(tasks(), optimizers())
    held = cells(records, suite, scale, code=sources.fingerprint)
    for line in sources.missing.values():
        warn(line)
    kept = tuple(runs for runs in held.cells if runs.made is Made.INSTALLED)
    others = sum(one.left_out for one in held.cells)
    others += sum(len(runs.results) for runs in held.cells if runs.made is not Made.INSTALLED)
    if others:
        warn(f"{others} results from a different version of the code or the data are ignored")
    return dataclasses.replace(held, cells=kept)


_MOST_BYTES = 2**26
"""Of a baseline: far more than one has."""


def _read(path: Path) -> "Snapshot":
    from apo_bench.records.snapshot import decode_snapshot

    try:
        with path.open("rb") as file:  # a link or a pipe too: the user has named it
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror}); save a baseline with --save") from error
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{path} is no baseline (it has more than {_MOST_BYTES:,} bytes); save one with --save")
    return decode_snapshot(data, str(path))


def _check_suite(options: argparse.Namespace, before: "Snapshot") -> None:
    """The baseline says what it is of; another on the command line is a mistake."""
    for name in ("suite", "scale"):
        asked, own = getattr(options, name), str(getattr(before, name))
        if asked not in {None, own}:
            raise UsageError(f"{options.baseline} is of {name} {own!r}, not {asked!r}; leave --{name} out")


def _held(options: argparse.Namespace) -> "tuple[Quantity, ...]":
    from apo_bench.evidence.check import HELD

    if options.hold is None:
        return HELD
    return tuple(_quantity(name) for name in options.hold.split(","))


def _tolerances(options: argparse.Namespace) -> "Tolerances":
    from apo_bench.evidence.check import Tolerances

    given: dict[str, float] = {}
    for part in () if options.tolerance is None else options.tolerance.split(","):
        name, _, text = part.partition("=")
        quantity = _quantity(name)
        try:
            value = TOLERANCE.read("N", text)
        except UsageError as error:
            raise UsageError(
                f"--tolerance {shown(part, quote=False)}: expected {quantity}=N with N not below 0, for example "
                f"{quantity}=0.05; {error}"
            ) from None
        if str(quantity) in given:
            raise UsageError(f"--tolerance names {quantity} twice; give it once")
        given[str(quantity)] = value
    return Tolerances(**given)


def _quantity(name: str) -> "Quantity":
    from apo_bench.cli.selection import known
    from apo_bench.evidence.check import Quantity

    return Quantity(known(name, [str(quantity) for quantity in Quantity], "quantity"))
