"""A published table of runs, as `apo-bench export` writes it, read as one side of a comparison."""

import csv
import dataclasses
import io
import json
import math
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from apo_bench.errors import UsageError
from apo_bench.evidence.cells import Machine
from apo_bench.evidence.estimates import Sample
from apo_bench.evidence.judgements import scale_of
from apo_bench.evidence.quantities import QUANTITIES, Quantity, axis_of_name
from apo_bench.evidence.sides import COMPARED, EXACT, NOISY, REPEATED, STEP, Code, Entry, Side, Step, made_line
from apo_bench.evidence.sides import on_possible_scale as fitting
from apo_bench.records.cell import Cell
from apo_bench.records.facts import Direction, PrecisionBackend
from apo_bench.records.run import Role
from apo_bench.records.spec import OptimizerSpec, RunSpec

_NEEDED = (
    *("run_id", "task", "optimizer", "hyperparameters", "schedule", "precision", "seed", "outcome", "metric"),
    *("direction", "value", "epochs", "device"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_RESULTS = ("exhausted", "reached", "diverged")
_LOST = {"diverged": "diverged", "failed": "raised", "undefined": "has no score, its metric is undefined"}

Row = Mapping[str, str]


def published_side(name: str, text: str, *, suite: str | None = None, scale: str | None = None) -> Side:
    """Read a table in CSV; older ones have fewer columns, and what these would say is not known of them.

    Args:
        name: What the user called it.
        text: The table.
        suite: Only runs made for this suite.
        scale: Only runs at this scale.

    Raises:
        UsageError: It is no such table, or damaged.
    """
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = [column for column in _NEEDED if column not in (rows.fieldnames or ())]
        if missing:
            raise UsageError(
                f"{name} is no table of runs: it has no column {missing[0]!r}; give a CSV file that `apo-bench export` "
                "has written"
            )
        found: dict[Cell, list[tuple[RunSpec, Row]]] = defaultdict(list)
        for row in rows:
            if row.get("role") == Role.TUNING or suite not in {None, row.get("suite")}:
                continue
            if scale in {None, row.get("scale")}:
                run = _run(row)
                found[Cell.of(run)].append((run, row))
        known = frozenset(rows.fieldnames or ())
        entries = {cell: _entry(cell, own, known) for cell, own in found.items()}
    except (ValueError, TypeError, KeyError, csv.Error, msgspec.MsgspecError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{name}, line {rows.line_num}: {reason}; write it again with `apo-bench export`") from error
    return Side(name, entries, _made([row for own in found.values() for _, row in own]))


def _run(row: Row) -> RunSpec:
    run = msgspec.convert(
        {
            "task": _text(row["task"]),
            "optimizer": {
                "name": _text(row["optimizer"]),
                "hyperparameters": json.loads(row["hyperparameters"]),
                "schedule": json.loads(row["schedule"]),
            },
            "precision": row["precision"],
            "seed": int(row["seed"]),
            "budget": {"epochs": float(row["epochs"])},
            "device": row["device"],
            "compile": row.get("compile") == "True",
        },
        RunSpec,
    )
    if row["run_id"] not in {run.run_id, _without_schedule(run).run_id}:
        raise ValueError(f"what the row says is not run {row['run_id']}")
    return run


def _without_schedule(run: RunSpec) -> RunSpec:
    """The same run, its schedule left at the default where it is equal to that: its identity is another one."""
    optimizer = run.optimizer
    plain = OptimizerSpec(name=optimizer.name, hyperparameters=optimizer.hyperparameters)
    return msgspec.structs.replace(run, optimizer=plain) if plain == optimizer else run


def _text(cell: str) -> str:
    """What `apo_bench.text.in_csv` was given, where it put an apostrophe before it."""
    behind = unicodedata.normalize("NFKC", cell[1:].lstrip().lstrip("'").lstrip()[:1])
    return cell[1:] if cell.startswith("'") and (behind[:1] in _FORMULA or cell[1:2] in {"\t", "\r"}) else cell


def _number(row: Row, column: str) -> float | None:
    text = row.get(column)
    if not text:
        return None
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{column} is {text}, which is no finite number")
    return value


def _entry(cell: Cell, own: Sequence[tuple[RunSpec, Row]], known: frozenset[str]) -> Entry:
    first = own[0][1]
    metric = next((row["metric"] for _, row in own if row["metric"]), "")
    direction = next((row["direction"] for _, row in own if row["direction"]), "")
    quantities = {
        name: _on(QUANTITIES[name], metric, Direction(direction) if direction else None)
        for name in COMPARED
        if name in known
    }
    results = {run.seed: row for run, row in own if row["outcome"] in _RESULTS}
    lost = {run.seed: _LOST[row["outcome"]] for run, row in own if row["outcome"] in _LOST}
    diverged = sum(row["outcome"] == "diverged" for row in results.values())
    emulated = any(row.get("precision_backend") == PrecisionBackend.EMULATED for row in results.values())
    samples = {}
    for name in (*NOISY, *EXACT):
        values = {seed: value for seed, row in results.items() if (value := _number(row, name)) is not None}
        if name in EXACT and emulated:
            values = {}
        sample = Sample(values, scale_of(quantities.get(name, QUANTITIES[name])))
        if name in NOISY:
            sample = dataclasses.replace(sample, diverged=diverged, failed=len(lost) - diverged)
        samples[name] = fitting(sample)
    return Entry(
        cell=cell,
        metric=metric,
        quantities=quantities,
        samples=samples,
        repeated={seed: _repeated(row, known) for seed, row in results.items()},
        lost=lost,
        code=_code(first),
        machine=_machine(first),
        step=_step(own),
        is_emulated=emulated,
    )


def _on(quantity: Quantity, metric: str, direction: Direction | None) -> Quantity:
    if not quantity.is_metric:
        return quantity.on(None)
    return dataclasses.replace(quantity, unit=metric, direction=direction, axis=axis_of_name(metric))


def _repeated(row: Row, known: frozenset[str]) -> dict[str, float | None]:
    return {
        "diverged": row["outcome"] == "diverged",
        **{name: _number(row, name) for name in REPEATED if name in known},
    }


def _code(row: Row) -> Code | None:
    parts = [row.get(f"code_{part}") or "" for part in ("harness", "task", "optimizer", "data")]
    if not all(parts):
        return None
    harness, task, optimizer, data = parts
    return Code(harness, task, optimizer, row.get("torch_version") or "", data)


def _machine(row: Row) -> Machine | None:
    return Machine(row["device_name"], int(row["threads"])) if row.get("device_name") and row.get("threads") else None


def _step(own: Sequence[tuple[RunSpec, Row]]) -> Step | None:
    for _, row in own:
        ratio = _number(row, STEP)
        if ratio is not None:
            doubts = row.get("probe_doubts")
            return Step(ratio, flags=tuple(doubts.split("; ")) if doubts else ())
    return None


def _made(rows: Sequence[Row]) -> tuple[str, ...]:
    columns = ("git_sha", "dirty", "torch_version", "device_name", "threads")
    places = dict.fromkeys(tuple(row.get(column) or "" for column in columns) for row in rows)
    return tuple(
        made_line(sha or None, dirty == "True", torch or "unknown", device or "machine unknown", int(n) if n else None)
        for sha, dirty, torch, device, n in places
        if any((sha, torch, device))
    )
