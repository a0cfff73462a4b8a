"""``apo-bench compare``: two stores, published tables, revisions or optimizers against each other."""

import argparse
import contextlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from apo_bench.cli.options import add_json, add_store, installed_code, warn_of_unreadable, write
from apo_bench.cli.values import checked_path, path_of
from apo_bench.errors import UsageError, did_you_mean, shown
from apo_bench.say import say, show, show_json

if TYPE_CHECKING:
    from apo_bench.evidence.cells import Cells
    from apo_bench.evidence.compare import Comparison
    from apo_bench.evidence.sides import Side
    from apo_bench.records.contrast import Selector
    from apo_bench.records.run import RunRecord
    from apo_bench.records.spec import Scale
    from apo_bench.store.scan import Scan

HELP = "compare two stores, published tables, revisions or optimizers"
DESCRIPTION = (
    "Compare B with A. Both are stores or published tables (a folder with runs.csv, or such a file as `apo-bench "
    "export` writes it), or both are of one --store: revisions (of git, or the beginning of a code fingerprint) or "
    "optimizers, with a setting where there are several (sgdm:lr=0.1, sgdm:step, sgdm:fp16). Exit status 1 where "
    "something is worse in B beyond doubt, 3 where nothing can be compared."
)
_RUNS = "runs.csv"
_MOST_BYTES = 2**30
_REVISION = re.compile(r"[0-9a-f]{4,64}")
_NOTHING = 3
_SCHEDULES = ("constant", "step", "cosine")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("a", metavar="A", help="what B is compared with")
    parser.add_argument("b", metavar="B", help="of what better and worse are said")
    parser.add_argument("--suite", metavar="NAME", help="only runs of this suite")
    parser.add_argument("--scale", metavar="SCALE", help="only runs at this scale")
    parser.add_argument(
        "--output", type=path_of("--output"), metavar="FILE", help="write the Markdown page to FILE instead"
    )
    add_json(parser)
    add_store(parser)


def call(options: argparse.Namespace) -> int:
    """Print or write the comparison; returns the exit status."""
    from apo_bench.evidence.findings import Finding
    from apo_bench.render.compare import compare_json, compare_markdown, compare_text

    if options.scale is not None:
        from apo_bench.cli.selection import parse_scale

        parse_scale(options.scale)
    found = _compared(options)
    if options.output is not None:
        write(options.output, compare_markdown(found).encode())
    with contextlib.suppress(BrokenPipeError):  # the reader closed the pipe; the verdict stands
        if options.json:
            show_json(compare_json(found))
        elif options.output is not None:
            say(options.output)
        else:
            show(compare_text(found) if sys.stdout.isatty() else compare_markdown(found), flush=True)
    if not found.rows:
        return _NOTHING
    return 1 if found.counts[Finding.WORSE] else 0


def _compared(options: argparse.Namespace) -> "Comparison":
    from apo_bench.evidence.compare import compare_sides

    places = [_place(text) for text in (options.a, options.b)]
    if places[0] is not None and places[1] is not None:
        return compare_sides(*(_side(place, text, options) for place, text in _named(places, options)))
    for place, other in ((places[0], options.b), (places[1], options.a)):
        if place is not None:
            raise UsageError(
                f"{place} is a store or a published table, and {shown(other)} is neither; give two of these, or name "
                "two revisions or optimizers of one --store"
            )
    return _within(options)


def _named(places: Iterable[Path | None], options: argparse.Namespace) -> list[tuple[Path, str]]:
    return [(place, text) for place, text in zip(places, (options.a, options.b), strict=True) if place is not None]


def _place(text: str) -> Path | None:
    """Where a store or a published table lies; `None` where there is none."""
    path = checked_path("A and B", text)
    if path.is_file():
        return path
    if (path / "runs").is_dir():
        return path
    return path / _RUNS if (path / _RUNS).is_file() else None


def _side(place: Path, name: str, options: argparse.Namespace) -> "Side":
    from apo_bench.evidence.published import published_side
    from apo_bench.evidence.sides import side_of
    from apo_bench.evidence.step_costs import Probes
    from apo_bench.files import read_regular
    from apo_bench.store.store import Store

    if not place.is_file():
        scan = Store(place).scan(curves=False)
        warn_of_unreadable(scan)
        return side_of(name, _cells(scan, options), Probes(scan.probes))
    try:
        text = read_regular(place, _MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read {place} ({reason}); give a file that `apo-bench export` has written") from error
    return published_side(name, text, suite=options.suite, scale=options.scale)


def _suites(scan: "Scan", options: argparse.Namespace) -> "list[tuple[str, Scale]]":
    return [
        (suite, scale)
        for suite, scale in sorted({*scan.suites, *scan.shared})
        if options.suite in {None, suite} and options.scale in {None, str(scale)}
    ]


def _cells(scan: "Scan", options: argparse.Namespace, revision: str | None = None) -> "list[Cells]":
    from apo_bench.evidence.cells import cells

    code = installed_code() if revision is None else None
    found = []
    for suite, scale in _suites(scan, options):
        records = scan.of(suite, scale)
        own = records if revision is None else [record for record in records if revision in _revisions(record)]
        found.append(cells(own, suite, scale, code=code))
    return found


def _revisions(record: "RunRecord") -> set[str]:
    """What a revision may be called by: that of git, and the fingerprint's parts of code."""
    made = record.fingerprint
    sha = record.environment.git_sha if record.environment else None
    return {made.harness, made.task, made.optimizer, *([sha] if sha else [])}


def _within(options: argparse.Namespace) -> "Comparison":
    """Compare what one store holds."""
    from apo_bench.evidence.compare import compare_optimizers, compare_sides
    from apo_bench.evidence.sides import side_of
    from apo_bench.evidence.step_costs import Probes
    from apo_bench.store.store import Store

    scan = Store(options.store).scan(curves=False)
    warn_of_unreadable(scan)
    records = scan.records
    optimizers = {record.spec.optimizer.name for record in records}
    revisions = set().union(*map(_revisions, records)) if records else set()
    probes = Probes(scan.probes)
    if all(text.partition(":")[0] in optimizers for text in (options.a, options.b)):
        sides = [_selector(text) for text in (options.a, options.b)]
        if sides[0] == sides[1]:
            raise UsageError(f"A and B are both {shown(sides[0].words)}; name another for one of them")
        return compare_optimizers(sides[0], sides[1], _cells(scan, options), probes)
    for text in (options.a, options.b):
        if text.partition(":")[0] not in optimizers and not _matching(text, revisions):
            raise UsageError(
                f"{shown(text)} is no store or published table, and {options.store} has no such optimizer or revision"
                f"{did_you_mean(text, optimizers | _short(records))}"
            )
    if any(text.partition(":")[0] in optimizers and not _matching(text, revisions) for text in (options.a, options.b)):
        raise UsageError("A and B must both be optimizers, or both be revisions; name two of a kind")
    one, other = (_revision(text, revisions) for text in (options.a, options.b))
    if one == other:
        raise UsageError(f"A and B are both revision {one[:12]}; name another for one of them")
    return compare_sides(
        side_of(options.a, _cells(scan, options, one), probes), side_of(options.b, _cells(scan, options, other), probes)
    )


def _short(records: "Iterable[RunRecord]") -> set[str]:
    """Revisions of git, as they are shown."""
    return {made.git_sha[:12] for record in records if (made := record.environment) is not None and made.git_sha}


def _matching(text: str, revisions: set[str]) -> list[str]:
    if text in revisions:
        return [text]
    return sorted(name for name in revisions if name.startswith(text)) if _REVISION.fullmatch(text) else []


def _revision(text: str, revisions: set[str]) -> str:
    found = _matching(text, revisions)
    if len(found) > 1:
        listed = ", ".join(name[:12] for name in found)
        raise UsageError(f"{shown(text)} may be any of {listed}; give more of its digits")
    return found[0]


def _selector(text: str) -> "Selector":
    """An optimizer with what tells its cell from others of it: ``NAME:FIELD=VALUE,SCHEDULE,PRECISION``."""
    from apo_bench.cli.selection import parse_scalar
    from apo_bench.records.contrast import Selector
    from apo_bench.records.spec import Precision, Scalar

    name, _, rest = text.partition(":")
    setting: dict[str, Scalar] = {}
    schedule, precision = None, None
    for part in filter(None, rest.split(",")):
        field, has_value, value = part.partition("=")
        if has_value:
            setting[field] = parse_scalar(value)
        elif part in list(Precision):
            precision = Precision(part)
        elif part in _SCHEDULES:
            schedule = part
        else:
            raise UsageError(
                f"{shown(text)}: {shown(part)} is no FIELD=VALUE"
                f"{did_you_mean(part, [*_SCHEDULES, *map(str, Precision)])}"
            )
    return Selector(optimizer=name, schedule=schedule, setting=setting, precision=precision)
