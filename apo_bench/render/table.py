"""A table of runs as CSV, JSON Lines or Parquet."""

import functools
import io
import re
from typing import Any

import msgspec
import pandas as pd

from apo_bench.text import in_csv, in_json

_QUOTED = re.compile(r'[,;"\n]')
"""Cells with any of these stand in quotation marks; some spreadsheets take a semicolon for the end of a cell."""


def encode_table(frame: pd.DataFrame, form: str) -> bytes:
    """Encode as ``csv``, ``jsonl`` or ``parquet``; of a text, the first is safe for spreadsheets, the others exact."""
    if form == "parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return buffer.getvalue()
    columns = [_values(frame[name]) for name in frame.columns]
    if form == "jsonl":
        rows = (dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True))
        return "".join(f"{in_json(msgspec.json.encode(row).decode())}\n" for row in rows).encode()
    cell = functools.cache(_cell)  # most texts stand in many rows
    written = [[cell(value) if isinstance(value, str) else _cell(value) for value in column] for column in columns]
    lines = [",".join(map(_cell, frame.columns)), *map(",".join, zip(*written, strict=True))]
    return "".join(f"{line}\n" for line in lines).encode()


def _values(column: "pd.Series[Any]") -> list[Any]:
    """As Python has them, nothing rounded; what is missing is `None`."""
    return [None if gone else value for value, gone in zip(column.tolist(), column.isna().tolist(), strict=True)]


def _cell(value: object) -> str:
    """A number stays a number; a missing value is empty."""
    if not isinstance(value, str):
        return "" if value is None else str(value)
    text = in_csv(value)
    return '"{}"'.format(text.replace('"', '""')) if _QUOTED.search(text) else text
