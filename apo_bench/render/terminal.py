"""Tables and paragraphs for a terminal: they fit its width, and no cell is broken."""

import shutil
import textwrap
from collections.abc import Sequence

from apo_bench.text import columns, printable

_GAP = "  "
_NARROWEST = 40
_WIDEST = 120


def width() -> int:
    """Columns of the terminal, 80 where there is none; at most as wide as a line is read well."""
    return min(max(shutil.get_terminal_size((80, 24)).columns, _NARROWEST), _WIDEST)


def terminal_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], align: str, *, wrapped: int | None = None
) -> str:
    """Lay out rows under headers, each column as wide as its widest cell and no wider.

    Args:
        headers: One a column.
        rows: Cells, one a column.
        align: ``<`` or ``>`` a column.
        wrapped: The column whose cells go on below themselves where the table would be wider than the terminal. Lines
            within its cells are kept; those of a name in any other cell are escaped.
    """
    rows = [[cell if place == wrapped else printable(cell) for place, cell in enumerate(row)] for row in rows]
    lines: list[list[Sequence[str]]] = [[row] for row in rows]
    if wrapped is not None:
        others = sum(wide for column, wide in enumerate(_widths([headers, *rows])) if column != wrapped)
        left = max(width() - others - len(_GAP) * (len(headers) - 1), _NARROWEST // 2)
        lines = [list(_unfolded(row, wrapped, left)) for row in rows]
    laid = [headers, *(line for row in lines for line in row)]
    widths = _widths(laid)
    rule = ["-" * wide for wide in widths]
    return "\n".join(
        _GAP.join(_padded(cell, side, wide) for cell, side, wide in zip(row, align, widths, strict=True)).rstrip()
        for row in (headers, rule, *laid[1:])
    )


def _padded(cell: str, side: str, wide: int) -> str:
    padding = " " * (wide - columns(cell))
    return cell + padding if side == "<" else padding + cell


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(columns, column)) for column in zip(*rows, strict=True)]


def _unfolded(row: Sequence[str], wrapped: int, columns: int) -> list[list[str]]:
    """The lines of a row: all but one column are empty after the first."""
    first, *others = _wrapped(row[wrapped], columns)
    begin = [*row[:wrapped], first, *row[wrapped + 1 :]]
    return [begin, *([""] * wrapped + [line] + [""] * (len(row) - wrapped - 1) for line in others)]


def _wrapped(text: str, columns: int) -> list[str]:
    lines = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()))
        lines += textwrap.wrap(
            line, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or [""]
    return lines


def paragraph(text: str, indent: str = "", hang: str = "") -> str:
    """Fill lines to the width of the terminal; names stay whole.

    Args:
        text: One paragraph.
        indent: Before the first line.
        hang: Before the others, in addition.
    """
    return textwrap.fill(
        text,
        width(),
        initial_indent=indent,
        subsequent_indent=indent + hang,
        break_long_words=False,
        break_on_hyphens=False,
    )
