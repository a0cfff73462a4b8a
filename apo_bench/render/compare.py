"""A comparison as lines for a terminal, as a Markdown page and as JSON. Rendering only."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from tabulate import tabulate

from apo_bench.evidence.compare import Comparison, Table
from apo_bench.evidence.estimates import ValueScale
from apo_bench.evidence.findings import Finding, Row
from apo_bench.evidence.quantities import Quantity
from apo_bench.records.cell import Workload
from apo_bench.render.terminal import paragraph, terminal_table
from apo_bench.text import MISSING, epochs, escaped, printable, quantity

_LISTED = 5
"""Names in a line of reasons; the others are counted."""
_LEGEND = (
    "A difference is B − A, a ratio B / A; in brackets stands its 95 % interval, simultaneous over the cells of the "
    "table for each quantity. Counts have no noise and no interval. Worse and better speak of B. Identical is what is "
    "equal to the last bit."
)
_PAIRED = "The seeds that both have are compared one by one (paired)."
_UNPAIRED = "Two optimizers are compared without pairing their seeds."


def compare_text(found: Comparison) -> str:
    """What differs and what does not, in two sentences; a table a task; what is on one side only."""
    blocks = [paragraph(printable(_sentences(found))), "\n".join(map(_line, _sides(found)))]
    for table in found.tables:
        blocks.append(paragraph(printable(_title(table))))
        blocks += [_text_table(table)] if _shown(table) else []
        blocks += [paragraph(printable(line), hang="  ") for line in _notes(table)]
    blocks += ["\n".join(map(_line, lines)) for lines in (_only(found), _doubts(found)) if lines]
    blocks.append(paragraph(_legend(found)))
    return "\n\n".join(blocks)


def compare_markdown(found: Comparison) -> str:
    """The same as a page."""
    blocks = [f"# {escaped(found.b)} against {escaped(found.a)}", escaped(_sentences(found))]
    blocks.append("\n".join(f"- {escaped(line)}" for line in _sides(found)))
    for table in found.tables:
        blocks.append(f"## {escaped(_title(table))}")
        blocks += [_markdown_table(table)] if _shown(table) else []
        blocks += [escaped(line) for line in _notes(table)]
    for title, lines in (("Not compared", _only(found)), ("Doubts", _doubts(found))):
        if lines:
            blocks += [f"## {title}", "\n".join(f"- {escaped(line)}" for line in lines)]
    return "\n\n".join([*blocks, _legend(found), ""])


def compare_json(found: Comparison) -> dict[str, Any]:
    """The same for a program, nothing rounded."""
    return {
        "a": {"name": found.a, "made": list(found.made[0]), "left_out": found.left_out[0]},
        "b": {"name": found.b, "made": list(found.made[1]), "left_out": found.left_out[1]},
        "summary": _sentences(found),
        "paired": found.paired,
        "cells": found.pairs,
        "identical": list(found.identical),
        "changed": None if found.changed is None else dict(found.changed),
        "counts": {str(finding): found.counts[finding] for finding in Finding},
        "tables": [
            {
                "task": table.workload.task,
                "device": str(table.workload.device),
                "epochs": table.workload.epochs,
                "metric": table.metric,
                "family": table.pairs,
                "rows": [_row_json(row) for row in table.rows],
            }
            for table in found.tables
        ],
        "only": [
            {
                "side": one.side or None,
                "task": one.workload.task,
                "device": str(one.workload.device),
                "epochs": one.workload.epochs,
                "competitor": one.name,
                "reason": one.reason,
            }
            for one in found.only
        ],
    }


def _row_json(row: Row) -> dict[str, Any]:
    made = row.estimate
    return {
        "competitor": row.name,
        "quantity": row.quantity.name,
        "unit": row.quantity.unit,
        "a": row.before,
        "b": row.after,
        "difference" if made.scale is ValueScale.LINEAR else "ratio": made.value,
        "low": made.low,
        "high": made.high,
        "n": made.n,
        "finding": str(row.finding),
        "reason": row.reason,
        "doubt": made.doubt,
        "seeds_needed": made.seeds_needed,
    }


def _sentences(found: Comparison) -> str:
    """What differs, and what does not."""
    counts, total = found.counts, len(found.rows)
    if not total:
        return "Nothing can be compared: A and B have no result of the same cell with the same seed in common."
    where = f"{_count(found.pairs, 'cell')} on {_count(len(found.tables), 'table')}"
    if counts[Finding.IDENTICAL] == total and len(found.identical) == found.pairs:
        return f"A and B are identical to the last bit in all {total} comparisons of {where}{_code(found)}."
    if counts[Finding.WORSE] or counts[Finding.BETTER]:
        first = f"B is worse in {counts[Finding.WORSE]} and better in {counts[Finding.BETTER]} of {total} comparisons"
    else:
        first = f"No difference is claimed in {total} comparisons"
    kept = (Finding.IDENTICAL, Finding.UNDECIDED, Finding.UNJUDGED)
    others = ", ".join(f"{counts[finding]} {finding}" for finding in kept if counts[finding])
    first += f" of {where}{f' ({others})' if others else ''}."
    if not found.paired:
        return first
    if not found.identical:
        return f"{first} No cell is identical to the last bit{_code(found)}."
    return f"{first} {len(found.identical)} of {found.pairs} cells are identical to the last bit{_code(found)}."


def _code(found: Comparison) -> str:
    """What the two sides say of their code."""
    if found.changed is None:
        return " (not both sides say with which code)"
    if not found.changed:
        return (
            ": same code, same data, and runs are deterministic" if found.identical else "; code and data are the same"
        )
    parts = ", ".join(f"{part} in {count}" for part, count in found.changed.items())
    return f"; of {_count(found.pairs, 'cell')}, code or data differ: {parts}"


def _sides(found: Comparison) -> list[str]:
    lines = []
    for side, name, made, left_out in zip("AB", (found.a, found.b), found.made, found.left_out, strict=True):
        shown = [*made[:_LISTED], *([f"{len(made) - _LISTED} more"] if len(made) > _LISTED else [])]
        lines.append(f"{side}: {name} ({' | '.join(shown)})" if shown else f"{side}: {name}")
        if left_out:
            lines.append(
                f"{side}: {_count(left_out, 'run')} of other code or data than the rest of their cells left out"
            )
    return lines


def _title(table: Table) -> str:
    return f"{_place(table.workload)}{f'; {table.metric}' if table.metric else ''}"


def _place(workload: Workload) -> str:
    return f"{workload.task} on {workload.device}, {epochs(workload.epochs)}"


def _shown(table: Table) -> list[Row]:
    """What has a line of its own: what differs, and can be compared or is claimed."""
    claimed = (Finding.WORSE, Finding.BETTER)
    return [
        row
        for row in table.rows
        if row.finding in claimed
        or (row.finding is not Finding.IDENTICAL and row.before is not None and row.after is not None)
    ]


def _markdown_table(table: Table) -> str:
    rows = [
        [escaped(row.name), row.quantity.title, *_numbers(row), str(row.estimate.n), _verdict(row)]
        for row in _shown(table)
    ]
    headers = ["competitor", "quantity", "A", "B", "B against A", "n", "B is"]
    aligned = ["left", "left", *["right"] * 4, "left"]
    return tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True, colalign=aligned)


_SHORT = {
    "train_loss": "train loss",
    "flops_per_step": "FLOPs",
    "operator_calls_per_step": "calls",
    "state_bytes": "state",
    "steps_to_target": "to target",
}


def _text_table(table: Table) -> str:
    lines: list[list[str]] = []
    previous = None
    for row in _shown(table):
        if row.name != previous:
            lines.append([printable(row.name), "", "", "", "", ""])
            previous = row.name
        title = _SHORT.get(row.quantity.name, row.quantity.title)
        lines.append([f"  {title}", *_numbers(row), str(row.estimate.n), str(row.finding)])
    return terminal_table(["", "A", "B", "B against A", "n", "B is"], lines, "<>>>><", wrapped=0)


def _verdict(row: Row) -> str:
    needed = row.estimate.seeds_needed
    if row.finding is Finding.UNDECIDED and needed is not None:
        return f"{row.finding} (about {needed} seeds)"
    return str(row.finding)


def _numbers(row: Row) -> list[str]:
    before, after = (_number(row.quantity, value) for value in (row.before, row.after))
    return [before, after, _change(row)]


def _number(of: Quantity, value: float | None) -> str:
    if value is None:
        return MISSING
    if of.name == "flops_per_step":
        return quantity(value)
    return f"{value:,.0f}" if of.unit == "B" else f"{value:.4g}"


def _change(row: Row) -> str:
    made = row.estimate
    if row.quantity.exact and row.before and row.after is not None:
        ratio = row.after / row.before
        return f"{100 * (ratio - 1):+.2g} %" if 0.5 < ratio < 2 else f"×{ratio:.3g}"  # noqa: PLR2004
    if row.quantity.exact and row.before is not None and row.after is not None:
        return f"{row.after - row.before:+,.0f}"
    if made.value is None:
        return MISSING
    is_ratio = made.scale is ValueScale.LOG
    own: Callable[[float], str] = (lambda x: f"{x:.3g}") if is_ratio else (lambda x: f"{x:+.3g}")
    value = f"×{own(made.value)}" if is_ratio else own(made.value)
    if made.low is None or made.high is None or made.low == made.high:
        return value
    return f"{value} [{own(made.low)}, {own(made.high)}]"


def _notes(table: Table) -> list[str]:
    """What is identical, why what is not judged is not, and why a run counts as worse."""
    lines = []
    same: dict[str, list[str]] = {}
    measured = Counter(row.quantity.title for row in table.rows)
    for row in table.rows:
        if row.finding is Finding.IDENTICAL:
            same.setdefault(row.quantity.title, []).append(row.name)
    everywhere = [title for title, names in same.items() if len(names) == measured[title]]
    if everywhere:
        lines.append(f"Identical in all cells that have it: {', '.join(everywhere)}.")
    lines += [f"Identical {title}: {_listed(names)}." for title, names in same.items() if title not in everywhere]
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        if row.reason and row.finding is not Finding.IDENTICAL:
            reasons.setdefault((f"{row.quantity.title} {row.finding}", row.reason), []).append(row.name)
    lines += [f"{what[:1].upper()}{what[1:]}, {reason}: {_listed(names)}." for (what, reason), names in reasons.items()]
    return lines


def _only(found: Comparison) -> list[str]:
    """A line for each task, side and reason."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for one in found.only:
        groups.setdefault((one.side, _place(one.workload), one.reason), []).append(one.name)
    return [
        f"{f'only in {side}: ' if side else ''}{place}: {', '.join(names)}{f' ({reason})' if reason else ''}"
        for (side, place, reason), names in groups.items()
    ]


def _doubts(found: Comparison) -> list[str]:
    doubts: dict[str, list[str]] = {}
    for table in found.tables:
        for row in table.rows:
            if row.estimate.doubt and row.finding is not Finding.IDENTICAL:
                where = f"{table.workload.task}, {row.name}, {row.quantity.title}"
                doubts.setdefault(row.estimate.doubt, []).append(where)
    lines = [f"{doubt}: {_listed(names)}" for doubt, names in doubts.items()]
    if found.families > 1:
        lines.append(
            f"{found.families} families of intervals were looked at; each claims a difference where there is none with "
            f"a probability of 5 % at most, so up to {0.05 * found.families:.2g} false claims are expected if nothing "
            "differs"
        )
    return lines


def _legend(found: Comparison) -> str:
    return f"{_LEGEND} {_PAIRED if found.paired else _UNPAIRED}"


def _listed(names: Iterable[str]) -> str:
    own = list(dict.fromkeys(names))
    rest = len(own) - _LISTED
    return ", ".join(own[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _line(text: str) -> str:
    return paragraph(printable(text), hang="   ")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
